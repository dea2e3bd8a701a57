//! No cycles between files: if two files import from each other, neither can be read first.
//!
//! An import is a name after `crate::`, `self::` or `super::` in the code of a file, without its tests. Re-exports do
//! not count, and neither do imports between a module and its submodules, which form one unit.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{sources, without_comment};

/// A module by its path, without `crate`. The module of `lib.rs` is empty.
type Module = Vec<String>;

/// The names that a module imports, by the module that defines them.
type Imports = BTreeMap<Module, BTreeMap<Module, BTreeSet<String>>>;

#[test]
fn files_import_from_each_other_without_cycles() {
    let files: Vec<(Module, String)> =
        sources().into_iter().map(|(path, text)| (module_of(&path), text)).collect();
    let imports = imports(&files);
    let cycles = cycles(&imports);
    let cycles: Vec<String> = cycles.iter().map(|cycle| description(cycle, &imports)).collect();
    assert!(cycles.is_empty(), "files import from each other in a cycle:\n{}", cycles.join("\n"));
}

#[test]
fn cycles_are_found_however_paths_are_written() {
    let check = |files: &[(&str, &str)], expected: &[&[&str]]| {
        let files: Vec<_> =
            files.iter().map(|(path, text)| (module_of(Path::new(path)), (*text).to_owned())).collect();
        let found: Vec<Vec<String>> = cycles(&imports(&files))
            .iter()
            .map(|cycle| cycle.iter().map(|module| module.join("/")).collect())
            .collect();
        assert_eq!(found, expected, "{files:?}");
    };
    check(&[("a.rs", "use crate::b::B;"), ("b.rs", "fn f() { crate::a::g() }")], &[&["a", "b"]]);
    check(
        &[
            ("p.rs", "mod a;\nmod b;\nmod c;"),
            ("p/a.rs", "use super::{\n    b::{B, Other},\n};"),
            ("p/b.rs", "use super::c::C;"),
            ("p/c.rs", "use crate::{p::{a::A}, q};"),
        ],
        &[&["p/a", "p/b", "p/c"]],
    );
    // A module and its submodules, a re-export, tests, comments.
    check(&[("p.rs", "use self::a::A;"), ("p/a.rs", "use super::P;")], &[]);
    check(&[("a.rs", "pub use crate::b::B;"), ("b.rs", "use crate::a::A;")], &[]);
    check(&[("a.rs", "#[cfg(test)]\nmod tests { use crate::b::B; }"), ("b.rs", "use crate::a::A;")], &[]);
    check(&[("a.rs", "// crate::b::B"), ("b.rs", "use crate::a::A;")], &[]);
}

/// Returns the module of a file of `src/`.
fn module_of(path: &Path) -> Module {
    let names = path.with_extension("").iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    if names == ["lib"] { Vec::new() } else { names }
}

fn imports(files: &[(Module, String)]) -> Imports {
    let modules: BTreeSet<&Module> = files.iter().map(|(module, _)| module).collect();
    let mut imports = Imports::new();
    for (module, text) in files {
        for path in paths(text) {
            let Some((target, name)) = resolved(module, &path, &modules) else { continue };
            if !target.is_empty() && !target.starts_with(module) && !module.starts_with(&target) {
                imports.entry(module.clone()).or_default().entry(target).or_default().insert(name);
            }
        }
    }
    imports
}

/// Returns all paths in the code of a file that begin with `crate`, `self` or `super`.
fn paths(text: &str) -> Vec<Vec<String>> {
    let code: String = text.lines().map(|line| without_comment(line).to_owned() + "\n").collect();
    let code = code.split("#[cfg(test)]\nmod ").next().unwrap();
    let code = without_reexports(code);
    let mut paths = Vec::new();
    let mut rest = code.as_str();
    while let Some(at) = ["crate::", "self::", "super::"].iter().filter_map(|root| rest.find(root)).min() {
        let begins = !rest[..at].ends_with(|c: char| c.is_alphanumeric() || "_$:".contains(c));
        let length = path_length(&rest[at..]);
        if begins {
            paths.extend(leaves(&rest[at..at + length]));
        }
        rest = &rest[at + length..];
    }
    paths
}

