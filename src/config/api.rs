//! Checks `[api]`.

use std::time::Duration;

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::ca_file::check_ca_file;
use super::model::{ApiConfig, Proxy};
use super::raw;
use super::setting::{Section, check_half_width};
use super::table::Table;
use super::urls::{is_loopback, parse_url};
use crate::wechat::http::HttpVersion;

const DEFAULT_BASE_URL: &str = "https://api.weixin.qq.com";

/// A longer timeout would be useless.
const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Each concurrent request has a connection of its own, and thus a file descriptor.
const MAX_IN_FLIGHT: usize = 10_000;

pub(super) fn check_api(section: Section<raw::Api>, api: &mut Table<'_>) -> Option<ApiConfig> {
    let keys = api.keys(section).unwrap_or_default();
    let allow_insecure = api.take("allow_insecure", keys.allow_insecure).unwrap_or(false);
    let base_url = api.take("base_url", keys.base_url).unwrap_or_else(|| DEFAULT_BASE_URL.to_owned());
    let base_url =
        check_base_url(&base_url, allow_insecure).map_err(|problem| api.wrong("base_url", problem)).ok();

    let timeouts = Duration::from_millis(1)..=MAX_TIMEOUT;
    let timeout = api.duration("timeout", keys.timeout, Duration::from_secs(10), timeouts.clone());
    let connect_timeout =
        api.duration("connect_timeout", keys.connect_timeout, Duration::from_secs(3), timeouts);
    if connect_timeout > timeout {
        api.wrong("connect_timeout", "is longer than api.timeout, which includes it; make it shorter");
    }

    let max_in_flight = api.number("max_in_flight", keys.max_in_flight, 256, 1..=MAX_IN_FLIGHT);
    let key = "max_in_flight_per_official_account";
    let per_official_account =
        api.number(key, keys.max_in_flight_per_official_account, 16, 1..=MAX_IN_FLIGHT);
    if per_official_account > max_in_flight {
        let problem = format!("is more than api.max_in_flight, {max_in_flight}; make it smaller");
        api.wrong(key, format!("{per_official_account} {problem}"));
    }
    let max_body_bytes = api.number("max_body_bytes", keys.max_body_bytes, 4 << 20, 1 << 10..=256 << 20);

    let versions = [("1.1", HttpVersion::Http1), ("2", HttpVersion::Http2), ("auto", HttpVersion::Auto)];
    let http_version = api.word("http_version", keys.http_version, &versions).unwrap_or(HttpVersion::Http1);
    let ca_file = check_ca_file(keys.ca_file, api);
    let proxy = api.take("proxy", keys.proxy).and_then(|proxy| check_proxy(&proxy, api));
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

fn check_base_url(text: &str, allow_insecure: bool) -> Result<Url, String> {
    check_half_width(text)?;
    Ok(parse_base_url(text, allow_insecure)?)
}

fn parse_base_url(text: &str, allow_insecure: bool) -> Result<Url, &'static str> {
    let url =
        parse_url(text).ok_or("is not an http or https URL; write it like \"https://api.weixin.qq.com\"")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("contains a user name or a password; remove it");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("contains a query or a fragment; write only scheme, host, port and path");
    }
    if url.scheme() == "http" && !allow_insecure && !is_loopback(&url) {
        return Err("would send secrets unencrypted; write https://, or set api.allow_insecure = true");
    }
    Ok(url)
}

fn check_proxy(text: &SecretString, api: &mut Table<'_>) -> Option<Proxy> {
    let url = parse_url(text.expose_secret());
    if url.is_none() {
        api.wrong("proxy", "is not an http or https URL; write it like \"http://proxy.example:3128\"");
    }
    url.map(|url| Proxy { url })
}
