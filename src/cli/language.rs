//! The language in which commands tell people what to do.

use crate::config::Environment;

/// The variables that set the language, in order of precedence.
const LANGUAGE_VARIABLES: [&str; 3] = ["LC_ALL", "LC_MESSAGES", "LANG"];

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
        Self::from_environment(&Environment::from_process())
    }

    /// The remedies to show.
    pub(super) fn remedies<'a>(
        self,
        en: Option<&'a str>,
        zh: Option<&'a str>,
    ) -> impl Iterator<Item = &'a str> {
        en.into_iter().chain(zh.filter(|_| self == Self::Zh))
    }

    fn from_environment(environment: &Environment) -> Self {
        let set = LANGUAGE_VARIABLES.into_iter().filter_map(|name| environment.get(name));
        match set.into_iter().find(|value| !value.is_empty()) {
            Some(value) if value.starts_with("zh") => Self::Zh,
            _ => Self::En,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn language_variables_have_precedence() {
        let check = |variables: &[(&str, &str)], expected| {
            let environment = variables.iter().copied().collect();
            assert_eq!(Language::from_environment(&environment), expected, "{variables:?}");
        };
        check(&[], Language::En);
        check(&[("LANG", "zh_CN.UTF-8")], Language::Zh);
        check(&[("LANG", "zh_CN.UTF-8"), ("LC_ALL", "C")], Language::En);
        check(&[("LC_MESSAGES", "zh_TW"), ("LANG", "de_DE"), ("LC_ALL", "")], Language::Zh);
    }
}
