//! Every relative link and every path in the documentation resolves.

use std::path::{Component, Path, PathBuf};

use super::markdown::{Page, assert_same, code_spans, page, pages, root, without_code_spans};

/// Prefixes of paths in backticks.
const DIRECTORIES: [&str; 5] = ["src/", "tests/", "benches/", "deploy/", "docs/"];

/// Returns the targets of all links of a page.
fn links(page: &Page) -> Vec<String> {
    let paragraphs = page.paragraphs();
    let texts = paragraphs.iter().map(|paragraph| without_code_spans(paragraph));
    let targets = texts.flat_map(|text| {
        let parts = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()));
        parts.collect::<Vec<_>>()
    });
    targets.collect()
}

/// Returns the path without `.` and `..`.
fn normalized(path: &Path) -> PathBuf {
    let mut normalized = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => assert!(normalized.pop(), "{} leaves the repository", path.display()),
            Component::CurDir => {}
            component => normalized.push(component),
        }
    }
    normalized
}

/// Returns what is wrong with a link.
fn problem(page: &Page, link: &str, pages: &[Page]) -> Option<String> {
    if link.starts_with("http://") || link.starts_with("https://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target = match path {
        "" => page.path.clone(),
        _ => normalized(&page.path.parent().unwrap().join(path)),
    };
    if !root().join(&target).exists() {
        return Some(format!("{} does not exist", target.display()));
    }
    let anchor = anchor?;
    let Some(target) = pages.iter().find(|page| page.path == target) else {
        return Some(format!("{} is not a page", target.display()));
    };
    (!target.anchors().iter().any(|name| name == anchor)).then(|| format!("no heading #{anchor}"))
}

#[test]
fn relative_links_resolve() {
    let pages = pages();
    let mut problems = Vec::new();
    let mut count = 0;
    for page in &pages {
        for link in links(page) {
            count += 1;
            let problem = problem(page, &link, &pages);
            problems.extend(problem.map(|problem| format!("{}: {link}: {problem}", page.path.display())));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(count > 150, "only {count} links");
}

#[test]
fn named_paths_exist() {
    let mut missing = Vec::new();
    for page in pages() {
        for paragraph in page.paragraphs() {
            let paths = code_spans(&paragraph).into_iter().filter(|span| {
                DIRECTORIES.iter().any(|directory| span.starts_with(directory))
                    && span.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
            });
            let absent = paths.filter(|path| !root().join(path).exists());
            missing.extend(absent.map(|path| format!("{}: {path}", page.path.display())));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn summary_lists_exactly_the_pages_of_the_book() {
    let summary = page("docs/en/SUMMARY.md");
    let directory = Path::new("docs/en");
    let listed =
        links(&summary).into_iter().map(|link| normalized(&directory.join(&link)).display().to_string());
    let all = pages().into_iter().map(|page| page.path).filter(|path| *path != summary.path);
    let existing = all.filter(|path| path.starts_with(directory)).map(|path| path.display().to_string());
    assert_same(&listed.collect(), &existing.collect(), "docs/en/SUMMARY.md");
}

#[test]
fn pages_are_limited_in_length() {
    assert!(page("README.md").text.lines().count() <= 150);
}
