//! Where a key stands: from its path to a file and line, or to the variable that set it.
//!
//! The `config` crate keeps no lines, and its syntax errors print the line they are in, with whatever secret it holds. So
//! each file is parsed once more here, by the parser that `config` uses too, only for its positions.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::mistake::{Mistake, Place};

/// The path of a key in one file: a chain that lives on the stack, so that naming a key costs nothing.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    document: usize,
    parent: Option<&'a Key<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Name(&'a str),
    Index(usize),
}

impl<'a> Key<'a> {
    /// The top level of a file, by its number.
    pub(super) fn root(document: usize) -> Self {
        Self { document, parent: None, step: Step::Root }
    }

    /// The key of this name in the table that `self` is.
    pub(super) fn name(&'a self, name: &'a str) -> Self {
        Self { document: self.document, parent: Some(self), step: Step::Name(name) }
    }

    /// The element, from 0, of the list that `self` is.
    pub(super) fn index(&'a self, index: usize) -> Self {
        Self { document: self.document, parent: Some(self), step: Step::Index(index) }
    }

    pub(super) fn document(&self) -> usize {
        self.document
    }

    pub(super) fn is_root(&self) -> bool {
        matches!(self.step, Step::Root)
    }

    fn steps(&self) -> Vec<Step<'a>> {
        let mut steps: Vec<Step<'a>> =
            std::iter::successors(Some(*self), |key| key.parent.copied()).map(|key| key.step).collect();
        steps.reverse();
        steps
    }
}

/// In dots, without the numbers of list elements: the line says which element it is.
impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.steps().into_iter().filter_map(|step| match step {
            Step::Name(name) => Some(name.escape_debug().to_string()),
            Step::Root | Step::Index(_) => None,
        });
        f.write_str(&names.collect::<Vec<_>>().join("."))
    }
}

/// One file that was read.
pub(super) struct Document {
    /// Whose it is on disk, if anyone's.
    pub(super) path: Option<PathBuf>,
    /// As it is called in messages.
    shown: String,
    number: usize,
    lines: Lines,
    root: Node,
}

/// A value's place, without the value.
struct Node {
    /// Of the key or the heading, in bytes from the start of the text.
    offset: usize,
    inner: Inner,
}

enum Inner {
    Table(BTreeMap<String, Node>),
    Array(Vec<Node>),
    Plain,
}

impl Node {
    fn of(offset: usize, value: &DeValue<'_>) -> Self {
        let inner = match value {
            DeValue::Table(table) => Inner::Table(
                table
                    .iter()
                    .map(|(key, v)| (key.get_ref().to_string(), Self::of(key.span().start, v.get_ref())))
                    .collect(),
            ),
            DeValue::Array(array) => {
                Inner::Array(array.iter().map(|v| Self::of(v.span().start, v.get_ref())).collect())
            }
            _ => Inner::Plain,
        };
        Self { offset, inner }
    }

    fn step(&self, step: Step<'_>) -> Option<&Self> {
        match (step, &self.inner) {
            (Step::Root, _) => Some(self),
            (Step::Name(name), Inner::Table(table)) => table.get(name),
            (Step::Index(index), Inner::Array(array)) => array.get(index),
            (Step::Name(_) | Step::Index(_), _) => None,
        }
    }
}

