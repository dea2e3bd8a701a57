//! Checks `[official_accounts.token]`: where access tokens come from.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::model::TokenConfig;
use super::names::check_appid;
use super::raw;
use super::secret::SecretSetting;
use super::secret_file::read_header;
use super::setting::{Section, Setting};
use super::table::Table;
use super::urls::check_url;
use crate::secrets::RotatableSecret;
use crate::wechat::token::{ComponentCredentials, TicketSource, TokenServer, TokenSource, read_token_file};

/// The values of the key `source`.
const SOURCES: [&str; 5] = ["stable", "classic", "file", "server", "component"];

/// Checks one table after another. Tables that name the same component share its credentials.
#[derive(Default)]
pub(super) struct Tokens {
    /// By component_appid, each with the location of its first use.
    components: HashMap<String, (Arc<ComponentCredentials>, String)>,
}

impl Tokens {
    pub(super) fn check(
        &mut self,
        section: Section<raw::Token>,
        token: &mut Table<'_>,
    ) -> Option<TokenConfig> {
        let mut keys = token.keys(section)?;
        let source = token.take("source", std::mem::take(&mut keys.source));
        let source = source.unwrap_or_else(|| "stable".to_owned());
        if !SOURCES.contains(&source.as_str()) {
            let sources = SOURCES.map(|source| format!("{source:?}")).join(", ");
            token.wrong_value("source", &source, &format!("is not one of {sources}"));
            return None;
        }
        reject_keys_of_other_sources(&keys, &source, token);
        let own = match source.as_str() {
            "component" => return self.component(keys, token),
            "classic" => TokenSource::Classic { secret: read_secret(keys, token)? },
            "file" => {
                let json_pointer = check_json_pointer(keys.json_pointer, token);
                let path = token.require("path", keys.path, "path = \"/run/wechat/shop.token\"")?;
                let path = token.context.base_dir.join(path);
                note_unusable_file("path", (&path, json_pointer.as_deref()), token);
                TokenSource::File { path, json_pointer }
            }
            "server" => {
                let json_pointer = check_json_pointer(keys.json_pointer, token);
                let url = token.require("url", keys.url, "url = \"https://tokens.example/shop\"");
                let options = (keys.header_file, keys.allow_insecure);
                let server = check_server(("url", url), options, token);
                TokenSource::Server(TokenServer { json_pointer, ..server? })
            }
            _ => TokenSource::Stable { secret: read_secret(keys, token)? },
        };
        Some(TokenConfig::Own(own))
    }

    fn component(&mut self, mut keys: raw::Token, token: &mut Table<'_>) -> Option<TokenConfig> {
        let appid = check_appid("component_appid", std::mem::take(&mut keys.component_appid), token);
        let ticket = check_ticket(&mut keys, token);
        let refresh_token = SecretSetting::new(
            "refresh_token",
            std::mem::take(&mut keys.refresh_token_file),
            std::mem::take(&mut keys.refresh_token_env),
            std::mem::take(&mut keys.refresh_token),
        );
        let refresh_token = refresh_token.read_optional(token);
        let secret = read_secret(keys, token);
        let (appid, secret, ticket) = (appid?, secret?, ticket?);
        let credentials = match self.components.entry(appid) {
            Entry::Vacant(vacant) => {
                let location = token.location_of("component_appid");
                let appid = vacant.key().as_str().into();
                let credentials = Arc::new(ComponentCredentials { appid, secret, ticket });
                Arc::clone(&vacant.insert((credentials, location)).0)
            }
            Entry::Occupied(known) => {
                let (known, first) = known.get();
                let same_secret = known.secret.value().expose_secret() == secret.value().expose_secret();
                for (same, what) in [(same_secret, "secret"), (known.ticket == ticket, "ticket")] {
                    if !same {
                        let problem = format!("has another {what} at {first}; write the same {what} at both");
                        token.wrong("component_appid", format!("{:?} {problem}", known.appid));
                    }
                }
                Arc::clone(known)
            }
        };
        Some(TokenConfig::Component { credentials, refresh_token })
    }
}

fn read_secret(keys: raw::Token, token: &mut Table<'_>) -> Option<RotatableSecret<SecretString>> {
    SecretSetting::new("secret", keys.secret_file, keys.secret_env, keys.secret).read(token)
}

