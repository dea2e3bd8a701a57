//! Mistakes in a configuration: where each one is, and what would be right.

use std::fmt;

/// All mistakes that were found, in the order of files and lines; shown one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

/// One mistake. Its text fits on one line and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    place: Place,
    /// The key in dots, such as `poll.spread`; empty where the mistake is not about one.
    key: String,
    problem: String,
}

/// Where a mistake is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In no file: there is none.
    Nowhere,
    /// In a file.
    File {
        /// Which of the files that were read: 0 is the main one.
        number: usize,
        /// The file as its reader knows it.
        file: String,
        /// From 1.
        line: Option<usize>,
        /// From 1, in characters; known for syntax errors.
        column: Option<usize>,
    },
    /// In the value or the name of a variable.
    Variable(String),
}

impl Mistakes {
    /// What was found, if anything was.
    pub(super) fn among(mut mistakes: Vec<Mistake>) -> Option<Self> {
        mistakes.sort();
        (!mistakes.is_empty()).then_some(Self(mistakes))
    }

    /// Each one, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Mistake> {
        self.0.iter()
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
    /// A mistake about no key in particular.
    pub(super) fn at(place: Place, problem: String) -> Self {
        Self { place, key: String::new(), problem }
    }

    /// A mistake about a key.
    pub(super) fn about(key: String, place: Place, problem: String) -> Self {
        Self { place, key, problem }
    }

    /// A mistake that is in no file.
    pub(super) fn general(problem: String) -> Self {
        Self::at(Place::Nowhere, problem)
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, key, problem } = self;
        match place {
            Place::Nowhere => write!(f, "{problem}"),
            // The name of the variable says the key already.
            Place::Variable(_) => write!(f, "{place}: {problem}"),
            Place::File { .. } if key.is_empty() => write!(f, "{place}: {problem}"),
            Place::File { .. } => write!(f, "{place}: {key}: {problem}"),
        }
    }
}

impl fmt::Display for Place {
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

/// What a value looked like, for a message: quoted, escaped, and not longer than a line can bear. A secret that was put under
/// the wrong key is not shown.
pub(super) fn quote(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.starts_with(SIGNING_KEY) {
        return format!("a text that begins with {SIGNING_KEY}");
    }
    if looks_like_a_secret(text) {
        return "a text of 32 hexadecimal digits".to_owned();
    }
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Whether this has the form of WeChat's AppSecrets, or of keys that sign events.
pub(super) fn looks_like_a_secret(text: &str) -> bool {
    text.len() == 32 && text.chars().all(|c| c.is_ascii_hexdigit()) || text.starts_with(SIGNING_KEY)
}

/// What a key that signs events begins with.
const SIGNING_KEY: &str = "whsec_";

/// The candidate that was probably meant, if one is close.
pub(super) fn closest<'a>(written: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let near = |candidate: &&str| distance(written, candidate) <= 1 + candidate.len() / 5;
    candidates.iter().copied().filter(near).min_by_key(|candidate| distance(written, candidate))
}

/// How many characters have to be put in, left out or replaced to make one of the other (Levenshtein's distance).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_what_was_meant() {
        let keys = ["schedule", "timezone", "spread", "blind_after"];
        assert_eq!(closest("shedule", &keys), Some("schedule"));
        assert_eq!(closest("blindafter", &keys), Some("blind_after"));
        assert_eq!(closest("interval", &keys), None);
    }

    #[test]
    fn a_long_value_is_cut_in_messages() {
        assert_eq!(quote("a\nb"), r#""a\nb""#);
        assert_eq!(quote(&"ü".repeat(100)), format!("\"{}\"…", "ü".repeat(80)));
    }
}
