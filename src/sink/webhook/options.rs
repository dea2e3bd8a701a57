//! The settings of a webhook.

use std::{fmt, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};
use sha2::{Digest, Sha256};

use super::signature::SigningKey;
use crate::{secrets::RotatableSecret, tls::CaFile};

/// The headers that a webhook or HTTP itself sets. They cannot be configured.
pub const OWN_HEADERS: [&str; 11] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "transfer-encoding",
    "upgrade",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];

/// Where to post, and how.
#[derive(Clone, PartialEq)]
pub struct WebhookOptions {
    /// The receiver; may contain secrets anywhere.
    pub url: Url,
    /// Signing keys, the newest first. Without keys, requests are not signed.
    pub keys: RotatableSecret<Vec<SigningKey>>,
    /// Additional headers, none of [`OWN_HEADERS`]; values may be secrets.
    pub headers: Vec<RotatableSecret<(HeaderName, HeaderValue)>>,
    /// A file with PEM certificates to trust instead of those of the system.
    pub ca_file: Option<CaFile>,
    /// The longest time until a response.
    pub timeout: Duration,
    /// How many requests may be in flight.
    pub max_in_flight: usize,
}

impl WebhookOptions {
    /// Scheme, host and port of the URL, safe to show.
    pub fn receiver(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Notes that the receiver refused the keys or a header.
    pub(super) fn note_refused(&self) {
        self.keys.refused();
        self.headers.iter().for_each(RotatableSecret::refused);
    }

    /// Notes that the receiver accepted the keys and all headers.
    pub(super) fn note_accepted(&self) {
        self.keys.accepted();
        self.headers.iter().for_each(RotatableSecret::accepted);
    }

    /// What is stored to notice that the URL changes: the receiver and a hash of the whole URL.
    pub fn destination(&self) -> String {
        let hash = Sha256::digest(self.url.as_str());
        format!("{} {}", self.receiver(), BASE64_URL_SAFE_NO_PAD.encode(&hash[..12]))
    }
}

impl fmt::Debug for WebhookOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<HeaderName> = self.headers.iter().map(|header| header.value().0.clone()).collect();
        f.debug_struct("WebhookOptions")
            .field("receiver", &self.receiver())
            .field("keys", &self.keys)
            .field("headers", &headers)
            .field("ca_file", &self.ca_file)
            .field("timeout", &self.timeout)
            .field("max_in_flight", &self.max_in_flight)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::CONTENT_TYPE;

    use super::*;

    #[test]
    fn destination_changes_with_url_and_shows_no_secret() {
        let options = |url: &str| WebhookOptions {
            url: url.parse().unwrap(),
            keys: Vec::new().into(),
            headers: vec![(CONTENT_TYPE, HeaderValue::from_static("s3cret")).into()],
            ca_file: None,
            timeout: Duration::from_secs(1),
            max_in_flight: 1,
        };
        let urls = [
            "https://crm.example/s3cret",
            "https://crm.example/s3cret2",
            "https://crm.example/s3cret?key=s3cret",
            "https://me:s3cret@crm.example/s3cret",
            "https://crm.example:8443/s3cret",
        ];
        let destinations: std::collections::HashSet<String> =
            urls.iter().map(|url| options(url).destination()).collect();
        assert_eq!(destinations.len(), urls.len());
        assert!(destinations.iter().all(|destination| destination.starts_with("https://crm.example")));
        let shown = format!("{destinations:?} {:?}", urls.map(options));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
