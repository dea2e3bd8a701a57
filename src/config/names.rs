//! Checks names and appids, and that they are unique.

use std::collections::HashMap;

use super::setting::Setting;
use super::table::Table;

const MAX_NAME_CHARS: usize = 64;

/// Checks the key `name` of a table. Names become metric labels and parts of paths.
pub(super) fn check_name(setting: Setting<String>, example: &str, table: &mut Table<'_>) -> Option<String> {
    let name = table.require("name", setting, example)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.chars().all(allowed) || name.len() > MAX_NAME_CHARS {
        let problem = "is not a valid name; use at most 64 letters (a-z, A-Z), digits, \"-\" and \"_\"";
        table.wrong_value("name", &name, problem);
        return None;
    }
    Some(name)
}

/// Checks the appid of an official account or of a component, the key `key` of a table.
pub(super) fn check_appid(key: &str, setting: Setting<String>, table: &mut Table<'_>) -> Option<String> {
    let appid = table.require(key, setting, &format!("{key} = \"wx0123456789abcdef\""))?;
    let id = appid.strip_prefix("wx").unwrap_or_default();
    if id.len() != 16 || !id.chars().all(|c| c.is_ascii_alphanumeric()) {
        table.wrong_value(key, &appid, "is not an appid; write \"wx\" and its 16 letters and digits");
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

    /// Reports the value of the key `name` of a table if an earlier table has the same.
    pub(super) fn check(&mut self, name: &'static str, value: Option<&str>, table: &mut Table<'_>) {
        let Some(value) = value else { return };
        let location = table.location_of(name);
        if let Some(first) = self.used.insert((name, value.to_owned()), location) {
            let owner = self.owner;
            let problem =
                format!("is also the {name} of the {owner} at {first}; give each {owner} its own {name}");
            table.wrong_value(name, value, &problem);
        }
    }
}
