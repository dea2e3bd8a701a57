//! Finds where a setting comes from: a file and line, or an environment variable.
//!
//! The `config` crate keeps no line numbers, and its syntax errors print the whole line with any secret in it. So this
//! module parses each file again, with the parser that `config` uses, only for the positions.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::input_method;
use super::mistake::{Location, Mistake};

/// The path of a key in one file. It is a linked list on the stack, so that naming a key costs nothing.
#[derive(Clone, Copy)]
pub(super) struct KeyPath<'a> {
    pub(super) document: usize,
    parent: Option<&'a KeyPath<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Name(&'a str),
    Index(usize),
}

impl<'a> KeyPath<'a> {
    /// The top level of the file with this number.
    pub(super) fn root(document: usize) -> Self {
        Self { document, parent: None, step: Step::Root }
    }

    /// A key of the table at `self`.
    pub(super) fn name(&'a self, name: &'a str) -> Self {
        Self { document: self.document, parent: Some(self), step: Step::Name(name) }
    }

    /// An element, from 0, of the list at `self`.
    pub(super) fn index(&'a self, index: usize) -> Self {
        Self { document: self.document, parent: Some(self), step: Step::Index(index) }
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

/// Shows the names with dots, without the numbers of list elements: the line shows which element it is.
impl fmt::Display for KeyPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.steps().into_iter().filter_map(|step| match step {
            Step::Name(name) => Some(name.escape_debug().to_string()),
            Step::Root | Step::Index(_) => None,
        });
        f.write_str(&names.collect::<Vec<_>>().join("."))
    }
}

/// The positions of the keys of one file.
pub(super) struct Document {
    /// `None` for text that is not from a file.
    pub(super) path: Option<PathBuf>,
    /// The path as messages show it.
    shown: String,
    number: usize,
    lines: Lines,
    root: Node,
}

/// The position of a value, without the value.
struct Node {
    /// The position of the key or the heading, in bytes from the start of the text.
    offset: usize,
    children: Children,
}

enum Children {
    Table(BTreeMap<String, Node>),
    Array(Vec<Node>),
    None,
}

impl Node {
    fn new(offset: usize, value: &DeValue<'_>) -> Self {
        let children = match value {
            DeValue::Table(table) => Children::Table(
                table
                    .iter()
                    .map(|(key, v)| (key.get_ref().to_string(), Self::new(key.span().start, v.get_ref())))
                    .collect(),
            ),
            DeValue::Array(array) => {
                Children::Array(array.iter().map(|v| Self::new(v.span().start, v.get_ref())).collect())
            }
            _ => Children::None,
        };
        Self { offset, children }
    }

    fn child(&self, step: Step<'_>) -> Option<&Self> {
        match (step, &self.children) {
            (Step::Root, _) => Some(self),
            (Step::Name(name), Children::Table(table)) => table.get(name),
            (Step::Index(index), Children::Array(array)) => array.get(index),
            (Step::Name(_) | Step::Index(_), _) => None,
        }
    }
}

/// A file that was parsed.
pub(super) struct Parsed<'a> {
    pub(super) document: Document,
    /// The text, in which characters of an input method are replaced.
    pub(super) text: Cow<'a, str>,
    /// The replaced characters.
    pub(super) mistakes: Vec<Mistake>,
}

