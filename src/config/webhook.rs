//! Checks a sink of type "webhook". Its URL may contain secrets anywhere, so no message shows it.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::header::HeaderMap;
use secrecy::SecretString;

use super::ca_file::check_ca_file;
use super::environment::LoadContext;
use super::findings::Findings;
use super::raw;
use super::secret::SecretSetting;
use super::secret_file::read_header;
use super::setting::{Setting, TextList};
use super::sources::KeyPath;
use super::urls::check_url;
use crate::sink::webhook::{OWN_HEADERS, SigningKey, WebhookOptions};

/// How many keys may sign at once.
const MAX_KEYS: usize = 8;

/// How many headers may be added to each request.
const MAX_HEADERS: usize = 16;

/// Each concurrent delivery has a connection of its own.
const MAX_IN_FLIGHT: usize = 64;

/// An event delays the later events of its kf account until it times out.
const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 60);

pub(super) fn check_webhook(
    at: &KeyPath<'_>,
    keys: raw::Sink,
    context: LoadContext<'_>,
    findings: &mut Findings,
) -> Option<WebhookOptions> {
    let allow_insecure = findings.take(&at.name("allow_insecure"), keys.allow_insecure).unwrap_or(false);
    let url = findings.require(&at.name("url"), keys.url, "url = \"https://crm.example/kf\"");
    let insecure = ("https://crm.example/kf", allow_insecure);
    let url = url.and_then(|url| check_url(&at.name("url"), &url, insecure, findings));
    let secret = SecretSetting {
        name: "secret",
        file: keys.secret_file,
        variable: keys.secret_env,
        in_place: keys.secret,
    };
    let signing_keys = signing_keys(at, secret, context, findings);
    let headers = headers(&at.name("header_files"), keys.header_files, context, findings);
    let ca_file = check_ca_file(at, keys.ca_file, context, findings);
    let timeouts = Duration::from_millis(1)..=MAX_TIMEOUT;
    let timeout = findings.duration(&at.name("timeout"), keys.timeout, Duration::from_secs(15), timeouts);
    let key = at.name("max_in_flight");
    let max_in_flight = findings.number(&key, keys.max_in_flight, 8, 1..=MAX_IN_FLIGHT);
    Some(WebhookOptions { url: url?, keys: signing_keys, headers, ca_file, timeout, max_in_flight })
}

fn signing_keys(
    at: &KeyPath<'_>,
    secret: SecretSetting,
    context: LoadContext<'_>,
    findings: &mut Findings,
) -> Vec<SigningKey> {
    let Some((key, secrets)) = secret.read_several(at, context, findings) else { return Vec::new() };
    let key = at.name(&key);
    if secrets.len() > MAX_KEYS {
        findings.wrong(&key, format!("has {} keys, but at most {MAX_KEYS} are allowed", secrets.len()));
    }
    let remedy = "write keys in the format of Standard Webhooks: whsec_ and 24 to 64 bytes in base64";
    let parse = |(n, secret): (usize, &SecretString)| {
        let which = if secrets.len() > 1 { format!("key {}", n + 1) } else { "the key".to_owned() };
        let wrong = |problem| findings.wrong(&key, format!("{which} {problem}; {remedy}"));
        SigningKey::parse(secret).map_err(wrong).ok()
    };
    secrets.iter().enumerate().filter_map(parse).collect()
}

fn headers(
    key: &KeyPath<'_>,
    files: Setting<TextList>,
    context: LoadContext<'_>,
    findings: &mut Findings,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut file_of_header = HashMap::new();
    for (n, file) in findings.list(key, files, MAX_HEADERS).unwrap_or_default().into_iter().enumerate() {
        let key = key.index(n);
        let Some((name, value)) = read_header(&key, &file, context, findings) else { continue };
        if OWN_HEADERS.contains(&name.as_str()) {
            let problem = format!("sets the header {name}, which kfwatch sets itself; remove it");
            findings.wrong(&key, format!("{file:?} {problem}"));
        } else if let Some(first) = file_of_header.insert(name.clone(), file.clone()) {
            findings.wrong(&key, format!("{file:?} sets the header {name}, as {first:?} does; remove one"));
        }
        headers.insert(name, value);
    }
    headers
}
