//! Collects mistakes and warnings while a configuration is checked, so that all of them are reported at once.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use serde::de::DeserializeOwned;

use super::mistake::{Location, Mistake, Mistakes, closest, quote};
use super::setting::{Interval, Section, Setting, TextList, key_names};
use super::sources::{ConfigSources, Document, KeyPath};

/// Keys that are planned. They are rejected until they have an effect.
const PLANNED: [&str; 4] = ["privacy", "web.web_config_file", "web.enable_reload", "store.url"];

/// How many files the warning about readable secrets lists.
const MAX_LISTED_FILES: usize = 3;

/// The mistakes and warnings found so far.
pub(super) struct Findings {
    sources: ConfigSources,
    mistakes: Vec<Mistake>,
    warnings: Vec<String>,
    readable_secrets: BTreeSet<PathBuf>,
}

impl Findings {
    pub(super) fn new(sources: ConfigSources, mistakes: Vec<Mistake>) -> Self {
        Self { sources, mistakes, warnings: Vec::new(), readable_secrets: BTreeSet::new() }
    }

    /// The number of the next included file.
    pub(super) fn next_document(&self) -> usize {
        self.sources.documents.len()
    }

    pub(super) fn add_document(&mut self, document: Document) {
        self.sources.documents.push(document);
    }

    pub(super) fn add_mistakes(&mut self, mistakes: Vec<Mistake>) {
        self.mistakes.extend(mistakes);
    }

    /// Adds a mistake at a key. The problem continues a sentence that starts with the key.
    pub(super) fn wrong(&mut self, key: &KeyPath<'_>, problem: impl Into<String>) {
        let place = self.sources.location_of(key);
        self.mistakes.push(Mistake::about(key.to_string(), place, problem.into()));
    }

    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Adds a file that contains a secret and can be read by others than its owner.
    pub(super) fn readable_secret(&mut self, file: PathBuf) {
        self.readable_secrets.insert(file);
    }

    /// The location of a key, for the text of a mistake that has two locations.
    pub(super) fn location_of(&self, key: &KeyPath<'_>) -> String {
        self.sources.location_of(key).to_string()
    }

    /// The file that contains a key; `None` for text that is not from a file.
    pub(super) fn file_of(&self, key: &KeyPath<'_>) -> Option<PathBuf> {
        self.sources.documents.get(key.document()).and_then(|document| document.path.clone())
    }

    /// Returns the keys of a section, and reports unknown keys.
    pub(super) fn section<T: DeserializeOwned>(&mut self, at: &KeyPath<'_>, section: Section<T>) -> T {
        match (section.wrong, self.sources.location_of(at)) {
            (Some(_), Location::Variable(name)) => {
                self.wrong(at, format!("is a section; set one of its keys with {name}__KEY"));
            }
            (Some(problem), _) => self.wrong(at, problem),
            (None, _) => {}
        }
        for name in &section.unknown {
            self.unknown(at, name, key_names::<T>());
        }
        section.keys
    }

    fn unknown(&mut self, section: &KeyPath<'_>, name: &str, expected: &[&str]) {
        let key = section.name(name);
        if PLANNED.contains(&key.to_string().as_str()) {
            return self.wrong(&key, "this version does not support this key yet; remove it");
        }
        if section.is_root() && section.document() > 0 {
            let problem =
                "an included file may contain only [[official_accounts]]; move this key to the main file";
            return self.wrong(&key, problem);
        }
        let hint = closest(name, expected).map(|close| format!("did you mean {close}? ")).unwrap_or_default();
        self.wrong(&key, format!("unknown key; {hint}expected one of: {}", expected.join(", ")));
    }

    /// Reports keys of the table at `at` that do not apply to the value of the table's key `selector`. Each key comes with
    /// whether it is absent, and the values that it applies to.
    pub(super) fn reject_inapplicable(
        &mut self,
        at: &KeyPath<'_>,
        (selector, value): (&str, &str),
        keys: &[(&str, bool, &[&str])],
    ) {
        for (key, absent, applicable) in keys {
            if !absent && !applicable.contains(&value) {
                let applicable = alternatives(applicable);
                let problem = format!("applies to {selector} = {applicable}, not to {value:?}; remove it");
                self.wrong(&at.name(key), problem);
            }
        }
    }

