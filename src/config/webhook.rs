//! Checks a sink of type "webhook". Its URL may contain secrets anywhere, so no message shows it.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};
use secrecy::SecretString;

use super::ca_file::check_ca_file;
use super::raw;
use super::secret::SecretSetting;
use super::secret_file::read_header;
use super::setting::{Setting, TextList};
use super::table::Table;
use super::urls::check_url;
use crate::secrets::RotatableSecret;
use crate::sink::webhook::{OWN_HEADERS, SigningKey, WebhookOptions};

/// How many keys may sign at once.
const MAX_KEYS: usize = 8;

/// How many headers may be added to each request.
const MAX_HEADERS: usize = 16;

/// Each concurrent delivery has a connection of its own.
const MAX_IN_FLIGHT: usize = 64;

/// An event delays the later events of its kf account until it times out.
const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 60);

pub(super) fn check_webhook(keys: raw::Sink, sink: &mut Table<'_>) -> Option<WebhookOptions> {
    let allow_insecure = sink.take("allow_insecure", keys.allow_insecure).unwrap_or(false);
    let url = sink.require("url", keys.url, "url = \"https://crm.example/kf\"");
    let insecure = ("https://crm.example/kf", allow_insecure);
    let url = url.and_then(|url| check_url("url", &url, insecure, sink));
    let secret = SecretSetting::new("secret", keys.secret_file, keys.secret_env, keys.secret);
    let signing_keys = signing_keys(secret, sink);
    let headers = headers(keys.header_files, sink);
    let ca_file = check_ca_file(keys.ca_file, sink);
    let timeouts = Duration::from_millis(1)..=MAX_TIMEOUT;
    let timeout = sink.duration("timeout", keys.timeout, Duration::from_secs(15), timeouts);
    let max_in_flight = sink.number("max_in_flight", keys.max_in_flight, 8, 1..=MAX_IN_FLIGHT);
    Some(WebhookOptions { url: url?, keys: signing_keys, headers, ca_file, timeout, max_in_flight })
}

fn signing_keys(secret: SecretSetting, sink: &mut Table<'_>) -> RotatableSecret<Vec<SigningKey>> {
    let Some((key, secrets)) = secret.read_several(sink) else { return Vec::new().into() };
    secrets.try_map(|secrets| parse_keys(secrets)).unwrap_or_else(|problem| {
        sink.wrong(&key, problem);
        Vec::new().into()
    })
}

fn parse_keys(secrets: &[SecretString]) -> Result<Vec<SigningKey>, String> {
    if secrets.len() > MAX_KEYS {
        return Err(format!("has {} keys, but at most {MAX_KEYS} are allowed", secrets.len()));
    }
    let parse = |(n, secret): (usize, &SecretString)| {
        let which = if secrets.len() > 1 { format!("key {}", n + 1) } else { "the key".to_owned() };
        SigningKey::parse(secret).map_err(|problem| format!("{which} {problem}"))
    };
    let parsed: Vec<_> = secrets.iter().enumerate().map(parse).collect();
    let problems: Vec<&str> = parsed.iter().filter_map(|key| Some(key.as_ref().err()?.as_str())).collect();
    if problems.is_empty() {
        return Ok(parsed.into_iter().flatten().collect());
    }
    let remedy = "write keys in the format of Standard Webhooks: whsec_ and 24 to 64 bytes in base64";
    Err(format!("{}; {remedy}", problems.join(", ")))
}

fn headers(
    files: Setting<TextList>,
    sink: &mut Table<'_>,
) -> Vec<RotatableSecret<(HeaderName, HeaderValue)>> {
    let key = "header_files";
    let mut headers = Vec::new();
    let mut file_of_header = HashMap::new();
    for (n, file) in sink.list(key, files, MAX_HEADERS).unwrap_or_default().into_iter().enumerate() {
        let header = read_header(&file, check_header, sink);
        let Ok(header) = header.map_err(|problem| sink.wrong_index(key, n, problem)) else { continue };
        let name = header.value().0.clone();
        if let Some(first) = file_of_header.insert(name.clone(), file.clone()) {
            let problem = format!("sets the header {name}, as {first:?} does; remove one");
            sink.wrong_index(key, n, format!("{file:?} {problem}"));
        }
        headers.push(header);
    }
    headers
}

fn check_header(name: &HeaderName) -> Result<(), String> {
    match OWN_HEADERS.contains(&name.as_str()) {
        true => Err(format!("sets the header {name}, which kfwatch sets itself; remove it")),
        false => Ok(()),
    }
}
