//! The language in which commands tell people what to do.

use crate::{config::Environment, domain::language};

/// The language of remedies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Language {
    /// English
    En,
    /// English and Chinese
    Zh,
}

impl Language {
    /// The language of this process.
    pub(super) fn of_process() -> Self {
        let environment = Environment::from_process();
        match language::Language::from_locale(|variable| environment.get(variable)) {
            language::Language::English => Self::En,
            language::Language::Chinese | language::Language::Both => Self::Zh,
        }
    }

    /// The remedies to show.
    pub(super) fn remedies<'a>(
        self,
        en: Option<&'a str>,
        zh: Option<&'a str>,
    ) -> impl Iterator<Item = &'a str> {
        en.into_iter().chain(zh.filter(|_| self == Self::Zh))
    }
}
