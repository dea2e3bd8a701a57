//! Finds what an input method for Chinese types in place of TOML's own characters: “quotation marks”, `，`, `＝`, `［`, wide spaces.
//!
//! TOML allows these characters only in strings and comments. Each one elsewhere is a mistake, and is replaced by the ASCII character
//! that it stands for: so the parser and the checks find all other mistakes too, in the same lines and columns.

use std::collections::BTreeSet;

use crate::domain::characters::{ascii_for, describe, is_invisible, remedy};

/// How many lines with such characters are reported; a file of nothing else needs no more.
const MAX_REPORTED_LINES: usize = 50;

/// Double and single quotation marks, first those of TOML.
const QUOTES: [&[char]; 2] =
    [&['"', '“', '”', '„', '‟', '＂', '「', '」', '『', '』'], &['\'', '‘', '’', '‚', '‛', '＇']];

/// A text whose characters outside of strings and comments are ASCII, as far as they stand for ASCII characters.
#[derive(Debug, Default)]
pub(super) struct Corrected {
    pub(super) text: String,
    /// The characters that were replaced, each with its offset in the new text.
    replaced: Vec<(usize, char)>,
}

/// Replaces characters of an input method. `None` if there are none.
pub(super) fn correct(text: &str) -> Option<Corrected> {
    if text.is_ascii() {
        return None;
    }
    let mut corrected = Corrected { text: String::with_capacity(text.len()), ..Corrected::default() };
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match QUOTES.into_iter().find(|quotes| quotes.contains(&first)) {
            _ if first == '#' => corrected.copy(line_of(rest)),
            Some(quotes) => corrected.push_string(rest, quotes),
            None => corrected.push(first),
        };
        // A full-width # begins a comment too.
        let comment = if first == '＃' { corrected.copy(line_of(&rest[length..])) } else { 0 };
        rest = &rest[length + comment..];
    }
    (!corrected.replaced.is_empty()).then_some(corrected)
}

impl Corrected {
    /// The problem of each line with such characters, with the offset of the first one. `line_at` returns the line of an offset.
    pub(super) fn problems(&self, line_at: impl Fn(usize) -> usize) -> Vec<(usize, String)> {
        let lines: Vec<&[(usize, char)]> =
            self.replaced.chunk_by(|(one, _), (other, _)| line_at(*one) == line_at(*other)).collect();
        let more = lines.len().saturating_sub(MAX_REPORTED_LINES);
        let problem = |(n, line): (usize, &&[(usize, char)])| {
            let (offset, _) = line.first()?;
            let mut seen = BTreeSet::new();
            let characters = line.iter().filter(|(_, c)| seen.insert(*c)).map(|(_, c)| problem_of(*c));
            let characters = characters.collect::<Vec<_>>().join("; ");
            let more = match more {
                1.. if n + 1 == MAX_REPORTED_LINES => format!(" (and {more} more lines like this one)"),
                _ => String::new(),
            };
            Some((*offset, format!("not valid TOML: {characters}{more}")))
        };
        lines.iter().take(MAX_REPORTED_LINES).enumerate().filter_map(problem).collect()
    }

    fn copy(&mut self, part: &str) -> usize {
        self.text.push_str(part);
        part.len()
    }

    /// Adds a character outside of strings and comments.
    fn push(&mut self, c: char) -> usize {
        let is_hidden = is_invisible(c) && !c.is_control();
        match ascii_for(c).or(is_hidden.then_some(' ')) {
            Some(ascii) => {
                self.replaced.push((self.text.len(), c));
                self.text.push(ascii);
            }
            None => self.text.push(c),
        }
        c.len_utf8()
    }

    /// Adds the string that `rest` begins with, up to its closing quotation mark: TOML's, or one of an input method if the line has
    /// no other.
    fn push_string(&mut self, rest: &str, quotes: &[char]) -> usize {
        if let Some(end) = end_of_toml_string(rest) {
            return self.copy(&rest[..end]);
        }
        let opening = rest.chars().next().map_or(0, |quote| self.push_quote(quote, quotes));
        let content = line_of(&rest[opening..]);
        let content = content.find(quotes).map_or(content, |end| &content[..end]);
        let length = opening + self.copy(content);
        match rest[length..].chars().next().filter(|c| quotes.contains(c)) {
            Some(closing) => length + self.push_quote(closing, quotes),
            None => length,
        }
    }

