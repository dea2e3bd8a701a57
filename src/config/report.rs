//! Collects mistakes and warnings while a configuration is checked, so that all of them are told at once.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use serde::de::DeserializeOwned;

use super::locate::{Document, Key, Origins};
use super::mistake::{Mistake, Mistakes, Place, closest, quote};
use super::setting::{Interval, OneOrMore, Section, Setting, names_of};

/// Keys that are planned, and refused until they do something: nobody shall believe in a setting without effect.
const NOT_YET: [&str; 4] = ["privacy", "web.web_config_file", "web.enable_reload", "store.url"];

/// How many files the warning about readable secrets names.
const MAX_FILES_NAMED: usize = 3;

/// What was found so far.
pub(super) struct Report {
    origins: Origins,
    mistakes: Vec<Mistake>,
    warnings: Vec<String>,
    readable_secrets: BTreeSet<PathBuf>,
}

impl Report {
    pub(super) fn new(origins: Origins, mistakes: Vec<Mistake>) -> Self {
        Self { origins, mistakes, warnings: Vec::new(), readable_secrets: BTreeSet::new() }
    }

    /// The number that the next included file gets.
    pub(super) fn documents(&self) -> usize {
        self.origins.documents.len()
    }

    pub(super) fn add_document(&mut self, document: Document) {
        self.origins.documents.push(document);
    }

    pub(super) fn add_mistakes(&mut self, mistakes: Vec<Mistake>) {
        self.mistakes.extend(mistakes);
    }

    /// Notes what is wrong at a key.
    pub(super) fn wrong(&mut self, key: &Key<'_>, problem: impl Into<String>) {
        let place = self.origins.place_of(key);
        self.mistakes.push(Mistake::about(key.to_string(), place, problem.into()));
    }

    /// Notes that the feature at a key is planned, and not built.
    pub(super) fn not_yet(&mut self, key: &Key<'_>, what: &str) {
        self.wrong(key, format!("this version does not support {what} yet; remove it"));
    }

    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Notes a file that holds a secret and can be read by others than its owner.
    pub(super) fn readable_secret(&mut self, file: PathBuf) {
        self.readable_secrets.insert(file);
    }

    /// Where something stands, as text: for a mistake that has two places.
    pub(super) fn place_of(&self, key: &Key<'_>) -> String {
        self.origins.place_of(key).to_string()
    }

    /// The file in which a key stands, if it is one on disk.
    pub(super) fn file_of(&self, key: &Key<'_>) -> Option<PathBuf> {
        self.origins.documents.get(key.document()).and_then(|document| document.path.clone())
    }

    /// The keys of a section; what it has beside them is noted.
    pub(super) fn section<T: DeserializeOwned>(&mut self, at: &Key<'_>, section: Section<T>) -> T {
        match (section.wrong, self.origins.place_of(at)) {
            (Some(_), Place::Variable(name)) => {
                self.wrong(at, format!("is a section; set one of its keys with {name}__KEY"));
            }
            (Some(problem), _) => self.wrong(at, problem),
            (None, _) => {}
        }
        for name in &section.unknown {
            self.unknown(at, name, names_of::<T>());
        }
        section.keys
    }

    fn unknown(&mut self, section: &Key<'_>, name: &str, expected: &[&str]) {
        let key = section.name(name);
        if NOT_YET.contains(&key.to_string().as_str()) {
            return self.not_yet(&key, "this key");
        }
        if section.is_root() && section.document() > 0 {
            let problem = "an included file may hold only [[official_accounts]]; move it to the main file";
            return self.wrong(&key, problem);
        }
        let meant =
            closest(name, expected).map(|meant| format!("did you mean {meant}? ")).unwrap_or_default();
        self.wrong(&key, format!("unknown key; {meant}expected one of: {}", expected.join(", ")));
    }

