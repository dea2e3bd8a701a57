//! Reads the keys of one table, and reports their mistakes with the table's location.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::environment::LoadContext;
use super::findings::{Findings, alternatives, format_duration};
use super::misplaced;
use super::mistake::{Location, Problem, quote_with};
use super::setting::{Interval, Section, Setting, TextList, key_names};
use super::sources::KeyPath;
use crate::domain::closest::closest;

/// Keys that are planned. They are rejected until they have an effect.
const PLANNED: [&str; 2] = ["privacy", "web.web_config_file"];

/// A table of a configuration file, or a list of tables.
pub(super) struct Table<'a> {
    pub(super) at: KeyPath<'a>,
    pub(super) context: LoadContext<'a>,
    pub(super) findings: &'a mut Findings,
}

impl<'a> Table<'a> {
    /// The top level of the file with this number.
    pub(super) fn root(document: usize, context: LoadContext<'a>, findings: &'a mut Findings) -> Self {
        Self { at: KeyPath::root(document), context, findings }
    }

    /// The table, or the list of tables, at a key of this one.
    pub(super) fn table<'b>(&'b mut self, name: &'b str) -> Table<'b> {
        Table { at: self.at.name(name), context: self.context, findings: self.findings }
    }

    /// An element, from 0, of this list.
    pub(super) fn element(&mut self, index: usize) -> Table<'_> {
        Table { at: self.at.index(index), context: self.context, findings: self.findings }
    }

    /// Adds a mistake about a key. The problem continues a sentence that starts with the key.
    pub(super) fn wrong(&mut self, name: &str, problem: impl Into<Problem>) {
        self.findings.wrong(&self.at.name(name), problem);
    }

    /// Adds a warning about a key.
    pub(super) fn warn(&mut self, name: &str, problem: &str) {
        let warning = format!("{}: {}: {problem}", self.location_of(name), self.at.name(name));
        self.findings.warnings.push(warning);
    }

    /// The location of a key, for the text of a mistake that has two locations.
    pub(super) fn location_of(&self, name: &str) -> String {
        self.findings.sources.location_of(&self.at.name(name)).to_string()
    }

    /// Adds a mistake about the value of a key, and quotes the value.
    pub(super) fn wrong_value(&mut self, name: &str, value: &str, problem: &str) {
        self.wrong(name, quote_with(value, problem));
    }

    /// Adds a mistake about an element of the list at a key.
    pub(super) fn wrong_index(&mut self, name: &str, index: usize, problem: impl Into<Problem>) {
        self.findings.wrong(&self.at.name(name).index(index), problem);
    }

    /// Adds a mistake about an element of the list at a key, and quotes the element.
    pub(super) fn wrong_element(&mut self, name: &str, (index, value): (usize, &str), problem: &str) {
        self.wrong_index(name, index, quote_with(value, problem));
    }

    /// Adds a mistake about the table as a whole.
    pub(super) fn wrong_table(&mut self, problem: impl Into<String>) {
        self.findings.wrong(&self.at, problem);
    }

    /// Returns the keys of this table, and reports unknown keys. `None` if it is not a table.
    pub(super) fn keys<T: DeserializeOwned>(&mut self, section: Section<T>) -> Option<T> {
        for name in &section.unknown {
            self.unknown(name, key_names::<T>());
        }
        let Some(problem) = section.wrong else { return Some(section.keys) };
        match self.findings.sources.location_of(&self.at) {
            Location::Variable(name) => {
                self.wrong_table(format!("is a section; set one of its keys with {name}__KEY"));
            }
            _ => self.wrong_table(problem),
        }
        None
    }

    fn unknown(&mut self, name: &str, expected: &[&str]) {
        if PLANNED.contains(&self.at.name(name).to_string().as_str()) {
            return self.wrong(name, "this version does not support this key yet; remove it");
        }
        if let Some(place) = misplaced::place_of(name, &self.at) {
            return self.wrong(name, place);
        }
        if self.at.is_root() && self.at.document > 0 {
            let problem =
                "an included file may contain only [[official_accounts]]; move this key to the main file";
            return self.wrong(name, problem);
        }
        let hint = closest(name, expected).map(|close| format!("did you mean {close}? ")).unwrap_or_default();
        self.wrong(name, format!("unknown key; {hint}expected one of: {}", expected.join(", ")));
    }

    /// Reports keys that do not apply to the value of the key `selector`. Each key comes with whether it is absent, and the
    /// values that it applies to.
    pub(super) fn reject_inapplicable(
        &mut self,
        (selector, value): (&str, &str),
        keys: &[(&str, bool, &[&str])],
    ) {
        for (key, absent, applicable) in keys {
            if !absent && !applicable.contains(&value) {
                let applicable = alternatives(applicable);
                self.wrong(key, format!("applies to {selector} = {applicable}, not to {value:?}; remove it"));
            }
        }
    }

    /// Returns the value of a setting if it is set and has the right type.
    pub(super) fn take<T>(&mut self, name: &str, setting: Setting<T>) -> Option<T> {
        self.findings.take(&self.at.name(name), setting)
    }

    /// Returns the value of a required setting; `example` is a valid line for it.
    pub(super) fn require<T>(&mut self, name: &str, setting: Setting<T>, example: &str) -> Option<T> {
        if setting.is_absent() {
            self.wrong(name, format!("is missing; add it, for example {example}"));
        }
        self.take(name, setting)
    }

    /// Returns a path, which may be relative to the directory of the main file.
    pub(super) fn path(&mut self, name: &str, setting: Setting<String>) -> Option<PathBuf> {
        self.take(name, setting).map(|path| self.context.base_dir.join(path))
    }

    pub(super) fn duration(
        &mut self,
        name: &str,
        setting: Setting<Duration>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(duration) = self.take(name, setting) else { return default };
        self.check_range(name, duration, range);
        duration
    }

    /// `None` means that the setting is "off".
    pub(super) fn interval(
        &mut self,
        name: &str,
        setting: Setting<Interval>,
        default: Option<Duration>,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let Some(Interval(interval)) = self.take(name, setting) else { return default };
        interval.inspect(|interval| self.check_range(name, *interval, range))
    }

    fn check_range(&mut self, name: &str, duration: Duration, range: RangeInclusive<Duration>) {
        if !range.contains(&duration) {
            let [duration, least, most] = [duration, *range.start(), *range.end()].map(format_duration);
            self.wrong(name, format!("{duration} is out of range; write a duration from {least} to {most}"));
        }
    }

    pub(super) fn number(
        &mut self,
        name: &str,
        setting: Setting<i64>,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        let Some(number) = self.take(name, setting) else { return default };
        usize::try_from(number).ok().filter(|n| range.contains(n)).unwrap_or_else(|| {
            let (least, most) = (range.start(), range.end());
            self.wrong(name, format!("{number} is out of range; write a number from {least} to {most}"));
            default
        })
    }

    /// Returns the meaning of a word from a closed set.
    pub(super) fn word<T: Copy>(
        &mut self,
        name: &str,
        setting: Setting<String>,
        words: &[(&str, T)],
    ) -> Option<T> {
        let text = self.take(name, setting)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.wrong_value(name, &text, &format!("is not one of {}", words.join(", ")));
        }
        found
    }

    /// Returns a list with 1 to `max` elements.
    pub(super) fn list(&mut self, name: &str, setting: Setting<TextList>, max: usize) -> Option<Vec<String>> {
        let TextList(list) = self.take(name, setting)?;
        let problem = match list.len() {
            0 => "is an empty list; add at least one element".to_owned(),
            length if length > max => format!("has {length} elements, but at most {max} are allowed"),
            _ => return Some(list),
        };
        self.wrong(name, problem);
        None
    }
}
