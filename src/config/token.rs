//! Checks `[official_accounts.token]`: where access tokens come from.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::environment::LoadContext;
use super::findings::Findings;
use super::mistake::quote;
use super::model::TokenConfig;
use super::names::check_appid;
use super::raw;
use super::secret::SecretSetting;
use super::secret_file::read_header;
use super::setting::{Section, Setting};
use super::sources::KeyPath;
use super::urls::check_url;
use crate::wechat::token::{ComponentCredentials, TicketSource, TokenServer, TokenSource};

/// The values of the key `source`.
const SOURCES: [&str; 5] = ["stable", "classic", "file", "server", "component"];

/// Checks one table after another. Tables that name the same component share its credentials.
pub(super) struct Tokens<'a> {
    context: LoadContext<'a>,
    /// By component_appid, each with the location of its first use.
    components: HashMap<String, (Arc<ComponentCredentials>, String)>,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(context: LoadContext<'a>) -> Self {
        Self { context, components: HashMap::new() }
    }

    pub(super) fn check(
        &mut self,
        at: &KeyPath<'_>,
        mut section: Section<raw::Token>,
        findings: &mut Findings,
    ) -> Option<TokenConfig> {
        if section.wrong.is_some() {
            findings.section(at, section);
            return None;
        }
        let source = std::mem::take(&mut section.keys.source);
        let source = findings.take(&at.name("source"), source).unwrap_or_else(|| "stable".to_owned());
        let keys = findings.section(at, section);
        if !SOURCES.contains(&source.as_str()) {
            let sources = SOURCES.map(|source| format!("{source:?}")).join(", ");
            findings.wrong(&at.name("source"), format!("{} is not one of {sources}", quote(&source)));
            return None;
        }
        reject_keys_of_other_sources(at, &keys, &source, findings);
        match source.as_str() {
            "classic" => {
                Some(TokenConfig::Own(TokenSource::Classic { secret: self.secret(at, keys, findings)? }))
            }
            "file" => {
                let json_pointer = check_json_pointer(at, keys.json_pointer, findings);
                let example = "path = \"/run/wechat/shop.token\"";
                let path =
                    self.context.base_dir.join(findings.require(&at.name("path"), keys.path, example)?);
                Some(TokenConfig::Own(TokenSource::File { path, json_pointer }))
            }
            "server" => {
                let json_pointer = check_json_pointer(at, keys.json_pointer, findings);
                let example = "url = \"https://tokens.example/shop\"";
                let url = findings.require(&at.name("url"), keys.url, example);
                let options = (keys.header_file, keys.allow_insecure);
                let server = self.server(at, ("url", url), options, findings);
                Some(TokenConfig::Own(TokenSource::Server(TokenServer { json_pointer, ..server? })))
            }
            "component" => self.component(at, keys, findings),
            _ => Some(TokenConfig::Own(TokenSource::Stable { secret: self.secret(at, keys, findings)? })),
        }
    }

    fn secret(&self, at: &KeyPath<'_>, keys: raw::Token, findings: &mut Findings) -> Option<SecretString> {
        let secret = SecretSetting {
            name: "secret",
            file: keys.secret_file,
            variable: keys.secret_env,
            in_place: keys.secret,
        };
        secret.read(at, self.context, findings)
    }

    /// Checks a server of tokens or tickets, except its `json_pointer`. `url` is the name of the key and its value.
    fn server(
        &self,
        at: &KeyPath<'_>,
        (key, url): (&str, Option<SecretString>),
        (header_file, allow_insecure): (Setting<String>, Setting<bool>),
        findings: &mut Findings,
    ) -> Option<TokenServer> {
        let allow_insecure = findings.take(&at.name("allow_insecure"), allow_insecure).unwrap_or(false);
        let header_key = at.name("header_file");
        let header_file = findings.take(&header_key, header_file);
        let header = header_file.and_then(|file| read_header(&header_key, &file, self.context, findings));
        let example = "https://tokens.example/shop";
        let url = check_url(&at.name(key), &url?, (example, allow_insecure), findings)?;
        Some(TokenServer { url, header, json_pointer: None })
    }

    fn component(
        &mut self,
        at: &KeyPath<'_>,
        mut keys: raw::Token,
        findings: &mut Findings,
    ) -> Option<TokenConfig> {
        let example = "component_appid = \"wx0123456789abcdef\"";
        let appid_key = at.name("component_appid");
        let appid = check_appid(&appid_key, std::mem::take(&mut keys.component_appid), example, findings);
        let ticket = self.ticket(at, &mut keys, findings);
        let refresh_token = SecretSetting {
            name: "refresh_token",
            file: std::mem::take(&mut keys.refresh_token_file),
            variable: std::mem::take(&mut keys.refresh_token_env),
            in_place: std::mem::take(&mut keys.refresh_token),
        };
        let refresh_token = refresh_token.read_optional(at, self.context, findings);
        let secret = self.secret(at, keys, findings);
        let (appid, secret, ticket) = (appid?, secret?, ticket?);
        let credentials = match self.components.entry(appid) {
            Entry::Vacant(vacant) => {
                let location = findings.location_of(&appid_key);
                let appid = vacant.key().as_str().into();
                let credentials = Arc::new(ComponentCredentials { appid, secret, ticket });
                Arc::clone(&vacant.insert((credentials, location)).0)
            }
            Entry::Occupied(known) => {
                let (known, first) = known.get();
                let same_secret = known.secret.expose_secret() == secret.expose_secret();
                for (same, what) in [(same_secret, "secret"), (known.ticket == ticket, "ticket")] {
                    if !same {
                        let problem = format!(
                            "{:?} has another {what} at {first}; write the same {what} at both",
                            known.appid
                        );
                        findings.wrong(&appid_key, problem);
                    }
                }
                Arc::clone(known)
            }
        };
        Some(TokenConfig::Component { credentials, refresh_token })
    }

    fn ticket(
        &self,
        at: &KeyPath<'_>,
        keys: &mut raw::Token,
        findings: &mut Findings,
    ) -> Option<TicketSource> {
        let json_pointer = check_json_pointer(at, std::mem::take(&mut keys.json_pointer), findings);
        let options = (std::mem::take(&mut keys.header_file), std::mem::take(&mut keys.allow_insecure));
        match (std::mem::take(&mut keys.ticket_file), std::mem::take(&mut keys.ticket_url)) {
            (Setting::Absent, Setting::Absent) => {
                findings.wrong(at, "has no ticket; set ticket_file or ticket_url");
                None
            }
            (Setting::Absent, url) => {
                let url = findings.take(&at.name("ticket_url"), url);
                let server = self.server(at, ("ticket_url", url), options, findings)?;
                Some(TicketSource::Server(TokenServer { json_pointer, ..server }))
            }
            (file, Setting::Absent) => {
                let absent = [options.0.is_absent(), options.1.is_absent()];
                for (key, absent) in ["header_file", "allow_insecure"].into_iter().zip(absent) {
                    if !absent {
                        findings.wrong(&at.name(key), "applies to ticket_url, not to ticket_file; remove it");
                    }
                }
                let path = self.context.base_dir.join(findings.take(&at.name("ticket_file"), file)?);
                Some(TicketSource::File { path, json_pointer })
            }
            (_, _) => {
                findings.wrong(at, "has more than one ticket; set only one of ticket_file and ticket_url");
                None
            }
        }
    }
}

fn reject_keys_of_other_sources(at: &KeyPath<'_>, keys: &raw::Token, source: &str, findings: &mut Findings) {
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
    findings.reject_inapplicable(at, ("source", source), &keys);
}

fn check_json_pointer(at: &KeyPath<'_>, setting: Setting<String>, findings: &mut Findings) -> Option<String> {
    let key = at.name("json_pointer");
    let json_pointer = findings.take(&key, setting)?;
    if !json_pointer.starts_with('/') {
        let problem = "is not a JSON pointer; write it like \"/access_token\"";
        findings.wrong(&key, format!("{} {problem}", quote(&json_pointer)));
    }
    Some(json_pointer)
}
