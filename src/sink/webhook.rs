//! Events by HTTP: one POST each, as structured CloudEvents, signed as Standard Webhooks.
//!
//! 2xx confirms. 400, 413 and 422 concern the event; 410 says that nothing more is wanted; everything else is the
//! receiver's or the network's trouble, and another attempt may succeed. Redirects are not followed: they would take
//! signed personal data to a place that nobody configured. The URL may hold a secret and is never shown.

mod signature;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use reqwest::{
    Client, ClientBuilder, Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

pub use self::signature::SigningKey;
use super::{DeliveryError, damaged};
use crate::{
    domain::{clock::Clock, retry_after::retry_after},
    store::StoredEvent,
    tls::{CaFileError, TlsRoots},
};

/// The media type of a CloudEvent in structured mode.
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/cloudevents+json; charset=utf-8");

/// How much of an answer is read, in bytes: the connection is kept if that was all of it.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// How long an answer's body is waited for: its status has said all that matters.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// How much of an answer is kept with a dead letter, in characters.
const ANSWER_CHARS: usize = 200;

/// Idle connections are closed before most servers would.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(25);

/// The headers that a webhook has anyway, or that HTTP itself makes: none of them can be added.
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
#[derive(Clone)]
pub struct WebhookOptions {
    /// Where to; may hold secrets anywhere.
    pub url: Url,
    /// Signing keys, the newest first; without any, nothing is signed.
    pub keys: Vec<SigningKey>,
    /// Headers to send along, none of [`OWN_HEADERS`]; values may be secrets.
    pub headers: HeaderMap,
    /// A file with PEM certificates to trust instead of those of the system.
    pub ca_file: Option<PathBuf>,
    /// The longest time until an answer.
    pub timeout: Duration,
    /// Deliveries that may be under way.
    pub max_in_flight: usize,
}

impl WebhookOptions {
    /// Scheme, host and port of the receiver: what may be shown of the URL.
    pub fn receiver(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// What is stored of the URL, to see whether it changes: a hash of all of it behind what may be shown.
    pub fn destination(&self) -> String {
        let hash = Sha256::digest(self.url.as_str());
        format!("{} {}", self.receiver(), BASE64_URL_SAFE_NO_PAD.encode(&hash[..12]))
    }
}

impl fmt::Debug for WebhookOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&HeaderName> = self.headers.keys().collect();
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

/// The HTTP client of a webhook could not be built.
#[derive(Debug, thiserror::Error)]
pub enum WebhookBuildError {
    /// The file with certificates.
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    /// The HTTP library.
    #[error("cannot set up the HTTP client")]
    Client(#[from] reqwest::Error),
}

/// A sink that posts.
pub struct WebhookSink {
    http: Client,
    options: WebhookOptions,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for WebhookSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WebhookSink").field(&self.options).finish()
    }
}

impl WebhookSink {
    /// Builds the client; connects to nothing yet.
    pub fn build(options: WebhookOptions, clock: Arc<dyn Clock>) -> Result<Self, WebhookBuildError> {
        // The client to WeChat warns of a system without a CA store.
        let roots = TlsRoots::load(options.ca_file.as_deref())?;
        let http = builder(&options).tls_certs_only(roots.http_certificates()).build()?;
        Ok(Self { http, options, clock })
    }

    /// Deliveries that may be under way.
    pub fn max_in_flight(&self) -> usize {
        self.options.max_in_flight
    }

    /// Posts one event.
    pub async fn deliver(&self, event: &StoredEvent) -> Result<(), DeliveryError> {
        let id = id_of(event)?;
        let timestamp = self.clock.now().wall.as_second().to_string();
        let mut request = self
            .http
            .post(self.options.url.clone())
            .headers(self.options.headers.clone())
            .header(CONTENT_TYPE, MEDIA_TYPE)
            .header("webhook-id", id)
            .header("webhook-timestamp", &timestamp);
        if !self.options.keys.is_empty() {
            let signatures = signature::signatures(&self.options.keys, id, &timestamp, event.json.as_bytes());
            request = request.header("webhook-signature", signatures);
        }
        match request.body(event.json.clone()).send().await {
            Ok(response) => self.judge(response).await,
            Err(error) => Err(DeliveryError::Retryable { reason: reason(error), after: None }),
        }
    }