impl Document {
    /// Finds where everything is in `text`, or says what is wrong with its syntax.
    pub(super) fn parse(
        number: usize,
        shown: &str,
        path: Option<PathBuf>,
        text: &str,
    ) -> Result<Self, Vec<Mistake>> {
        let lines = Lines::of(text);
        let place = |offset: usize| {
            let (line, column) = lines.line_and_column(text, offset);
            Place::File { number, file: shown.to_owned(), line: Some(line), column: Some(column) }
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        let root = DeValue::Table(table.into_inner());
        let mut mistakes: Vec<Mistake> = errors
            .iter()
            .map(|e| {
                Mistake::at(
                    place(e.span().map_or(0, |s| s.start)),
                    format!("not valid TOML: {}", e.message()),
                )
            })
            .collect();
        if mistakes.is_empty() {
            let mut wrong =
                |offset, problem: &str| mistakes.push(Mistake::at(place(offset), problem.to_owned()));
            unreadable_numbers(&root, 0, &mut wrong);
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Self { path, shown: shown.to_owned(), number, lines, root: Node::of(0, &root) })
    }

    /// The line of the key, or of the innermost table around it that is there; and whether it is the key itself.
    fn place_of(&self, key: &Key<'_>) -> (Place, bool) {
        let mut at = &self.root;
        for step in key.steps() {
            let Some(next) = at.step(step) else { return (self.place(at), false) };
            at = next;
        }
        (self.place(at), true)
    }

    fn place(&self, node: &Node) -> Place {
        let line = (!std::ptr::eq(node, &self.root)).then(|| self.lines.line(node.offset));
        Place::File { number: self.number, file: self.shown.clone(), line, column: None }
    }
}

/// Numbers that TOML allows and we have no type for: `config` would refuse them without a place.
fn unreadable_numbers(value: &DeValue<'_>, offset: usize, found: &mut impl FnMut(usize, &str)) {
    match value {
        DeValue::Integer(number) => {
            if i64::from_str_radix(number.as_str(), number.radix()).is_err() {
                found(offset, "this number is too large");
            }
        }
        DeValue::Float(number) => {
            let infinite = number.as_str().parse().is_ok_and(f64::is_infinite);
            if infinite && !number.as_str().contains("inf") {
                found(offset, "this number is too large");
            }
        }
        DeValue::Table(table) => {
            table.values().for_each(|v| unreadable_numbers(v.get_ref(), v.span().start, found));
        }
        DeValue::Array(array) => {
            array.iter().for_each(|v| unreadable_numbers(v.get_ref(), v.span().start, found));
        }
        DeValue::String(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

/// Where each line starts, so that finding a line does not read the file again.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Self {
        Self { starts: std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect() }
    }

    /// From 1.
    fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    /// Both from 1; the column in characters.
    fn line_and_column(&self, text: &str, offset: usize) -> (usize, usize) {
        let line = self.line(offset);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let column = text.get(start..offset).map_or(0, |before| before.chars().count());
        (line, column + 1)
    }
}

/// Everything that settings came from.
pub(super) struct Origins {
    /// The files, the main one first; the number of a [`Key`]'s document is the index here.
    pub(super) documents: Vec<Document>,
    /// The overriding variables: name by key in dots.
    pub(super) variables: BTreeMap<String, String>,
}

impl Origins {
    /// Where the value of a key came from, or where it would have to be.
    pub(super) fn place_of(&self, key: &Key<'_>) -> Place {
        let Some(document) = self.documents.get(key.document) else { return Place::Nowhere };
        let (place, exact) = document.place_of(key);
        // Variables override keys of the main file only.
        let variable = (key.document == 0).then(|| self.variable_for(&key.to_string(), exact)).flatten();
        variable.map_or(place, |name| Place::Variable(name.to_owned()))
    }

    /// The variable that set this key; or, for a key that is not in the file, the one that made a table of it or gave its
    /// table a plain value.
    fn variable_for(&self, key: &str, in_file: bool) -> Option<&str> {
        let within =
            |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'));
        let mut related = self.variables.iter().filter(|(set, _)| within(set, key) || within(key, set));
        let set = self
            .variables
            .get(key)
            .or_else(|| (!in_file).then(|| related.next().map(|(_, name)| name)).flatten());
        set.map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a = 1\n[poll]\nspread = 2\n[[sinks]]\nname = \"a\"\n[[sinks]]\nname = \"b\"\n";

    fn origins(variables: &[(&str, &str)]) -> Origins {
        Origins {
            documents: vec![Document::parse(0, "c.toml", None, TEXT).unwrap_or_else(|m| panic!("{m:?}"))],
            variables: variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    #[test]
    fn a_key_is_found_in_its_line() {
        let (origins, root) = (origins(&[]), Key::root(0));
        assert_eq!(origins.place_of(&root.name("poll").name("spread")).to_string(), "c.toml:3");
        assert_eq!(origins.place_of(&root.name("sinks").index(1).name("name")).to_string(), "c.toml:7");
    }

    #[test]
    fn a_missing_key_is_placed_at_its_table() {
        let (origins, root) = (origins(&[]), Key::root(0));
        assert_eq!(origins.place_of(&root.name("sinks").index(1).name("type")).to_string(), "c.toml:6");
        assert_eq!(origins.place_of(&root.name("web")).to_string(), "c.toml");
    }

    #[test]
    fn a_key_that_a_variable_set_is_placed_there() {
        let origins = origins(&[("poll.spread", "SPREAD"), ("web", "WEB"), ("polls.x", "X")]);
        let root = Key::root(0);
        assert_eq!(origins.place_of(&root.name("poll").name("spread")).to_string(), "SPREAD");
        assert_eq!(origins.place_of(&root.name("poll")).to_string(), "c.toml:2");
        assert_eq!(origins.place_of(&root.name("web").name("listen")).to_string(), "WEB");
        assert_eq!(origins.place_of(&root.name("polls")).to_string(), "X");
    }

    #[test]
    fn columns_are_counted_in_characters() {
        let mistakes = Document::parse(0, "c.toml", None, "\nname = \"üü").map(|_| ()).unwrap_err();
        assert_eq!(
            mistakes[0].to_string(),
            "c.toml:2:11: not valid TOML: invalid basic string, expected `\"`"
        );
    }
}
