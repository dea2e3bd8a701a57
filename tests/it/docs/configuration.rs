//! The example and the reference list exactly the configuration keys. Shown configurations load.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path};

use kfwatch::config::{Config, Environment};

use super::markdown::{assert_same, code_spans, page, pages, root};

const REFERENCE: &str = "docs/en/reference/configuration.md";

const OFFICIAL_ACCOUNT: &str = "[[official_accounts]]\nname = \"shop\"\nappid = \"wx0123456789abcdef\"\n\
                                kf_accounts = [\"test1@test\"]\n";

/// Returns the keys that the loader accepts, taken from its message about an unknown key.
fn accepted_keys() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let top = expected_keys("").unwrap();
    for key in &top {
        let headers = [format!("[{key}]"), format!("[[{key}]]")];
        match headers.iter().find_map(|header| expected_keys(header)) {
            Some(names) => keys.extend(names.iter().map(|name| format!("{key}.{name}"))),
            None => _ = keys.insert(key.clone()),
        }
    }
    // The only nested section.
    keys.remove("official_accounts.token");
    let token = expected_keys("[[official_accounts]]\n[official_accounts.token]").unwrap();
    keys.extend(token.iter().map(|name| format!("official_accounts.token.{name}")));
    keys
}

/// Returns the keys of the section with this header.
fn expected_keys(header: &str) -> Option<Vec<String>> {
    let text = format!("{header}\nno_such_key = 1\n");
    let mistakes = Config::from_toml(&text, Path::new("/"), &Environment::default()).err()?.to_string();
    let line = mistakes.lines().find(|line| line.contains("no_such_key: unknown key"))?;
    let (_, names) = line.split_once("expected one of: ")?;
    Some(names.split(", ").map(str::to_owned).collect())
}

/// Returns the keys of config.example.toml, including its optional parts.
fn keys_of_the_example() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("config.example.toml")).unwrap();
    let (mut keys, mut section) = (BTreeSet::new(), String::new());
    for line in text.lines() {
        let line = line.strip_prefix('#').map_or(line, str::trim_start);
        if line.starts_with('[') && line.ends_with(']') {
            section = line.trim_matches(['[', ']']).to_owned() + ".";
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        {
            keys.insert(format!("{section}{key}"));
        }
    }
    keys
}

fn keys_of_the_reference() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for section in page(REFERENCE).sections() {
        let prefix = match code_spans(&section.heading)[..] {
            [header] => header.trim_matches(['[', ']']).to_owned() + ".",
            _ => String::new(),
        };
        let names = section.rows.iter().filter_map(|row| row[0].strip_prefix('`')?.strip_suffix('`'));
        for name in names {
            keys.insert(format!("{prefix}{name}"));
        }
    }
    keys
}

#[test]
fn example_lists_exactly_the_accepted_keys() {
    assert_same(&keys_of_the_example(), &accepted_keys(), "config.example.toml");
}

#[test]
fn reference_lists_exactly_the_accepted_keys() {
    assert_same(&keys_of_the_reference(), &accepted_keys(), REFERENCE);
}

/// A file as nsc writes it.
fn nats_credentials() -> String {
    let seed = nkeys::KeyPair::new_user().seed().unwrap();
    format!(
        "-----BEGIN NATS USER JWT-----\ne30.e30.e30\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

/// The files that shown configurations name.
fn files() -> [(&'static str, String); 8] {
    [
        ("shop.secret", "0123456789abcdef0123456789abcdef\n".to_owned()),
        ("platform.secret", "0123456789abcdef0123456789abcdef\n".to_owned()),
        ("tokens.header", "Authorization: Bearer secret\n".to_owned()),
        ("crm.keys", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n".to_owned()),
        ("kf.creds", nats_credentials()),
        ("database.url", "postgres://kfwatch:secret@db.example:5432/kfwatch\n".to_owned()),
        ("robot.url", "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=secret\n".to_owned()),
        (
            "accounts.d/other.toml",
            OFFICIAL_ACCOUNT.replace("shop", "other").replace("wx0123456789abcdef", "wx0000000000000002")
                + "token.secret = \"secret\"\n",
        ),
    ]
}

/// Completes a part of a configuration: adds an official account if it has none.
fn complete(part: &str) -> String {
    if part.contains("[[official_accounts]]") {
        part.to_owned()
    } else if part.contains("[official_accounts.token]") {
        format!("{OFFICIAL_ACCOUNT}{part}")
    } else {
        format!("{part}\n{OFFICIAL_ACCOUNT}token.secret = \"secret\"\n")
    }
}

/// Writes a file that only its owner can read.
fn write_private(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn shown_configurations_load() {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files() {
        write_private(&directory.path().join(name), &content);
    }
    let main = directory.path().join("config.toml");
    let mut shown = 0;
    for page in pages() {
        for block in page.blocks("toml") {
            write_private(&main, &complete(&block.text));
            let at = format!("{}:{}", page.path.display(), block.line);
            match Config::load(&main, &Environment::default()) {
                Ok(loaded) => assert_eq!(loaded.warnings, Vec::<String>::new(), "{at}"),
                Err(mistakes) => panic!("{at}: {mistakes}"),
            }
            shown += 1;
        }
    }
    assert!(shown > 10, "only {shown} configurations are shown");
}