    fn push_quote(&mut self, quote: char, quotes: &[char]) -> usize {
        if quote != quotes[0] {
            self.replaced.push((self.text.len(), quote));
        }
        self.text.push(quotes[0]);
        quote.len_utf8()
    }
}

fn problem_of(c: char) -> String {
    let is_sign = ascii_for(c).is_some_and(|ascii| ascii.is_ascii_punctuation());
    // Others show nothing, or may be a part of a secret.
    let shown = if is_sign { format!("{c} is ") } else { String::new() };
    format!("{shown}{}, {}", describe(c), remedy(c))
}

fn line_of(text: &str) -> &str {
    text.find('\n').map_or(text, |end| &text[..end])
}

/// The length of the string of TOML that the text begins with; `None` if it begins with none, or with one that does not end.
fn end_of_toml_string(text: &str) -> Option<usize> {
    for quotes in ["\"\"\"", "'''", "\"", "'"] {
        let Some(content) = text.strip_prefix(quotes) else { continue };
        let content = if quotes.len() == 1 { line_of(content) } else { content };
        let mut at = 0;
        while let Some(c) = content[at..].chars().next() {
            if content[at..].starts_with(quotes) {
                return Some(quotes.len() + at + quotes.len());
            }
            at += c.len_utf8();
            if c == '\\' && quotes.starts_with('"') {
                at += content[at..].chars().next().map_or(0, char::len_utf8);
            }
        }
        return None;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(correct(text).map_or_else(|| text.to_owned(), |corrected| corrected.text), expected);
    }

    #[test]
    fn characters_outside_of_strings_and_comments_are_replaced() {
        check("name ＝ “shop”", "name = \"shop\"");
        check("［web］　＃ 中文，“注”\nｎ = １", "[web] # 中文，“注”\nn = 1");
        check("a = [“x＠y”，‘b’、「c」]", "a = [\"x＠y\",'b',\"c\"]");
        check("\u{feff}a\u{200b} = 1", " a  = 1");
    }

    #[test]
    fn strings_and_comments_are_kept() {
        for text in
            ["a = \"说“你好”，\\\"好\" # “注”", "a = '''\n“x”\n'''", "a = \"\"\"“\\\"\"\"\"", "店 = 1"]
        {
            check(text, text);
        }
    }

    #[test]
    fn string_may_end_with_another_quotation_mark() {
        check("a = “shop\"", "a = \"shop\"");
        check("a = \"shop”\nb = \"x\"", "a = \"shop\"\nb = \"x\"");
        check("a = \"店\nb = “x”", "a = \"店\nb = \"x\"");
        check("a = “", "a = \"");
    }

    #[test]
    fn each_line_is_reported_once_with_each_character() {
        let text = "a ＝ “x＝y”，“z”\nb = 1\nc = ２".to_owned();
        let corrected = correct(&text).unwrap();
        let line_at = |offset: usize| corrected.text[..offset].matches('\n').count();
        let expected = "not valid TOML: ＝ is a full-width sign, type = instead; “ is U+201C (curly quotation mark), type \" instead; \
                        ” is U+201D (curly quotation mark), type \" instead; ， is a full-width sign, type , instead";
        let digit = "not valid TOML: a full-width digit, type it in half width";
        assert_eq!(corrected.problems(line_at), [(2, expected.to_owned()), (26, digit.to_owned())]);
        let many = correct(&"＝\n".repeat(60)).unwrap();
        let problems = many.problems(|offset| offset / 2);
        assert_eq!(problems.len(), MAX_REPORTED_LINES);
        assert!(problems[49].1.ends_with("type = instead (and 10 more lines like this one)"), "{problems:?}");
    }
}
