//! Reads and merges the layers: the main file, the environment variables that override it, and the included files.
//!
//! The `config` crate merges and deserializes. It gets texts instead of paths, because it guesses relative paths and does
//! not report bytes that are not UTF-8. It gets only variables whose names can be keys.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use config::{FileFormat, FileSourceString, Map};
use glob::{MatchOptions, Pattern};
use nix::unistd::{Gid, Group, Uid, User};
use serde::de::DeserializeOwned;
use toml::de::DeTable;

use super::environment::Environment;
use super::findings::Findings;
use super::mistake::{Location, Mistake, Mistakes, quote};
use super::official_account::MAX_OFFICIAL_ACCOUNTS;
use super::raw;
use super::setting::{Section, Setting, TextList, check_visible};
use super::sources::{ConfigSources, Document, KeyPath, Parsed};
use crate::domain::text_file;

/// Enough for 100,000 official accounts with ten kf accounts each.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// One for each official account.
const MAX_INCLUDED_FILES: usize = MAX_OFFICIAL_ACCOUNTS;

/// The prefix of overriding variables. With only one underscore, it would match variables that Kubernetes sets for services.
const PREFIX: &str = "KFWATCH__";

/// The text of the main configuration, and where it comes from.
pub(super) struct Source {
    /// The path as messages show it.
    shown: String,
    path: Option<PathBuf>,
    /// The base of relative paths; absolute.
    base_dir: PathBuf,
    text: String,
}

/// The merged configuration, not yet checked.
pub(super) struct Layers {
    pub(super) root: Section<raw::Root>,
    /// The included files in the order of their names, each with the number of its document.
    pub(super) included: Vec<(usize, Section<raw::Included>)>,
    /// Whether all included files could be read.
    pub(super) complete: bool,
    pub(super) base_dir: PathBuf,
    pub(super) findings: Findings,
}

impl Source {
    pub(super) fn read(path: &Path) -> Result<Self, Mistakes> {
        let shown = path.display().to_string();
        let failed = |problem: String| {
            let location = Location::File { number: 0, file: shown.clone(), line: None, column: None };
            Mistakes::from(Mistake::at(location, problem))
        };
        let absolute = std::path::absolute(path).map_err(|e| failed(format!("has no absolute path: {e}")))?;
        let text = read_text(path).map_err(failed)?;
        let base_dir = absolute.parent().unwrap_or(&absolute).to_owned();
        Ok(Self { shown, path: Some(absolute), base_dir, text })
    }

    pub(super) fn from_text(text: &str, base_dir: &Path) -> Self {
        Self {
            shown: "configuration".to_owned(),
            path: None,
            base_dir: base_dir.to_owned(),
            text: text.to_owned(),
        }
    }

    /// The file with nothing but what decides where the control socket is, as far as the parser finds it in spite of syntax errors.
    pub(super) fn only_control(&self) -> Self {
        let (table, _) = DeTable::parse_recoverable(&self.text);
        let keys = [("store", "path"), ("store", "backend"), ("cluster", "name"), ("control", "socket")];
        let found = keys.into_iter().filter_map(|(section, key)| {
            let value = table.get_ref().get(section)?.get_ref().get(key)?.get_ref().as_str()?;
            Some(format!("{section}.{key} = {}\n", toml::Value::from(value)))
        });
        Self {
            text: found.collect(),
            shown: self.shown.clone(),
            path: self.path.clone(),
            base_dir: self.base_dir.clone(),
        }
    }
}

/// Merges the variables into the main file, and reads the included files. Fails if the main file is not valid TOML.
pub(super) fn read(main: Source, environment: &Environment) -> Result<Layers, Mistakes> {
    let mut layers = read_main(&main, environment)?;
    include(&mut layers, &main);
    Ok(layers)
}

/// Merges the variables into the main file. Reads no included files.
pub(super) fn read_main(main: &Source, environment: &Environment) -> Result<Layers, Mistakes> {
    let parsed = Document::parse(0, &main.shown, main.path.clone(), &main.text);
    let Parsed { document, text, mut mistakes } = parsed.map_err(|mistakes| {
        Mistakes::from_vec(mistakes).unwrap_or_else(|| Mistake::general("not valid TOML".to_owned()).into())
    })?;
    let (variables, values) = overrides(environment, &mut mistakes);
    let root = deserialize::<raw::Root>(&text, values, &main.shown)?;

    let sources = ConfigSources { documents: vec![document], variables };
    Ok(Layers {
        root,
        included: Vec::new(),
        complete: true,
        base_dir: main.base_dir.clone(),
        findings: Findings::new(sources, mistakes),
    })
}

/// The variables that override keys: their names by key, and their values by name as `config` needs them.
fn overrides(
    environment: &Environment,
    mistakes: &mut Vec<Mistake>,
) -> (BTreeMap<String, String>, Map<String, String>) {
    let mut names = BTreeMap::new();
    let mut values = Map::new();
    // An empty variable counts as unset: `${UNSET:-}` produces one.
    for (name, value) in
        environment.iter().filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty())
    {
        let key = name[PREFIX.len()..].to_lowercase().replace("__", ".");
        let mut wrong = |problem: &str| {
            mistakes
                .push(Mistake::at(Location::Variable(name.escape_debug().to_string()), problem.to_owned()));
        };
        let is_word =
            |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !key.split('.').all(is_word) || name.chars().any(|c| c.is_lowercase()) {
            wrong("is not the name of a key; write KFWATCH__SECTION__KEY in capitals");
        } else if ["official_accounts", "sinks"].iter().any(|list| key.split('.').next() == Some(list)) {
            wrong("a variable cannot set a list of tables; write it in a file");
        } else if let Err(problem) = check_visible(value) {
            wrong(&problem);
        } else {
            names.insert(key, name.to_owned());
            values.insert(name.to_owned(), value.to_owned());
        }
    }
    (names, values)
}

