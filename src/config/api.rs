//! Checks `[api]`, and keeps its proxy from being shown.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};

use super::locate::Key;
use super::mistake::quote;
use super::report::Report;
use super::{Api, HttpVersion, raw};

const DEFAULT_BASE_URL: &str = "https://api.weixin.qq.com";

/// No time-out is of use beyond it.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// The most requests that may be under way: each has a connection of its own, and with it a file descriptor.
const MOST_IN_FLIGHT: usize = 10_000;

/// An http or https proxy. Its URL may hold a password, so `Debug` shows only the host.
#[derive(Clone)]
pub struct Proxy {
    url: Url,
}

impl Proxy {
    /// The whole URL, credentials included.
    pub fn url(&self) -> &Url {
        &self.url
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

pub(super) fn api(keys: raw::Api, base_dir: &Path, report: &mut Report) -> Option<Api> {
    let root = Key::root(0);
    let at = root.name("api");
    let allow_insecure = report.take(&at.name("allow_insecure"), keys.allow_insecure).unwrap_or(false);
    let base_url =
        report.take(&at.name("base_url"), keys.base_url).unwrap_or_else(|| DEFAULT_BASE_URL.to_owned());
    let base_url = check_base_url(&at.name("base_url"), &base_url, allow_insecure, report);

    let timeouts = Duration::from_millis(1)..=LONGEST_TIMEOUT;
    let timeout =
        report.duration(&at.name("timeout"), keys.timeout, Duration::from_secs(10), timeouts.clone());
    let key = at.name("connect_timeout");
    let connect_timeout = report.duration(&key, keys.connect_timeout, Duration::from_secs(3), timeouts);
    if connect_timeout > timeout {
        report.wrong(&key, "is longer than api.timeout, of which it is a part; make it shorter");
    }

    let max_in_flight = report.number(&at.name("max_in_flight"), keys.max_in_flight, 256, 1..=MOST_IN_FLIGHT);
    let key = at.name("max_in_flight_per_official_account");
    let per_official_account =
        report.number(&key, keys.max_in_flight_per_official_account, 16, 1..=MOST_IN_FLIGHT);
    if per_official_account > max_in_flight {
        report.wrong(
            &key,
            format!(
                "{per_official_account} is more than api.max_in_flight, {max_in_flight}; make it smaller"
            ),
        );
    }
    let key = at.name("max_body_bytes");
    let max_body_bytes = report.number(&key, keys.max_body_bytes, 4 << 20, 1 << 10..=256 << 20);

    let versions = [("1.1", HttpVersion::Http1), ("2", HttpVersion::Http2), ("auto", HttpVersion::Auto)];
    let http_version =
        report.word(&at.name("http_version"), keys.http_version, &versions).unwrap_or(HttpVersion::Http1);
    let ca_file = report.take(&at.name("ca_file"), keys.ca_file);
    let ca_file = ca_file.map(|file| check_ca_file(&at.name("ca_file"), base_dir.join(file), report));
    let proxy = report.take(&at.name("proxy"), keys.proxy);
    let proxy = proxy.and_then(|proxy| check_proxy(&at.name("proxy"), &proxy, report));
    Some(Api {
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

fn check_base_url(key: &Key<'_>, text: &str, allow_insecure: bool, report: &mut Report) -> Option<Url> {
    let mut wrong = |problem: &str| {
        report.wrong(key, problem);
        None
    };
    let Some(url) = parse_url(text) else {
        return wrong("is not an http or https URL; write it like \"https://api.weixin.qq.com\"");
    };
    // The text is not quoted in these: what should not be in it may be a secret.
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("has a user name or a password in it; remove it");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong("has a query or a fragment; write only scheme, host, port and path");
    }
    if url.scheme() == "http" && !allow_insecure && !is_loopback(&url) {
        return wrong("would send secrets unencrypted; write https://, or set api.allow_insecure = true");
    }
    Some(url)
}

fn check_proxy(key: &Key<'_>, text: &SecretString, report: &mut Report) -> Option<Proxy> {
    let url = parse_url(text.expose_secret());
    if url.is_none() {
        report.wrong(key, "is not an http or https URL; write it like \"http://proxy.example:3128\"");
    }
    url.map(|url| Proxy { url })
}

pub(super) fn parse_url(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

pub(super) fn check_ca_file(key: &Key<'_>, path: PathBuf, report: &mut Report) -> PathBuf {
    let shown = quote(&path.display().to_string());
    let problem = match std::fs::read(&path) {
        Err(e) => {
            Some(format!("{shown} cannot be read: {e}; write the path of a file with PEM certificates"))
        }
        Ok(pem) => match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
            Err(e) => Some(format!("{shown} is not PEM: {e}")),
            Ok(certificates) if certificates.is_empty() => Some(format!(
                "{shown} has no certificate in it; it needs at least one -----BEGIN CERTIFICATE-----"
            )),
            Ok(_) => None,
        },
    };
    problem.into_iter().for_each(|problem| report.wrong(key, problem));
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_no_password_of_a_proxy() {
        let proxy = Proxy { url: "http://me:hunter2@proxy.example:3128".parse().unwrap() };
        assert_eq!(format!("{proxy:?}"), r#"Proxy { host: Some("proxy.example"), .. }"#);
    }
}
