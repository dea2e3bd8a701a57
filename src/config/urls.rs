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
    usable_url(text, (example, allow_insecure)).map_err(|problem| table.wrong(key, problem)).ok()
}

/// The same without reporting the problem.
pub(super) fn usable_url(
    text: &SecretString,
    (example, allow_insecure): (&str, bool),
) -> Result<Url, String> {
    let url = parse_url(text.expose_secret());
    let url = url.ok_or_else(|| format!("is not an http or https URL; write it like {example:?}"))?;
    if url.scheme() == "http" && !allow_insecure && !is_loopback(&url) {
        return Err("would send secrets unencrypted; write https://, or set allow_insecure = true".to_owned());
    }
    Ok(url)
}

pub(super) fn parse_url(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