impl Document {
    /// Finds the positions of all keys in `text`, or returns its syntax errors.
    pub(super) fn parse<'a>(
        number: usize,
        shown: &str,
        path: Option<PathBuf>,
        text: &'a str,
    ) -> Result<Parsed<'a>, Vec<Mistake>> {
        let corrected = input_method::correct(text);
        let lines = Lines::new(corrected.as_ref().map_or(text, |corrected| &corrected.text));
        let typed = corrected.as_ref().map(|corrected| corrected.problems(|offset| lines.line(offset)));
        let text = corrected.map_or(Cow::Borrowed(text), |corrected| Cow::Owned(corrected.text));
        let mistake = |(offset, problem): (usize, String)| {
            let (line, column) = lines.line_and_column(&text, offset);
            let file = shown.to_owned();
            Mistake::at(Location::File { number, file, line: Some(line), column: Some(column) }, problem)
        };
        let (table, errors) = DeTable::parse_recoverable(&text);
        let root = DeValue::Table(table.into_inner());
        let mut problems: Vec<(usize, String)> = errors
            .iter()
            .map(|e| (e.span().map_or(0, |s| s.start), format!("not valid TOML: {}", e.message())))
            .collect();
        if problems.is_empty() {
            find_large_numbers(&root, 0, &mut |offset, problem| problems.push((offset, problem.to_owned())));
        }
        let typed = typed.into_iter().flatten();
        if !problems.is_empty() {
            return Err(typed.chain(problems).map(mistake).collect());
        }
        let mistakes = typed.map(mistake).collect();
        let root = Node::new(0, &root);
        Ok(Parsed { document: Self { path, shown: shown.to_owned(), number, lines, root }, text, mistakes })
    }

    /// The line of the key, or of the innermost enclosing table that exists; and whether it is the key itself.
    fn location_of(&self, key: &KeyPath<'_>) -> (Location, bool) {
        let mut at = &self.root;
        for step in key.steps() {
            let Some(next) = at.child(step) else { return (self.location(at), false) };
            at = next;
        }
        (self.location(at), true)
    }

    fn location(&self, node: &Node) -> Location {
        let line = (!std::ptr::eq(node, &self.root)).then(|| self.lines.line(node.offset));
        Location::File { number: self.number, file: self.shown.clone(), line, column: None }
    }
}

/// Finds numbers that TOML allows but `i64` and `f64` cannot represent. `config` would reject them without a location.
fn find_large_numbers(value: &DeValue<'_>, offset: usize, found: &mut impl FnMut(usize, &str)) {
    match value {
        DeValue::Integer(number) => {
            if i64::from_str_radix(number.as_str(), number.radix()).is_err() {
                found(offset, "this number is too large; write a smaller one");
            }
        }
        DeValue::Float(number) => {
            let infinite = number.as_str().parse().is_ok_and(f64::is_infinite);
            if infinite && !number.as_str().contains("inf") {
                found(offset, "this number is too large; write a smaller one");
            }
        }
        DeValue::Table(table) => {
            table.values().for_each(|v| find_large_numbers(v.get_ref(), v.span().start, found));
        }
        DeValue::Array(array) => {
            array.iter().for_each(|v| find_large_numbers(v.get_ref(), v.span().start, found));
        }
        DeValue::String(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

/// The start of each line, so that finding a line does not search the text again.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn new(text: &str) -> Self {
        Self { starts: std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect() }
    }

    /// The number of the line, from 1.
    fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    /// Line and column from 1; the column in characters.
    fn line_and_column(&self, text: &str, offset: usize) -> (usize, usize) {
        let line = self.line(offset);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let column = text.get(start..offset).map_or(0, |before| before.chars().count());
        (line, column + 1)
    }
}

/// The files and variables that settings come from.
pub(super) struct ConfigSources {
    /// The main file first. A [`KeyPath`] refers to a document by its index.
    pub(super) documents: Vec<Document>,
    /// The names of the overriding variables by key with dots.
    pub(super) variables: BTreeMap<String, String>,
}

impl ConfigSources {
    /// Where the value of a key comes from, or where it is missing.
    pub(super) fn location_of(&self, key: &KeyPath<'_>) -> Location {
        let Some(document) = self.documents.get(key.document) else { return Location::Nowhere };
        let (location, exact) = document.location_of(key);
        // Variables override keys of the main file only.
        let variable = (key.document == 0).then(|| self.variable_for(&key.to_string(), exact)).flatten();
        variable.map_or(location, |name| Location::Variable(name.to_owned()))
    }

    /// The variable that sets this key. For a key that is not in the file, also a variable that makes the key a table, or its
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