    /// The value of a setting that is there and of the right type.
    pub(super) fn take<T>(&mut self, key: &Key<'_>, setting: Setting<T>) -> Option<T> {
        match setting {
            Setting::Absent => None,
            Setting::Given(value) => Some(value),
            Setting::Wrong(problem) => {
                self.wrong(key, problem);
                None
            }
        }
    }

    /// The value of a setting that has to be there; `example` is one as it would be written.
    pub(super) fn require<T>(&mut self, key: &Key<'_>, setting: Setting<T>, example: &str) -> Option<T> {
        if setting.is_absent() {
            self.wrong(key, format!("is missing; write it, for example {example}"));
        }
        self.take(key, setting)
    }

    pub(super) fn duration(
        &mut self,
        key: &Key<'_>,
        setting: Setting<Duration>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(duration) = self.take(key, setting) else { return default };
        self.check_range(key, duration, range);
        duration
    }

    /// How often something is done; `None` when it is turned off.
    pub(super) fn interval(
        &mut self,
        key: &Key<'_>,
        setting: Setting<Interval>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let Some(Interval(interval)) = self.take(key, setting) else { return Some(default) };
        interval.into_iter().for_each(|interval| self.check_range(key, interval, range.clone()));
        interval
    }

    fn check_range(&mut self, key: &Key<'_>, duration: Duration, range: RangeInclusive<Duration>) {
        if !range.contains(&duration) {
            let [duration, least, most] = [duration, *range.start(), *range.end()].map(friendly);
            self.wrong(key, format!("{duration} is out of range; write a duration from {least} to {most}"));
        }
    }

    pub(super) fn number(
        &mut self,
        key: &Key<'_>,
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

    /// One of a closed set of words.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &Key<'_>,
        setting: Setting<String>,
        words: &[(&str, T)],
    ) -> Option<T> {
        let written = self.take(key, setting)?;
        let found = words.iter().find(|(word, _)| *word == written).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.wrong(key, format!("{} is not one of {}", quote(&written), words.join(", ")));
        }
        found
    }

    /// A list, or one text in place of it, with 1 to `most` elements.
    pub(super) fn list(
        &mut self,
        key: &Key<'_>,
        setting: Setting<OneOrMore>,
        most: usize,
    ) -> Option<Vec<String>> {
        let OneOrMore(list) = self.take(key, setting)?;
        if list.is_empty() {
            self.wrong(key, "is an empty list; write at least one");
            return None;
        }
        if list.len() > most {
            self.wrong(key, format!("has {} elements, and {most} are the most", list.len()));
            return None;
        }
        Some(list)
    }

    /// Ends the checking: what was made with the warnings, or the mistakes if there are any. Nothing is made only where a
    /// mistake was noted.
    pub(super) fn finish<T>(mut self, made: Option<T>) -> Result<(T, Vec<String>), Mistakes> {
        let files = self.readable_secrets.len();
        if files > 0 {
            let named: Vec<String> = self
                .readable_secrets
                .iter()
                .take(MAX_FILES_NAMED)
                .map(|file| file.display().to_string())
                .collect();
            let more = files.checked_sub(named.len()).filter(|more| *more > 0);
            let more = more.map(|more| format!(" and {more} more")).unwrap_or_default();
            let named = named.join(", ");
            self.warn(format!(
                "secrets can be read by others than the owner of the file: {named}{more}; chmod 600 them"
            ));
        }
        match (Mistakes::among(self.mistakes), made) {
            (Some(mistakes), _) => Err(mistakes),
            (None, Some(made)) => Ok((made, self.warnings)),
            (None, None) => Err(Mistake::general("the configuration is incomplete".to_owned()).into()),
        }
    }
}

/// As it would be written in the file.
pub(super) fn friendly(duration: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    match (duration.as_secs() / DAY, duration.as_secs() % DAY) {
        (days @ 1.., 0) => format!("{days}d"),
        _ => {
            SignedDuration::try_from(duration).map_or_else(|_| format!("{duration:?}"), |d| format!("{d:#}"))
        }
    }
}
