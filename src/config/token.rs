//! Checks `[official_accounts.token]`: where access tokens come from.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::Arc;

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::api::{is_loopback, parse_url};
use super::locate::Key;
use super::mistake::quote;
use super::official_account::check_appid;
use super::report::Report;
use super::secret::{self, Written};
use super::setting::{Section, Setting};
use super::{ComponentCredentials, Environment, TicketSource, Token, TokenSource, raw};
use crate::wechat::token::TokenServer;

/// The words of the key `source`.
const SOURCES: [&str; 5] = ["stable", "classic", "file", "server", "component"];

/// Checks one table after the other, and shares the components that they name.
pub(super) struct Tokens<'a> {
    base_dir: &'a Path,
    environment: &'a Environment,
    /// By component_appid, each with the place where it was first written.
    components: HashMap<String, (Arc<ComponentCredentials>, String)>,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(base_dir: &'a Path, environment: &'a Environment) -> Self {
        Self { base_dir, environment, components: HashMap::new() }
    }

    pub(super) fn token(
        &mut self,
        at: &Key<'_>,
        mut section: Section<raw::Token>,
        report: &mut Report,
    ) -> Option<Token> {
        if section.wrong.is_some() {
            report.section(at, section);
            return None;
        }
        let source = std::mem::take(&mut section.keys.source);
        let source = report.take(&at.name("source"), source).unwrap_or_else(|| "stable".to_owned());
        let keys = report.section(at, section);
        if !SOURCES.contains(&source.as_str()) {
            let problem = format!("{} is not one of {}", quote(&source), words(&SOURCES, ", "));
            report.wrong(&at.name("source"), problem);
            return None;
        }
        refuse_keys_of_others(at, &keys, &source, report);
        match source.as_str() {
            "classic" => Some(Token::Own(TokenSource::Classic { secret: self.secret(at, keys, report)? })),
            "file" => {
                let json_pointer = check_json_pointer(at, keys.json_pointer, report);
                let example = "path = \"/run/wechat/shop.token\"";
                let path = self.base_dir.join(report.require(&at.name("path"), keys.path, example)?);
                Some(Token::Own(TokenSource::File { path, json_pointer }))
            }
            "server" => {
                let json_pointer = check_json_pointer(at, keys.json_pointer, report);
                let example = "url = \"https://tokens.example/shop\"";
                let url = report.require(&at.name("url"), keys.url, example);
                let header_file = (keys.header_file, keys.allow_insecure);
                let server = self.server(at, ("url", url), header_file, report);
                Some(Token::Own(TokenSource::Server(TokenServer { json_pointer, ..server? })))
            }
            "component" => self.component(at, keys, report),
            _ => Some(Token::Own(TokenSource::Stable { secret: self.secret(at, keys, report)? })),
        }
    }

    fn secret(&self, at: &Key<'_>, keys: raw::Token, report: &mut Report) -> Option<SecretString> {
        let written = Written {
            name: "secret",
            file: keys.secret_file,
            variable: keys.secret_env,
            in_place: keys.secret,
        };
        written.read(at, self.base_dir, self.environment, report)
    }

    /// A server without its `json_pointer`; `url` is its key and what is written there.
    fn server(
        &self,
        at: &Key<'_>,
        (key, url): (&str, Option<SecretString>),
        (header_file, allow_insecure): (Setting<String>, Setting<bool>),
        report: &mut Report,
    ) -> Option<TokenServer> {
        let allow_insecure = report.take(&at.name("allow_insecure"), allow_insecure).unwrap_or(false);
        let header_key = at.name("header_file");
        let header_file = report.take(&header_key, header_file);
        let header = header_file.and_then(|file| secret::header(&header_key, &file, self.base_dir, report));
        let example = "https://tokens.example/shop";
        let url = check_url(&at.name(key), &url?, (example, allow_insecure), report)?;
        Some(TokenServer { url, header, json_pointer: None })
    }

    fn component(&mut self, at: &Key<'_>, mut keys: raw::Token, report: &mut Report) -> Option<Token> {
        let example = "component_appid = \"wx0123456789abcdef\"";
        let appid_key = at.name("component_appid");
        let appid = check_appid(&appid_key, std::mem::take(&mut keys.component_appid), example, report);
        let ticket = self.ticket(at, &mut keys, report);
        let refresh_token = Written {
            name: "refresh_token",
            file: std::mem::take(&mut keys.refresh_token_file),
            variable: std::mem::take(&mut keys.refresh_token_env),
            in_place: std::mem::take(&mut keys.refresh_token),
        };
        let refresh_token = refresh_token.read_if_any(at, self.base_dir, self.environment, report);
        let secret = self.secret(at, keys, report);
        let (appid, secret, ticket) = (appid?, secret?, ticket?);
        let credentials = match self.components.entry(appid) {
            Entry::Vacant(vacant) => {
                let place = report.place_of(&appid_key);
                let appid = vacant.key().as_str().into();
                let credentials = Arc::new(ComponentCredentials { appid, secret, ticket });
                Arc::clone(&vacant.insert((credentials, place)).0)
            }
            Entry::Occupied(known) => {
                let (known, first) = known.get();
                let same_secret = known.secret.expose_secret() == secret.expose_secret();
                for (same, what) in [(same_secret, "secret"), (known.ticket == ticket, "ticket")] {
                    if !same {
                        let problem = format!(
                            "{:?} has another {what} at {first}; write the same one wherever it is named",
                            known.appid
                        );
                        report.wrong(&appid_key, problem);
                    }
                }
                Arc::clone(known)
            }
        };
        Some(Token::Component { credentials, refresh_token })
    }

    fn ticket(&self, at: &Key<'_>, keys: &mut raw::Token, report: &mut Report) -> Option<TicketSource> {
        let json_pointer = check_json_pointer(at, std::mem::take(&mut keys.json_pointer), report);
        let header_file = (std::mem::take(&mut keys.header_file), std::mem::take(&mut keys.allow_insecure));
        match (std::mem::take(&mut keys.ticket_file), std::mem::take(&mut keys.ticket_url)) {
            (Setting::Absent, Setting::Absent) => {
                report.wrong(at, "has no ticket; write ticket_file or ticket_url");
                None
            }
            (Setting::Absent, url) => {
                let url = report.take(&at.name("ticket_url"), url);
                let server = self.server(at, ("ticket_url", url), header_file, report)?;
                Some(TicketSource::Server(TokenServer { json_pointer, ..server }))
            }
            (file, Setting::Absent) => {
                let absent = [header_file.0.is_absent(), header_file.1.is_absent()];
                for (key, absent) in ["header_file", "allow_insecure"].into_iter().zip(absent) {
                    if !absent {
                        report.wrong(&at.name(key), "belongs to ticket_url, not to ticket_file; remove it");
                    }
                }
                let path = self.base_dir.join(report.take(&at.name("ticket_file"), file)?);
                Some(TicketSource::File { path, json_pointer })
            }
            (_, _) => {
                report.wrong(at, "has more than one ticket; write only one of ticket_file and ticket_url");
                None
            }
        }
    }
}

