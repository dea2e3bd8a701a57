//! Collects mistakes and warnings while a configuration is checked, so that all of them are reported at once.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;

use super::mistake::{Mistake, Mistakes, Problem};
use super::setting::Setting;
use super::sources::{ConfigSources, KeyPath};
use crate::domain::quantity::counted;

/// How many files the warnings about readable secrets and about unusable files list.
const MAX_LISTED_FILES: usize = 3;

/// The mistakes and warnings found so far.
pub(super) struct Findings {
    pub(super) sources: ConfigSources,
    pub(super) mistakes: Vec<Mistake>,
    pub(super) warnings: Vec<String>,
    /// Files that contain a secret and can be read by others than their owner.
    pub(super) readable_secrets: BTreeSet<PathBuf>,
    /// Warnings about files of tokens and tickets that cannot be used now.
    pub(super) unusable_files: Vec<String>,
}

impl Findings {
    pub(super) fn new(sources: ConfigSources, mistakes: Vec<Mistake>) -> Self {
        Self {
            sources,
            mistakes,
            warnings: Vec::new(),
            readable_secrets: BTreeSet::new(),
            unusable_files: Vec::new(),
        }
    }

    /// Adds a mistake at a key. The problem continues a sentence that starts with the key.
    pub(super) fn wrong(&mut self, key: &KeyPath<'_>, problem: impl Into<Problem>) {
        let place = self.sources.location_of(key);
        self.mistakes.push(Mistake::about(key.to_string(), place, problem.into()));
    }

    /// The file that contains a key; `None` for text that is not from a file.
    pub(super) fn file_of(&self, key: &KeyPath<'_>) -> Option<PathBuf> {
        self.sources.documents.get(key.document).and_then(|document| document.path.clone())
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

    /// Returns the result with the warnings, or the mistakes if there are any. Without a result there must be a mistake.
    pub(super) fn finish<T>(mut self, result: Option<T>) -> Result<(T, Vec<String>), Mistakes> {
        self.warn_of_readable_secrets();
        self.warn_of_unusable_files();
        match (Mistakes::from_vec(self.mistakes), result) {
            (Some(mistakes), _) => Err(mistakes),
            (None, Some(result)) => Ok((result, self.warnings)),
            (None, None) => Err(Mistake::general("the configuration is incomplete".to_owned()).into()),
        }
    }

    fn warn_of_unusable_files(&mut self) {
        let more = self.unusable_files.len().saturating_sub(MAX_LISTED_FILES);
        self.warnings.extend(self.unusable_files.drain(..).take(MAX_LISTED_FILES));
        if more > 0 {
            self.warnings
                .push(format!("{} of tokens or tickets cannot be used", counted(more as u64, "more file")));
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
        self.warnings.push(format!(
            "secrets can be read by others than the owner of the file: {listed}{more}; chmod 600 them"
        ));
    }
}

/// Joins words as in `"a", "b" or "c"`.
pub(super) fn alternatives(words: &[&str]) -> String {
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
