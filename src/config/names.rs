//! Checks names and appids, and that they are unique.

use std::collections::HashMap;

use super::findings::Findings;
use super::mistake::quote;
use super::setting::Setting;
use super::sources::KeyPath;

const MAX_NAME_CHARS: usize = 64;

/// Checks the key `name` of the table at `at`. Names become metric labels and parts of paths.
pub(super) fn check_name(
    at: &KeyPath<'_>,
    setting: Setting<String>,
    example: &str,
    findings: &mut Findings,
) -> Option<String> {
    let key = at.name("name");
    let name = findings.require(&key, setting, example)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.chars().all(allowed) || name.len() > MAX_NAME_CHARS {
        let problem = "is not a valid name; use at most 64 letters, digits, \"-\" and \"_\"";
        findings.wrong(&key, format!("{} {problem}", quote(&name)));
        return None;
    }
    Some(name)
}

/// Checks the appid of an official account or of a component.
pub(super) fn check_appid(
    key: &KeyPath<'_>,
    setting: Setting<String>,
    example: &str,
    findings: &mut Findings,
) -> Option<String> {
    let appid = findings.require(key, setting, example)?;
    let id = appid.strip_prefix("wx").unwrap_or_default();
    if id.len() != 16 || !id.chars().all(|c| c.is_ascii_alphanumeric()) {
        let problem = "is not an appid; write \"wx\" and its 16 letters and digits";
        findings.wrong(key, format!("{} {problem}", quote(&appid)));
        return None;
    }
    Some(appid)
}

/// Values that may occur only once in a list of tables, each with the location of its first use.
pub(super) struct UniqueValues {
    /// What the tables of the list are called in a message, such as `sink`.
    owner: &'static str,
    used: HashMap<(&'static str, String), String>,
}

impl UniqueValues {
    pub(super) fn new(owner: &'static str) -> Self {
        Self { owner, used: HashMap::new() }
    }

    /// Reports the value of the key `name` of the table at `at` if an earlier table has the same.
    pub(super) fn check(
        &mut self,
        at: &KeyPath<'_>,
        name: &'static str,
        value: Option<&str>,
        findings: &mut Findings,
    ) {
        let Some(value) = value else { return };
        let key = at.name(name);
        let location = findings.location_of(&key);
        if let Some(first) = self.used.insert((name, value.to_owned()), location) {
            let owner = self.owner;
            let problem =
                format!("is also the {name} of the {owner} at {first}; give each {owner} its own {name}");
            findings.wrong(&key, format!("{} {problem}", quote(value)));
        }
    }
}