fn refuse_keys_of_others(at: &Key<'_>, keys: &raw::Token, source: &str, report: &mut Report) {
    let of_secret: &[&str] = &["stable", "classic", "component"];
    let of_text: &[&str] = &["file", "server", "component"];
    let of_url: &[&str] = &["server", "component"];
    for (key, absent, owners) in [
        ("secret_file", keys.secret_file.is_absent(), of_secret),
        ("secret_env", keys.secret_env.is_absent(), of_secret),
        ("secret", keys.secret.is_absent(), of_secret),
        ("path", keys.path.is_absent(), &["file"]),
        ("url", keys.url.is_absent(), &["server"]),
        ("json_pointer", keys.json_pointer.is_absent(), of_text),
        ("header_file", keys.header_file.is_absent(), of_url),
        ("allow_insecure", keys.allow_insecure.is_absent(), of_url),
        ("component_appid", keys.component_appid.is_absent(), &["component"]),
        ("ticket_file", keys.ticket_file.is_absent(), &["component"]),
        ("ticket_url", keys.ticket_url.is_absent(), &["component"]),
        ("refresh_token_file", keys.refresh_token_file.is_absent(), &["component"]),
        ("refresh_token_env", keys.refresh_token_env.is_absent(), &["component"]),
        ("refresh_token", keys.refresh_token.is_absent(), &["component"]),
    ] {
        if !absent && !owners.contains(&source) {
            let owners = words(owners, " | ");
            report
                .wrong(&at.name(key), format!("belongs to source = {owners}, not to {source:?}; remove it"));
        }
    }
}

fn words(words: &[&str], between: &str) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(between)
}

fn check_json_pointer(at: &Key<'_>, setting: Setting<String>, report: &mut Report) -> Option<String> {
    let key = at.name("json_pointer");
    let json_pointer = report.take(&key, setting)?;
    if !json_pointer.starts_with('/') {
        let problem = "is not a JSON pointer; write it like \"/access_token\"";
        report.wrong(&key, format!("{} {problem}", quote(&json_pointer)));
    }
    Some(json_pointer)
}

/// A URL that may hold secrets anywhere, and is not quoted; `example` is one as it would be written.
pub(super) fn check_url(
    key: &Key<'_>,
    text: &SecretString,
    (example, allow_insecure): (&str, bool),
    report: &mut Report,
) -> Option<Url> {
    let Some(url) = parse_url(text.expose_secret()) else {
        report.wrong(key, format!("is not an http or https URL; write it like {example:?}"));
        return None;
    };
    if url.scheme() == "http" && !allow_insecure && !is_loopback(&url) {
        report.wrong(key, "would send secrets unencrypted; write https://, or set allow_insecure = true");
    }
    Some(url)
}
