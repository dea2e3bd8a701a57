//! Checks `[api]`.

use std::time::Duration;

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::ca_file::check_ca_file;
use super::environment::LoadContext;
use super::findings::Findings;
use super::model::{ApiConfig, Proxy};
use super::raw;
use super::sources::KeyPath;
use super::urls::{is_loopback, parse_url};
use crate::wechat::http::HttpVersion;

const DEFAULT_BASE_URL: &str = "https://api.weixin.qq.com";

/// A longer timeout would be useless.
const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Each concurrent request has a connection of its own, and thus a file descriptor.
const MAX_IN_FLIGHT: usize = 10_000;

pub(super) fn check_api(
    keys: raw::Api,
    context: LoadContext<'_>,
    findings: &mut Findings,
) -> Option<ApiConfig> {
    let root = KeyPath::root(0);
    let at = root.name("api");
    let allow_insecure = findings.take(&at.name("allow_insecure"), keys.allow_insecure).unwrap_or(false);
    let base_url =
        findings.take(&at.name("base_url"), keys.base_url).unwrap_or_else(|| DEFAULT_BASE_URL.to_owned());
    let base_url = check_base_url(&at.name("base_url"), &base_url, allow_insecure, findings);

    let timeouts = Duration::from_millis(1)..=MAX_TIMEOUT;
    let key = at.name("timeout");
    let timeout = findings.duration(&key, keys.timeout, Duration::from_secs(10), timeouts.clone());
    let key = at.name("connect_timeout");
    let connect_timeout = findings.duration(&key, keys.connect_timeout, Duration::from_secs(3), timeouts);
    if connect_timeout > timeout {
        findings.wrong(&key, "is longer than api.timeout, which includes it; make it shorter");
    }

    let key = at.name("max_in_flight");
    let max_in_flight = findings.number(&key, keys.max_in_flight, 256, 1..=MAX_IN_FLIGHT);
    let key = at.name("max_in_flight_per_official_account");
    let per_official_account =
        findings.number(&key, keys.max_in_flight_per_official_account, 16, 1..=MAX_IN_FLIGHT);
    if per_official_account > max_in_flight {
        let problem = format!("is more than api.max_in_flight, {max_in_flight}; make it smaller");
        findings.wrong(&key, format!("{per_official_account} {problem}"));
    }
    let key = at.name("max_body_bytes");
    let max_body_bytes = findings.number(&key, keys.max_body_bytes, 4 << 20, 1 << 10..=256 << 20);

    let versions = [("1.1", HttpVersion::Http1), ("2", HttpVersion::Http2), ("auto", HttpVersion::Auto)];
    let http_version =
        findings.word(&at.name("http_version"), keys.http_version, &versions).unwrap_or(HttpVersion::Http1);
    let ca_file = check_ca_file(&at, keys.ca_file, context, findings);
    let proxy = findings.take(&at.name("proxy"), keys.proxy);
    let proxy = proxy.and_then(|proxy| check_proxy(&at.name("proxy"), &proxy, findings));
    Some(ApiConfig {
        base_url: base_url?,
        allow_insecure,
        connect_timeout,
        timeout,
        max_in_flight,
        max_in_flight_per_official_account: per_official_account,
        max_body_bytes,
        http_version,
        ca_file,
        proxy,
    })
}

fn check_base_url(
    key: &KeyPath<'_>,
    text: &str,
    allow_insecure: bool,
    findings: &mut Findings,
) -> Option<Url> {
    let mut wrong = |problem: &str| {
        findings.wrong(key, problem);
        None
    };
    let Some(url) = parse_url(text) else {
        return wrong("is not an http or https URL; write it like \"https://api.weixin.qq.com\"");
    };
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("contains a user name or a password; remove it");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong("contains a query or a fragment; write only scheme, host, port and path");
    }
    if url.scheme() == "http" && !allow_insecure && !is_loopback(&url) {
        return wrong("would send secrets unencrypted; write https://, or set api.allow_insecure = true");
    }
    Some(url)
}

fn check_proxy(key: &KeyPath<'_>, text: &SecretString, findings: &mut Findings) -> Option<Proxy> {
    let url = parse_url(text.expose_secret());
    if url.is_none() {
        findings.wrong(key, "is not an http or https URL; write it like \"http://proxy.example:3128\"");
    }
    url.map(|url| Proxy { url })
}