/// Parses the text, merges the variables into it, and deserializes the result with `config`.
fn deserialize<T: DeserializeOwned + Default>(
    text: &str,
    variables: Map<String, String>,
    shown: &str,
) -> Result<Section<T>, Mistakes> {
    let file: config::File<FileSourceString, FileFormat> = config::File::from_str(text, FileFormat::Toml);
    let variables = config::Environment::with_prefix("KFWATCH")
        .prefix_separator("__")
        .separator("__")
        .source(Some(variables));
    let merged = config::Config::builder().add_source(file).add_source(variables).build();
    // Cannot fail once the text is parsed and its numbers are checked. The error is dropped because it may show a secret.
    merged
        .and_then(|merged| merged.try_deserialize())
        .map_err(|_: config::ConfigError| Mistake::general(format!("{shown}: is not a configuration")).into())
}

/// Reads the files that the patterns of `include` match, in the order of their names.
fn include(layers: &mut Layers, main: &Source) {
    let root = KeyPath::root(0);
    let key = root.name("include");
    let setting = std::mem::replace(&mut layers.root.keys.include, Setting::Absent);
    let Some(TextList(patterns)) = layers.findings.take(&key, setting) else { return };
    let mut paths = BTreeSet::new();
    for (n, pattern) in patterns.iter().enumerate() {
        match find_files(pattern, main) {
            Ok(found) => paths.extend(found),
            Err(problem) => {
                layers.complete = false;
                layers.findings.wrong(&key.index(n), problem);
            }
        }
    }
    if paths.len() > MAX_INCLUDED_FILES {
        layers.complete = false;
        return layers.findings.wrong(
            &key,
            format!("matches {} files, but at most {MAX_INCLUDED_FILES} are allowed", paths.len()),
        );
    }
    for path in paths {
        let number = layers.findings.sources.documents.len();
        match read_included(number, path, main) {
            Ok((document, section, mistakes)) => {
                layers.findings.sources.documents.push(document);
                layers.findings.mistakes.extend(mistakes);
                layers.included.push((number, section));
            }
            Err(mistakes) => {
                layers.complete = false;
                layers.findings.mistakes.extend(mistakes);
            }
        }
    }
}

/// The files that one pattern matches. There must be at least one. Hidden files do not match, and the main file must not.
fn find_files(pattern: &str, main: &Source) -> Result<Vec<PathBuf>, String> {
    let base = Pattern::escape(&main.base_dir.display().to_string());
    let absolute = Path::new(&base).join(pattern);
    let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
    let found = glob::glob_with(&absolute.display().to_string(), options)
        .map_err(|e| format!("{} is not a pattern: {}", quote(pattern), e.msg))?;
    let mut files = Vec::new();
    for path in found {
        let path = path.map_err(|e| format!("{} cannot be searched: {}", quote(pattern), e.error()))?;
        if main.path.as_ref() == Some(&path) {
            return Err(format!(
                "{} matches the main configuration file; change the pattern",
                quote(pattern)
            ));
        }
        if path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(format!(
            "{} matches no file in {}; add one, or remove the pattern",
            quote(pattern),
            main.base_dir.display()
        ));
    }
    Ok(files)
}

fn read_included(
    number: usize,
    path: PathBuf,
    main: &Source,
) -> Result<(Document, Section<raw::Included>, Vec<Mistake>), Vec<Mistake>> {
    // Shown like the main file: with a relative path, or an absolute one.
    let from_base = path.strip_prefix(&main.base_dir).unwrap_or(&path);
    let shown =
        Path::new(&main.shown).parent().unwrap_or(Path::new("")).join(from_base).display().to_string();
    let text = read_text(&path).map_err(|problem| {
        let location = Location::File { number, file: shown.clone(), line: None, column: None };
        vec![Mistake::at(location, problem)]
    })?;
    let Parsed { document, text, mistakes } = Document::parse(number, &shown, Some(path), &text)?;
    let section = deserialize(&text, Map::new(), &shown).map_err(|mistakes| mistakes.0)?;
    Ok((document, section, mistakes))
}

fn read_text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => format!("cannot be read by this user{}", who_may_read(path)),
        _ => format!("cannot be read: {e}"),
    })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("is longer than {MAX_FILE_BYTES} bytes; split it with include"));
    }
    text_file::decode(&bytes).map(Cow::into_owned).map_err(|problem| problem.with_conversion(path))
}

/// Names the owner and the group of a file. The file of the Debian package is read through its group.
fn who_may_read(path: &Path) -> String {
    let Ok(metadata) = path.metadata() else { return String::new() };
    let user = User::from_uid(Uid::from_raw(metadata.uid())).ok().flatten().map(|user| user.name);
    let group = Group::from_gid(Gid::from_raw(metadata.gid())).ok().flatten().map(|group| group.name);
    let user = user.unwrap_or_else(|| metadata.uid().to_string());
    let group = group.unwrap_or_else(|| metadata.gid().to_string());
    format!(
        ": it belongs to the user {user} and the group {group}; run the command as the user of kfwatch, with sudo -u"
    )
}
