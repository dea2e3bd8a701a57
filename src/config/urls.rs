//! Checks URLs. A URL may contain secrets anywhere, so no message quotes one.

use std::net::IpAddr;

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::table::Table;

/// Checks an http or https URL; plain http to other machines needs `allow_insecure`. `example` is a valid URL.
pub(super) fn check_url(
    key: &str,
    text: &SecretString,
    (example, allow_insecure): (&str, bool),
    table: &mut Table<'_>,
) -> Option<Url> {
    let Some(url) = parse_url(text.expose_secret()) else {
        table.wrong(key, format!("is not an http or https URL; write it like {example:?}"));
        return None;
    };
    if url.scheme() == "http" && !allow_insecure && !is_loopback(&url) {
        table.wrong(key, "would send secrets unencrypted; write https://, or set allow_insecure = true");
    }
    Some(url)
}

pub(super) fn parse_url(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