/// Checks a server of tokens or tickets, except its `json_pointer`. `url` is the name of the key and its value.
fn check_server(
    (key, url): (&str, Option<SecretString>),
    (header_file, allow_insecure): (Setting<String>, Setting<bool>),
    token: &mut Table<'_>,
) -> Option<TokenServer> {
    let allow_insecure = token.take("allow_insecure", allow_insecure).unwrap_or(false);
    let header_file = token.take("header_file", header_file);
    let header = header_file.and_then(|file| {
        read_header(&file, |_| Ok(()), token).map_err(|problem| token.wrong("header_file", problem)).ok()
    });
    let url = check_url(key, &url?, ("https://tokens.example/shop", allow_insecure), token)?;
    Some(TokenServer { url, header, json_pointer: None })
}

fn check_ticket(keys: &mut raw::Token, token: &mut Table<'_>) -> Option<TicketSource> {
    let json_pointer = check_json_pointer(std::mem::take(&mut keys.json_pointer), token);
    let options = (std::mem::take(&mut keys.header_file), std::mem::take(&mut keys.allow_insecure));
    match (std::mem::take(&mut keys.ticket_file), std::mem::take(&mut keys.ticket_url)) {
        (Setting::Absent, Setting::Absent) => {
            token.wrong_table("has no ticket; set ticket_file or ticket_url");
            None
        }
        (Setting::Absent, url) => {
            let url = token.take("ticket_url", url);
            let server = check_server(("ticket_url", url), options, token)?;
            Some(TicketSource::Server(TokenServer { json_pointer, ..server }))
        }
        (file, Setting::Absent) => {
            let absent = [options.0.is_absent(), options.1.is_absent()];
            for (key, absent) in ["header_file", "allow_insecure"].into_iter().zip(absent) {
                if !absent {
                    token.wrong(key, "applies to ticket_url, not to ticket_file; remove it");
                }
            }
            let path = token.path("ticket_file", file)?;
            note_unusable_file("ticket_file", (&path, json_pointer.as_deref()), token);
            Some(TicketSource::File { path, json_pointer })
        }
        (_, _) => {
            token.wrong_table("has more than one ticket; set only one of ticket_file and ticket_url");
            None
        }
    }
}

/// Notes a file that exists and contains no usable token. This is not a mistake, because another program rewrites the file.
fn note_unusable_file(key: &str, (path, json_pointer): (&Path, Option<&str>), token: &mut Table<'_>) {
    if path.exists()
        && let Err(problem) = read_token_file(path, json_pointer)
    {
        let warning = format!("{}: {}: {problem}", token.location_of(key), token.at.name(key));
        token.findings.unusable_files.push(warning);
    }
}

fn reject_keys_of_other_sources(keys: &raw::Token, source: &str, token: &mut Table<'_>) {
    let secrets: &[&str] = &["stable", "classic", "component"];
    let texts: &[&str] = &["file", "server", "component"];
    let servers: &[&str] = &["server", "component"];
    let component: &[&str] = &["component"];
    let keys = [
        ("secret_file", keys.secret_file.is_absent(), secrets),
        ("secret_env", keys.secret_env.is_absent(), secrets),
        ("secret", keys.secret.is_absent(), secrets),
        ("path", keys.path.is_absent(), &["file"]),
        ("url", keys.url.is_absent(), &["server"]),
        ("json_pointer", keys.json_pointer.is_absent(), texts),
        ("header_file", keys.header_file.is_absent(), servers),
        ("allow_insecure", keys.allow_insecure.is_absent(), servers),
        ("component_appid", keys.component_appid.is_absent(), component),
        ("ticket_file", keys.ticket_file.is_absent(), component),
        ("ticket_url", keys.ticket_url.is_absent(), component),
        ("refresh_token_file", keys.refresh_token_file.is_absent(), component),
        ("refresh_token_env", keys.refresh_token_env.is_absent(), component),
        ("refresh_token", keys.refresh_token.is_absent(), component),
    ];
    token.reject_inapplicable(("source", source), &keys);
}

fn check_json_pointer(setting: Setting<String>, token: &mut Table<'_>) -> Option<String> {
    let json_pointer = token.take("json_pointer", setting)?;
    if !json_pointer.starts_with('/') {
        let problem = "is not a JSON pointer; write it like \"/access_token\"";
        token.wrong_value("json_pointer", &json_pointer, problem);
    }
    Some(json_pointer)
}
