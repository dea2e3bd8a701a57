//! Reads the Markdown of the repository, as far as the checks need it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Directories without documentation of this project.
const IGNORED: [&str; 3] = ["target", ".git", "node_modules"];

/// A Markdown file.
pub(crate) struct Page {
    /// Relative to the repository.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A fenced code block.
pub(crate) struct Block {
    pub(crate) language: String,
    pub(crate) text: String,
    /// The number of its first line.
    pub(crate) line: usize,
}

/// A heading's section.
pub(crate) struct Section {
    pub(crate) heading: String,
    pub(crate) rows: Vec<Vec<String>>,
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns all Markdown files of the repository.
pub(crate) fn pages() -> Vec<Page> {
    let mut pages = Vec::new();
    collect(root(), &mut pages);
    assert!(pages.len() > 20, "only {} pages", pages.len());
    pages
}

pub(crate) fn page(path: &str) -> Page {
    Page { path: path.into(), text: fs::read_to_string(root().join(path)).unwrap() }
}

fn collect(directory: &Path, pages: &mut Vec<Page>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !IGNORED.contains(&name.as_str()) {
                collect(&path, pages);
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(&path).unwrap();
            pages.push(Page { path: path.strip_prefix(root()).unwrap().to_owned(), text });
        }
    }
}

impl Page {
    /// Returns the lines outside code blocks, and the code blocks.
    fn split(&self) -> (Vec<&str>, Vec<Block>) {
        let (mut prose, mut blocks, mut open) = (Vec::new(), Vec::new(), None::<(&str, Block)>);
        for (n, line) in self.text.lines().enumerate() {
            let trimmed = line.trim_start();
            open = match (open, trimmed.strip_prefix("```")) {
                (None, None) => {
                    prose.push(line);
                    None
                }
                (None, Some(language)) => {
                    let indent = &line[..line.len() - trimmed.len()];
                    let block =
                        Block { language: language.trim().to_owned(), text: String::new(), line: n + 2 };
                    Some((indent, block))
                }
                (Some((_, block)), Some("")) => {
                    blocks.push(block);
                    None
                }
                (Some((indent, mut block)), _) => {
                    block.text.push_str(line.strip_prefix(indent).unwrap_or(line));
                    block.text.push('\n');
                    Some((indent, block))
                }
            };
        }
        assert!(open.is_none(), "{}: a code block has no end", self.path.display());
        (prose, blocks)
    }

    pub(crate) fn blocks(&self, language: &str) -> Vec<Block> {
        self.split().1.into_iter().filter(|block| block.language == language).collect()
    }

    /// Returns the lines outside code blocks.
    pub(crate) fn prose(&self) -> Vec<&str> {
        self.split().0
    }

    /// Returns the paragraphs outside code blocks, each joined into one line, because a link may span two lines.
    pub(crate) fn paragraphs(&self) -> Vec<String> {
        let text = self.prose().join("\n");
        text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect()
    }

    /// Returns the headings of all levels with their tables. The first section is the text before the second heading.
    pub(crate) fn sections(&self) -> Vec<Section> {
        let mut sections: Vec<Section> = Vec::new();
        for line in self.prose() {
            if let Some(heading) = heading(line) {
                sections.push(Section { heading: heading.to_owned(), rows: Vec::new() });
            } else if let (Some(section), Some(row)) = (sections.last_mut(), line.strip_prefix("| ")) {
                section.rows.push(row.split('|').map(|cell| cell.trim().to_owned()).collect());
            }
        }
        sections
    }

    /// Returns the anchors of the headings, as repository browsers and mdBook name them.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let mut anchors: Vec<String> = Vec::new();
        for heading in self.prose().into_iter().filter_map(heading) {
            let slug = slug(heading);
            let repeats = (1..).map(|n| format!("{slug}-{n}"));
            let anchor = std::iter::once(slug.clone()).chain(repeats).find(|name| !anchors.contains(name));
            anchors.extend(anchor);
        }
        anchors
    }
}

fn heading(line: &str) -> Option<&str> {
    line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')).map(str::trim)
}

fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// Returns the texts in backticks.
pub(crate) fn code_spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Returns the text without the texts in backticks.
pub(crate) fn without_code_spans(text: &str) -> String {
    text.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// Asserts that two sets are equal, or fails with the difference.
pub(crate) fn assert_same(documented: &BTreeSet<String>, defined: &BTreeSet<String>, at: &str) {
    let missing: Vec<_> = defined.difference(documented).collect();
    let unknown: Vec<_> = documented.difference(defined).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "{at} lacks {missing:?}, and should not have {unknown:?}"
    );
}

#[test]
fn anchors_are_those_of_repository_browsers() {
    let page = Page { path: "x.md".into(), text: "# A `b`: c\n## `[[x]]`\n## Same\n## Same\n".to_owned() };
    assert_eq!(page.anchors(), ["a-b-c", "x", "same", "same-1"]);
}
