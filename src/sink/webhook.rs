//! Events by HTTP: one POST each, as structured CloudEvents, signed as Standard Webhooks.
//!
//! 2xx confirms. 400, 413 and 422 concern the event; 410 says that nothing more is wanted; everything else is the
//! receiver's or the network's trouble, and another attempt may succeed. Redirects are not followed: they would take
//! signed personal data to a place that nobody configured. The URL may hold a secret and is never shown.

mod signature;

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use reqwest::{
    Certificate, Client, Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect,
};
use serde::Deserialize;

pub use self::signature::SigningKey;
use super::DeliveryError;
use crate::{domain::clock::Clock, store::StoredEvent};

/// The media type of a CloudEvent in structured mode.
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/cloudevents+json; charset=utf-8");

/// How much of an answer is read, in bytes: the connection is kept if that was all of it.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// How much of an answer is kept with a dead letter, in characters.
const ANSWER_CHARS: usize = 200;

/// Idle connections are closed before most servers would.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(25);

/// Where to post, and how.
pub struct WebhookOptions {
    /// Where to.
    pub url: Url,
    /// Signing keys, the newest first; without any, nothing is signed.
    pub keys: Vec<SigningKey>,
    /// Headers to send along; values may be secrets.
    pub headers: HeaderMap,
    /// PEM certificates to trust beside the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// The longest time until an answer.
    pub timeout: Duration,
    /// Deliveries that may be under way.
    pub max_in_flight: usize,
}

/// The HTTP client of a webhook could not be built.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client")]
pub struct WebhookBuildError(#[from] reqwest::Error);

/// A sink that posts.
pub struct WebhookSink {
    http: Client,
    options: WebhookOptions,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for WebhookSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSink").field("host", &self.options.url.host_str()).finish_non_exhaustive()
    }
}

impl WebhookSink {
    /// Builds the client; connects to nothing yet.
    pub fn build(options: WebhookOptions, clock: Arc<dyn Clock>) -> Result<Self, WebhookBuildError> {
        let roots = match &options.ca_pem {
            Some(pem) => Certificate::from_pem_bundle(pem)?,
            None => Vec::new(),
        };
        let http = Client::builder()
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .user_agent(concat!("kfwatch/", env!("CARGO_PKG_VERSION")))
            .timeout(options.timeout)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(options.max_in_flight)
            .tls_certs_merge(roots)
            .build()?;
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
            Ok(response) => self.read(response).await,
            Err(error) => Err(retryable(crate::chain(&error.without_url()), None)),
        }
    }

    async fn read(&self, response: Response) -> Result<(), DeliveryError> {
        let status = response.status();
        let after = retry_after(response.headers(), self.clock.now().wall);
        let answer = beginning(response).await;
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                Err(DeliveryError::Refused { reason: status.to_string(), answer })
            }
            StatusCode::GONE => Err(DeliveryError::Stopped { reason: status.to_string() }),
            status => Err(retryable(format!("the receiver answers {status}"), after)),
        }
    }
}

/// The id of the event, which its receiver drops duplicates by.
fn id_of(event: &StoredEvent) -> Result<&str, DeliveryError> {
    #[derive(Deserialize)]
    struct Identified<'a> {
        id: &'a str,
    }
    serde_json::from_str(&event.json).map(|Identified { id }| id).map_err(|error| DeliveryError::Refused {
        reason: format!("the log is damaged here: {error}"),
        answer: String::new(),
    })
}

/// The beginning of an answer, on one line. Whatever of it cannot be read does not matter.
async fn beginning(mut response: Response) -> String {
    let (mut kept, mut read) = (Vec::new(), 0);
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if kept.len() < ANSWER_CHARS * 4 {
            kept.extend_from_slice(&chunk[..chunk.len().min(ANSWER_CHARS * 4)]);
        }
        if read > MAX_ANSWER_BYTES {
            break;
        }
    }
    let text = String::from_utf8_lossy(&kept);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ANSWER_CHARS).collect()
}

/// In seconds, or as a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO))
}

fn retryable(reason: String, after: Option<Duration>) -> DeliveryError {
    DeliveryError::Retryable { reason, after }
}