    /// Returns the value of a setting if it is set and has the right type.
    pub(super) fn take<T>(&mut self, key: &KeyPath<'_>, setting: Setting<T>) -> Option<T> {
        match setting {
            Setting::Absent => None,
            Setting::Given(value) => Some(value),
            Setting::Wrong(problem) => {
                self.wrong(key, problem);
                None
            }
        }
    }

    /// Returns the value of a required setting; `example` is a valid line for it.
    pub(super) fn require<T>(&mut self, key: &KeyPath<'_>, setting: Setting<T>, example: &str) -> Option<T> {
        if setting.is_absent() {
            self.wrong(key, format!("is missing; add it, for example {example}"));
        }
        self.take(key, setting)
    }

    pub(super) fn duration(
        &mut self,
        key: &KeyPath<'_>,
        setting: Setting<Duration>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(duration) = self.take(key, setting) else { return default };
        self.check_range(key, duration, range);
        duration
    }

    /// `None` means that the setting is "off".
    pub(super) fn interval(
        &mut self,
        key: &KeyPath<'_>,
        setting: Setting<Interval>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let Some(Interval(interval)) = self.take(key, setting) else { return Some(default) };
        interval.into_iter().for_each(|interval| self.check_range(key, interval, range.clone()));
        interval
    }

    fn check_range(&mut self, key: &KeyPath<'_>, duration: Duration, range: RangeInclusive<Duration>) {
        if !range.contains(&duration) {
            let [duration, least, most] = [duration, *range.start(), *range.end()].map(format_duration);
            self.wrong(key, format!("{duration} is out of range; write a duration from {least} to {most}"));
        }
    }

    pub(super) fn number(
        &mut self,
        key: &KeyPath<'_>,
        setting: Setting<i64>,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        let Some(number) = self.take(key, setting) else { return default };
        usize::try_from(number).ok().filter(|n| range.contains(n)).unwrap_or_else(|| {
            let (least, most) = (range.start(), range.end());
            self.wrong(key, format!("{number} is out of range; write a number from {least} to {most}"));
            default
        })
    }

    /// Returns the meaning of a word from a closed set.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &KeyPath<'_>,
        setting: Setting<String>,
        words: &[(&str, T)],
    ) -> Option<T> {
        let text = self.take(key, setting)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.wrong(key, format!("{} is not one of {}", quote(&text), words.join(", ")));
        }
        found
    }

    /// Returns a list with 1 to `max` elements.
    pub(super) fn list(
        &mut self,
        key: &KeyPath<'_>,
        setting: Setting<TextList>,
        max: usize,
    ) -> Option<Vec<String>> {
        let TextList(list) = self.take(key, setting)?;
        if list.is_empty() {
            self.wrong(key, "is an empty list; add at least one element");
            return None;
        }
        if list.len() > max {
            self.wrong(key, format!("has {} elements, but at most {max} are allowed", list.len()));
            return None;
        }
        Some(list)
    }

    /// Returns the result with the warnings, or the mistakes if there are any. Without a result there must be a mistake.
    pub(super) fn finish<T>(mut self, result: Option<T>) -> Result<(T, Vec<String>), Mistakes> {
        self.warn_of_readable_secrets();
        match (Mistakes::from_vec(self.mistakes), result) {
            (Some(mistakes), _) => Err(mistakes),
            (None, Some(result)) => Ok((result, self.warnings)),
            (None, None) => Err(Mistake::general("the configuration is incomplete".to_owned()).into()),
        }
    }

    fn warn_of_readable_secrets(&mut self) {
        let files = &self.readable_secrets;
        if files.is_empty() {
            return;
        }
        let listed = files.iter().take(MAX_LISTED_FILES).map(|file| file.display().to_string());
        let listed = listed.collect::<Vec<_>>().join(", ");
        let more = match files.len().saturating_sub(MAX_LISTED_FILES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        self.warn(format!(
            "secrets can be read by others than the owner of the file: {listed}{more}; chmod 600 them"
        ));
    }
}

/// Joins words as in `"a", "b" or "c"`.
fn alternatives(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

/// Formats a duration as in a configuration file.
pub(super) fn format_duration(duration: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    match (duration.as_secs() / DAY, duration.as_secs() % DAY) {
        (days @ 1.., 0) => format!("{days}d"),
        _ => {
            SignedDuration::try_from(duration).map_or_else(|_| format!("{duration:?}"), |d| format!("{d:#}"))
        }
    }
}