    async fn judge(&self, response: Response) -> Result<(), DeliveryError> {
        let status = response.status();
        let asked_for = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let after = asked_for.and_then(|value| retry_after(value, self.clock.now().wall));
        let answer = beginning(response).await;
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                Err(DeliveryError::Refused { reason: format!("the receiver answers {status}"), answer })
            }
            StatusCode::GONE => {
                Err(DeliveryError::Stopped { reason: format!("the receiver answers {status}") })
            }
            status => {
                Err(DeliveryError::Retryable { reason: format!("the receiver answers {status}"), after })
            }
        }
    }
}

fn builder(options: &WebhookOptions) -> ClientBuilder {
    Client::builder()
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .retry(reqwest::retry::never())
        .user_agent(concat!("kfwatch/", env!("CARGO_PKG_VERSION")))
        .timeout(options.timeout)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(options.max_in_flight)
}

/// The innermost cause, which says most, without the URL.
fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "the receiver did not answer in time".to_owned();
    }
    let error = error.without_url();
    if let Some(reason) = certificate_refused(&error) {
        return reason;
    }
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// If that is what went wrong: what is wrong with the certificate, and what helps.
fn certificate_refused(error: &reqwest::Error) -> Option<String> {
    use rustls::CertificateError as Wrong;
    let mut cause: &(dyn std::error::Error + 'static) = error;
    let wrong = loop {
        if let Some(rustls::Error::InvalidCertificate(wrong)) = cause.downcast_ref() {
            break wrong;
        }
        cause = match cause.downcast_ref::<std::io::Error>() {
            // What it carries is not its source.
            Some(carrier) => carrier.get_ref()?,
            None => cause.source()?,
        };
    };
    let what_helps = match wrong {
        Wrong::UnknownIssuer => "set ca_file to the certificate of the authority that signed it, and restart",
        Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
            "put a name that it has into url, and restart, or have one made for this name"
        }
        Wrong::Expired | Wrong::ExpiredContext { .. } => "have it renewed",
        _ => "have it looked at by whoever runs the receiver",
    };
    Some(format!("the receiver's certificate is refused ({wrong}): {what_helps}"))
}

/// The id of the event, which its receiver drops duplicates by.
fn id_of(event: &StoredEvent) -> Result<&str, DeliveryError> {
    #[derive(Deserialize)]
    struct Identified<'a> {
        id: &'a str,
    }
    let identified: Option<Identified<'_>> = serde_json::from_str(&event.json).ok();
    let id = identified.map(|identified| identified.id);
    id.filter(|id| HeaderValue::from_str(id).is_ok()).ok_or_else(damaged)
}

/// The beginning of an answer, on one line. Whatever of it cannot be read does not matter.
async fn beginning(response: Response) -> String {
    let mut kept = Vec::new();
    // A body that comes slowly, or never, costs its connection, and no more time.
    let _ = tokio::time::timeout(ANSWER_PATIENCE, read_beginning(response, &mut kept)).await;
    let text = String::from_utf8_lossy(&kept);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ANSWER_CHARS).collect()
}

async fn read_beginning(mut response: Response, kept: &mut Vec<u8>) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        let room = (ANSWER_CHARS * 4).saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if read > MAX_ANSWER_BYTES {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        domain::event::EventType,
        store::{AccountId, LogPosition},
    };

    #[test]
    fn an_event_without_an_id_that_can_be_sent_is_refused_for_its_own_sake() {
        for json in ["", "{\"id\"", "{}", "{\"id\":7}", "{\"id\":\"a\\nb\"}"] {
            let event = StoredEvent {
                id: LogPosition(1),
                account: AccountId(1),
                sequence: 1,
                event_type: EventType::SessionStarted,
                observed_at: Timestamp::UNIX_EPOCH,
                json: json.to_owned(),
            };
            assert!(matches!(id_of(&event), Err(DeliveryError::Refused { .. })), "{json}");
        }
    }

    #[test]
    fn the_destination_changes_with_the_url_and_shows_no_secret() {
        let options = |url: &str| WebhookOptions {
            url: url.parse().unwrap(),
            keys: Vec::new(),
            headers: HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("s3cret"))]),
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
