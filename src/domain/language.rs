//! The language of texts for people.

/// The language of texts that exist in English and Chinese.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "these are names")]
pub enum Language {
    #[default]
    English,
    Chinese,
    Both,
}

/// The variables that set the language of a process, in order of precedence.
const VARIABLES: [&str; 3] = ["LC_ALL", "LC_MESSAGES", "LANG"];

impl Language {
    /// The language of the locale that environment variables set: Chinese for a Chinese locale, otherwise English.
    pub fn from_locale<'a>(variable: impl Fn(&str) -> Option<&'a str>) -> Self {
        let mut set = VARIABLES.into_iter().filter_map(variable).filter(|value| !value.is_empty());
        match set.next() {
            Some(locale) if locale.starts_with("zh") => Self::Chinese,
            _ => Self::English,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locale_variables_have_precedence() {
        let check = |variables: &[(&str, &'static str)], expected| {
            let value =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            assert_eq!(Language::from_locale(value), expected, "{variables:?}");
        };
        check(&[], Language::English);
        check(&[("LANG", "zh_CN.UTF-8")], Language::Chinese);
        check(&[("LANG", "zh_CN.UTF-8"), ("LC_ALL", "C")], Language::English);
        check(&[("LC_MESSAGES", "zh_TW"), ("LANG", "de_DE"), ("LC_ALL", "")], Language::Chinese);
    }
}
