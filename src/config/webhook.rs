//! Checks a sink of type "webhook". Its URL may hold a secret anywhere, and is in no message.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use reqwest::header::HeaderMap;
use secrecy::SecretString;

use super::Environment;
use super::api::check_ca_file;
use super::locate::Key;
use super::mistake::looks_like_a_secret;
use super::raw;
use super::report::Report;
use super::secret::{self, Written};
use super::setting::{OneOrMore, Setting};
use super::token::check_url;
use crate::sink::webhook::{OWN_HEADERS, SigningKey, WebhookOptions};

/// How many keys may sign at once.
const MAX_KEYS: usize = 8;

/// How many headers may be sent along.
const MAX_HEADERS: usize = 16;

/// The most deliveries that may be under way: each has a connection of its own.
const MOST_IN_FLIGHT: usize = 64;

/// The longest time-out: an event that hangs for so long holds back those of its kf account.
pub(super) const LONGEST_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Where relative paths begin, and the variables.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) base_dir: &'a Path,
    pub(super) environment: &'a Environment,
}

pub(super) fn webhook(
    at: &Key<'_>,
    keys: raw::Sink,
    around: Around<'_>,
    report: &mut Report,
) -> Option<WebhookOptions> {
    let allow_insecure = report.take(&at.name("allow_insecure"), keys.allow_insecure).unwrap_or(false);
    let url = report.require(&at.name("url"), keys.url, "url = \"https://crm.example/kf\"");
    let insecure = ("https://crm.example/kf", allow_insecure);
    let url = url.and_then(|url| check_url(&at.name("url"), &url, insecure, report));
    let written =
        Written { name: "secret", file: keys.secret_file, variable: keys.secret_env, in_place: keys.secret };
    let signing_keys = signing_keys(at, written, around, report);
    let headers = headers(&at.name("header_files"), keys.header_files, around.base_dir, report);
    let ca_file = report.take(&at.name("ca_file"), keys.ca_file);
    let ca_file = ca_file.map(|file| check_ca_file(&at.name("ca_file"), around.base_dir.join(file), report));
    let timeouts = Duration::from_millis(1)..=LONGEST_TIMEOUT;
    let timeout = report.duration(&at.name("timeout"), keys.timeout, Duration::from_secs(15), timeouts);
    let key = at.name("max_in_flight");
    let max_in_flight = report.number(&key, keys.max_in_flight, 8, 1..=MOST_IN_FLIGHT);
    Some(WebhookOptions { url: url?, keys: signing_keys, headers, ca_file, timeout, max_in_flight })
}

fn signing_keys(at: &Key<'_>, written: Written, around: Around<'_>, report: &mut Report) -> Vec<SigningKey> {
    let read = written.read_several(at, around.base_dir, around.environment, report);
    let Some((key, secrets)) = read else { return Vec::new() };
    let key = at.name(&key);
    if secrets.len() > MAX_KEYS {
        report.wrong(&key, format!("has {} keys, and {MAX_KEYS} are the most", secrets.len()));
    }
    let remedy = "write keys as Standard Webhooks has them: whsec_ and 24 to 64 bytes in base64";
    let parse = |(n, secret): (usize, &SecretString)| {
        let which = if secrets.len() > 1 { format!("key {}", n + 1) } else { "the key".to_owned() };
        let wrong = |problem| report.wrong(&key, format!("{which} {problem}; {remedy}"));
        SigningKey::parse(secret).map_err(wrong).ok()
    };
    secrets.iter().enumerate().filter_map(parse).collect()
}

fn headers(key: &Key<'_>, files: Setting<OneOrMore>, base_dir: &Path, report: &mut Report) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut first = HashMap::new();
    for (n, file) in report.list(key, files, MAX_HEADERS).unwrap_or_default().into_iter().enumerate() {
        let key = key.index(n);
        if looks_like_a_secret(&file) {
            report.wrong(&key, "looks like a secret itself, not like a file");
            continue;
        }
        let Some((name, value)) = secret::header(&key, &file, base_dir, report) else { continue };
        if OWN_HEADERS.contains(&name.as_str()) {
            report
                .wrong(&key, format!("{file:?} has the header {name}, which kfwatch sets itself; remove it"));
        } else if let Some(first) = first.insert(name.clone(), file.clone()) {
            report.wrong(&key, format!("{file:?} has the header {name}, as {first:?} has; remove one"));
        }
        headers.insert(name, value);
    }
    headers
}
