//! Recognizes keys that are in the wrong section, and names the right one.

use super::raw;
use super::setting::key_names;
use super::sources::KeyPath;

const TOKEN: &str = "[official_accounts.token]";

/// The headings of all sections, and the names of their keys. The first section is the top of the main file.
fn sections() -> [(&'static str, &'static [&'static str]); 14] {
    [
        ("", key_names::<raw::Root>()),
        ("[web]", key_names::<raw::Web>()),
        ("[log]", key_names::<raw::Log>()),
        ("[store]", key_names::<raw::Store>()),
        ("[cluster]", key_names::<raw::Cluster>()),
        ("[control]", key_names::<raw::Control>()),
        ("[api]", key_names::<raw::Api>()),
        ("[poll]", key_names::<raw::Poll>()),
        ("[backoff]", key_names::<raw::Backoff>()),
        ("[collectors]", key_names::<raw::Collectors>()),
        ("[metrics]", key_names::<raw::Metrics>()),
        ("[[official_accounts]]", key_names::<raw::OfficialAccount>()),
        (TOKEN, key_names::<raw::Token>()),
        ("[[sinks]]", key_names::<raw::Sink>()),
    ]
}

/// Where a key belongs that the table at this path does not have; `None` if no section has it.
pub(super) fn place_of(name: &str, table: &KeyPath<'_>) -> Option<String> {
    let sections = sections();
    let having = sections.iter().filter(|(_, keys)| keys.contains(&name)).map(|(heading, _)| *heading);
    let headings: Vec<&str> = having.collect();
    let official_account = headings.iter().find(|heading| **heading == "[[official_accounts]]");
    let is_included_file = table.is_root() && table.document > 0;
    match (&headings[..], official_account) {
        ([], _) => None,
        (_, Some(account)) if name == "token" => {
            Some(format!("belongs to an official account; write {TOKEN} below its {account}"))
        }
        (_, Some(account)) if table.to_string() == "official_accounts.token" => {
            Some(format!("belongs to {account}; move it above {TOKEN}"))
        }
        (_, Some(account)) if is_included_file => {
            Some(format!("belongs to {account}; write this heading above it"))
        }
        _ if is_included_file => None,
        (["", ..], _) => {
            Some("belongs at the top of the main file; move it above the first heading".to_owned())
        }
        (headings, _) => Some(format!("belongs to {}; move it there", headings.join(" or "))),
    }
}
