//! Which module may use which: the architecture, checked against the `crate::` paths of the source.

mod file_cycles;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A module of the program (a file or directory of `src/`), the other modules it may use, and why no more.
struct Rule {
    module: &'static str,
    may_use: &'static [&'static str],
    why: &'static str,
}

/// From the bottom to the top.
const RULES: [Rule; 21] = [
    rule("domain", &[], "it is pure: values in, values out"),
    rule("file_system", &[], "it knows what file systems lack, and not what is in the files"),
    rule("stdio", &[], "it writes what it is given to standard output and standard error"),
    rule("logging", &["domain", "stdio"], "it only sets up the log"),
    rule("simulator", &[], "it agrees with the client on nothing but what is on the wire"),
    rule("tls", &["domain"], "it reads certificates, for all clients"),
    rule("secrets", &["domain"], "it reads secret files, and does not know what the secrets are for"),
    rule("reload", &["domain"], "it passes requests on, and neither reads a configuration nor applies one"),
    rule("http", &[], "it tells failed requests apart, for all HTTP clients"),
    rule("wechat", &["domain", "http", "secrets", "tls"], "it calls WeChat, and does not know its callers"),
    rule("store", &["domain", "file_system", "tls"], "it keeps what it is given"),
    rule(
        "sink",
        &["domain", "file_system", "http", "secrets", "stdio", "store", "tls"],
        "it delivers stored events, and neither reads the log nor decides when",
    ),
    rule("status", &["domain", "store"], "it is the table that polls write and readers copy"),
    rule("metrics", &["domain", "status", "stdio", "store", "wechat"], "it shows what others count"),
    rule("poll", &["domain", "metrics", "status", "store", "wechat"], "one poll never calls a sink"),
    rule("schedule", &["domain", "metrics", "poll", "status"], "it knows when, not what"),
    rule(
        "control",
        &["dispatch", "domain", "file_system", "poll", "reload", "status", "wechat"],
        "it asks what a person wants to know or done about sinks, and has no store to commit polls to",
    ),
    rule("dispatch", &["domain", "sink", "status", "store"], "delivery never calls WeChat"),
    rule("web", &["domain", "metrics", "reload", "status", "store"], "no page view calls WeChat"),
    rule(
        "config",
        &["domain", "logging", "secrets", "sink", "store", "tls", "wechat"],
        "it makes values, and runs nothing",
    ),
    rule(
        "app",
        &[
            "config", "control", "dispatch", "domain", "metrics", "poll", "reload", "schedule", "sink",
            "status", "store", "tls", "web", "wechat",
        ],
        "it builds the daemon; commands use it, and it uses neither logging nor the simulator",
    ),
];

/// Modules without a rule: they combine everything into commands.
const UNRULED: [&str; 3] = ["cli", "lib", "main"];

/// The only users of the simulator.
const USERS_OF_THE_SIMULATOR: [&str; 2] = ["cli/demo.rs", "cli/simulate.rs"];

/// What `lib.rs` itself offers to all modules.
const SHARED: [&str; 4] = ["chain", "causes", "innermost_cause", "REVISION"];

const fn rule(module: &'static str, may_use: &'static [&'static str], why: &'static str) -> Rule {
    Rule { module, may_use, why }
}

/// A name that follows `crate::` in a file.
#[derive(Debug, PartialEq, Eq)]
struct Use {
    module: String,
    line: usize,
}

#[test]
fn each_module_imports_only_what_its_rule_allows() {
    let mut violations = Vec::new();
    for (path, text) in sources() {
        let Some(rule) = RULES.iter().find(|rule| rule.module == module_of(&path)) else { continue };
        for used in uses(&text) {
            let allowed = used.module == rule.module
                || rule.may_use.contains(&used.module.as_str())
                || (rule.module != "domain" && SHARED.contains(&used.module.as_str()));
            if !allowed {
                violations.push(format!(
                    "src/{}:{}: {} may not use {}, only {:?}: {}",
                    path.display(),
                    used.line,
                    rule.module,
                    used.module,
                    rule.may_use,
                    rule.why
                ));
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn only_demo_and_simulate_import_the_simulator() {
    let users: BTreeSet<String> = sources()
        .into_iter()
        .filter(|(path, text)| {
            module_of(path) != "simulator" && uses(text).iter().any(|used| used.module == "simulator")
        })
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert_eq!(users, USERS_OF_THE_SIMULATOR.map(str::to_owned).into());
}

#[test]
fn every_module_has_a_rule() {
    let modules: BTreeSet<String> = sources().iter().map(|(path, _)| module_of(path)).collect();
    let ruled = RULES.iter().map(|rule| rule.module).chain(UNRULED).map(str::to_owned);
    assert_eq!(modules, ruled.collect());
}

#[test]
fn paths_are_found_however_they_are_written() {
    let check = |text: &str, expected: &[(&str, usize)]| {
        let expected = expected.iter().map(|&(module, line)| Use { module: module.to_owned(), line });
        assert_eq!(uses(text), expected.collect::<Vec<_>>(), "{text}");
    };
    check("use crate::store;", &[("store", 1)]);
    check("\npub(crate) use crate::store::Store as S;", &[("store", 2)]);
    check(
        "use crate::{store::{Event,\n Store}, wechat,\n\n    poll::*};",
        &[("store", 1), ("wechat", 2), ("poll", 4)],
    );
    check("fn f() { crate::chain(&e); crate :: poll }", &[("chain", 1)]);
    check("//! [`crate::dispatch`]\n// use crate::web;\nlet x = 1; // crate::web", &[]);
    check("use other_crate::web;", &[]);
}

/// Returns all files of `src/` by their relative paths.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut directories = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                sources.push((path.strip_prefix(&root).unwrap().to_path_buf(), text));
            }
        }
    }
    sources.sort();
    sources
}

fn module_of(path: &Path) -> String {
    let first = path.iter().next().unwrap().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn uses(text: &str) -> Vec<Use> {
    let code: String = text.lines().map(|line| without_comment(line).to_owned() + "\n").collect();
    let mut uses = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        if code[..at].ends_with(is_name) {
            continue;
        }
        let begin = at + "crate::".len();
        let line_at = |offset: usize| 1 + code[..offset].matches('\n').count();
        for (offset, module) in first_names(&code[begin..]) {
            uses.push(Use { module, line: line_at(begin + offset) });
        }
    }
    uses
}

/// Returns the first names of a path or of a group of paths, with their offsets.
fn first_names(path: &str) -> Vec<(usize, String)> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let name_at = |at: usize| path[at..].chars().take_while(|c| is_name(*c)).collect::<String>();
    if !path.starts_with('{') {
        return vec![(0, name_at(0))];
    }
    let mut names = Vec::new();
    let (mut depth, mut expects_name) = (0, false);
    for (at, c) in path.char_indices() {
        match c {
            '{' => (depth, expects_name) = (depth + 1, depth == 0),
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' => expects_name = depth == 1,
            c if expects_name && is_name(c) => {
                names.push((at, name_at(at)));
                expects_name = false;
            }
            _ => {}
        }
    }
    names
}

fn without_comment(line: &str) -> &str {
    line.find("//").map_or(line, |at| &line[..at])
}
