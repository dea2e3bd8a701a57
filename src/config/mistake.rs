//! Mistakes in a configuration: the location, the problem and the remedy of each.

use std::fmt;

use crate::domain::characters;

/// All mistakes in a configuration, in the order of files and lines. `Display` shows one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub(super) Vec<Mistake>);

/// One mistake. Its text is one line and contains no secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mistake {
    location: Location,
    /// The key with dots, such as `poll.spread`; empty if the mistake is not about a key.
    key: String,
    problem: Problem,
}

/// What is wrong, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Problem {
    /// With the text of the configuration.
    Text(String),
    /// With a file or a variable that this machine does not have, or not for this user.
    Machine(String),
}

impl Problem {
    /// Adds text before the problem.
    pub(super) fn of(self, subject: &str) -> Self {
        match self {
            Self::Text(problem) => Self::Text(format!("{subject} {problem}")),
            Self::Machine(problem) => Self::Machine(format!("{subject} {problem}")),
        }
    }
}

impl<T: Into<String>> From<T> for Problem {
    fn from(problem: T) -> Self {
        Self::Text(problem.into())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Text(problem) | Self::Machine(problem)) = self;
        f.write_str(problem)
    }
}

/// Where a mistake is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Location {
    Nowhere,
    File {
        /// The number of the file; 0 is the main file.
        number: usize,
        /// The path as messages show it.
        file: String,
        line: Option<usize>,
        /// In characters; only syntax errors have one.
        column: Option<usize>,
    },
    /// In the name or the value of an environment variable.
    Variable(String),
}

impl Mistakes {
    /// Sorts the mistakes; `None` if there are none.
    pub(super) fn from_vec(mut mistakes: Vec<Mistake>) -> Option<Self> {
        mistakes.sort();
        (!mistakes.is_empty()).then_some(Self(mistakes))
    }

    /// Each mistake in one line.
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().map(Mistake::to_string).collect()
    }

    /// The mistakes that are there on every machine; `None` if there are none.
    pub fn without_machine(self) -> Option<Self> {
        let of_text = |mistake: &Mistake| matches!(mistake.problem, Problem::Text(_));
        Self::from_vec(self.0.into_iter().filter(of_text).collect())
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.0.iter().enumerate() {
            let newline = if n == 0 { "" } else { "\n" };
            write!(f, "{newline}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl Mistake {
    /// A mistake that is not about a key.
    pub(super) fn at(location: Location, problem: String) -> Self {
        Self { location, key: String::new(), problem: problem.into() }
    }

    /// A mistake about a key.
    pub(super) fn about(key: String, location: Location, problem: Problem) -> Self {
        Self { location, key, problem }
    }

    /// A mistake that is not in a file.
    pub(super) fn general(problem: String) -> Self {
        Self::at(Location::Nowhere, problem)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { location, key, problem } = self;
        match location {
            Location::Nowhere => write!(f, "{problem}"),
            // The name of the variable contains the key.
            Location::Variable(_) => write!(f, "{location}: {problem}"),
            Location::File { .. } if key.is_empty() => write!(f, "{location}: {problem}"),
            Location::File { .. } => write!(f, "{location}: {key}: {problem}"),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => Ok(()),
            Self::Variable(name) => write!(f, "{name}"),
            Self::File { file, line, column, .. } => {
                write!(f, "{file}")?;
                line.map_or(Ok(()), |line| write!(f, ":{line}"))?;
                column.map_or(Ok(()), |column| write!(f, ":{column}"))
            }
        }
    }
}

/// Quotes, escapes and shortens a value for a message. Hides a value that looks like a secret, for it may be one under a
/// wrong key.
pub(super) fn quote(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    if text.starts_with(SIGNING_KEY_PREFIX) {
        return format!("text that begins with {SIGNING_KEY_PREFIX}");
    }
    if looks_like_a_secret(text) {
        return "text of 32 hexadecimal digits".to_owned();
    }
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Quotes a value that has a problem. A character of an input method, such as a full-width digit, is the problem to report first.
pub(super) fn quote_with(text: &str, problem: &str) -> String {
    match characters::find_non_ascii(text) {
        Some(found) => format!("{} contains {found}", quote(text)),
        None => format!("{} {problem}", quote(text)),
    }
}

/// Whether the text has the form of an AppSecret of WeChat or of a key that signs events.
pub(super) fn looks_like_a_secret(text: &str) -> bool {
    text.len() == 32 && text.chars().all(|c| c.is_ascii_hexdigit()) || text.starts_with(SIGNING_KEY_PREFIX)
}

const SIGNING_KEY_PREFIX: &str = "whsec_";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_value_is_shortened_in_messages() {
        assert_eq!(quote("a\nb"), r#""a\nb""#);
        assert_eq!(quote(&"ü".repeat(100)), format!("\"{}\"…", "ü".repeat(80)));
    }
}