fn without_reexports(code: &str) -> String {
    let mut kept = String::new();
    let mut in_reexport = false;
    for line in code.lines() {
        let line_start = line.trim_start();
        in_reexport |= line_start.starts_with("pub use ")
            || (line_start.starts_with("pub(") && line_start.contains(") use "));
        if in_reexport {
            in_reexport = !line.contains(';');
        } else {
            kept += line;
            kept.push('\n');
        }
    }
    kept
}

/// Returns the length of a path or of a tree of paths, as in `use`.
fn path_length(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' if depth > 0 || text[..at].ends_with("::") => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' if depth > 1 => depth -= 1,
            c if depth > 0 || c.is_alphanumeric() || c == '_' || c == ':' => {}
            _ => return at,
        }
    }
    text.len()
}

/// Returns the paths of a tree of paths, by their names.
fn leaves(tree: &str) -> Vec<Vec<String>> {
    let Some((prefix, group)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap();
        return vec![path.split("::").map(|name| name.trim().to_owned()).collect()];
    };
    let prefix: Vec<String> =
        prefix.split("::").map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    let group = group.trim_end().strip_suffix('}').unwrap();
    let (mut depth, mut begin, mut parts) = (0_usize, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[begin..]);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(leaves).map(|leaf| [prefix.clone(), leaf].concat()).collect()
}

/// Returns the module that a path leads to, and the name in it.
fn resolved(from: &Module, path: &[String], modules: &BTreeSet<&Module>) -> Option<(Module, String)> {
    let mut module = from.clone();
    let mut names = path.iter();
    let mut next = names.next();
    match next.map(String::as_str) {
        Some("crate") => (module, next) = (Module::new(), names.next()),
        Some("self") => next = names.next(),
        _ => {
            while next.is_some_and(|name| name == "super") {
                module.pop()?;
                next = names.next();
            }
        }
    }
    while let Some(name) = next {
        let inner = [&module[..], std::slice::from_ref(name)].concat();
        if !modules.contains(&inner) {
            break;
        }
        (module, next) = (inner, names.next());
    }
    Some((module, next.cloned().unwrap_or_else(|| "the module".to_owned())))
}

/// Returns the sets of modules in which each module reaches all others.
fn cycles(imports: &Imports) -> Vec<BTreeSet<Module>> {
    let reached: BTreeMap<&Module, BTreeSet<&Module>> =
        imports.keys().map(|module| (module, reached_from(module, imports))).collect();
    let mut cycles: Vec<BTreeSet<Module>> = Vec::new();
    for (module, reaches) in &reached {
        if reaches.contains(module) && !cycles.iter().any(|cycle| cycle.contains(*module)) {
            let back =
                |other: &&&Module| reached.get(**other).is_some_and(|reaches| reaches.contains(module));
            cycles.push(reaches.iter().filter(back).map(|other| (*other).clone()).collect());
        }
    }
    cycles
}

fn reached_from<'a>(module: &'a Module, imports: &'a Imports) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut pending = vec![module];
    while let Some(module) = pending.pop() {
        let targets = imports.get(module).into_iter().flat_map(BTreeMap::keys);
        pending.extend(targets.filter(|target| reached.insert(*target)));
    }
    reached
}

/// Describes which module of a cycle imports which names from which other module.
fn description(cycle: &BTreeSet<Module>, imports: &Imports) -> String {
    let mut lines = Vec::new();
    for module in cycle {
        for (target, names) in imports[module].iter().filter(|(target, _)| cycle.contains(*target)) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            lines.push(format!(
                "  {} imports {} from {}",
                module.join("/"),
                names.join(", "),
                target.join("/")
            ));
        }
    }
    lines.join("\n")
}
