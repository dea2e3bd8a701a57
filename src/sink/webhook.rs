//! Sends events by HTTP: one POST each, as structured CloudEvents, signed as Standard Webhooks.
//!
//! A 2xx status acknowledges the event. 400, 413 and 422 refuse it. 410 stops the sink. Every other result is a problem of
//! the receiver or the network, and another attempt may succeed. A request whose connection broke before the response is
//! repeated once at once, within the same attempt: it may have met a connection that the receiver was just closing. Redirects are not followed: they would send personal data to
//! a place that is not configured. The URL may contain a secret and is never shown.

mod options;
mod signature;

use std::{fmt, sync::Arc};

use reqwest::{
    Client, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use serde::Deserialize;

pub use self::{
    options::{OWN_HEADERS, WebhookOptions},
    signature::SigningKey,
};
use super::{
    error::DeliveryError,
    http_client::{body_start, builder, reason},
};
use crate::{
    domain::{clock::Clock, peer_text::PeerText, retry_after::retry_after},
    http::broke_before_answer,
    store::StoredEvent,
    tls::{CaFileError, TlsRoots},
};

/// The media type of a CloudEvent in structured mode.
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/cloudevents+json; charset=utf-8");

/// The HTTP client of a webhook could not be built.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what happened")]
pub enum WebhookBuildError {
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    #[error("cannot set up the HTTP client")]
    Client(#[from] reqwest::Error),
}

/// A sink that sends HTTP requests.
pub struct WebhookSink {
    http: Client,
    /// Opens a new connection for each request.
    unpooled: Client,
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
        // The WeChat client warns if the system has no certificates.
        let roots = TlsRoots::load(options.ca_file.as_deref())?;
        let client = |max_idle| {
            let builder = builder(options.timeout).pool_max_idle_per_host(max_idle);
            builder.tls_certs_only(roots.http_certificates()).build()
        };
        let (http, unpooled) = (client(options.max_in_flight)?, client(0)?);
        Ok(Self { http, unpooled, options, clock })
    }

    /// Scheme, host and port of the receiver.
    pub(super) fn receiver(&self) -> String {
        self.options.receiver()
    }

    /// How many requests may be in flight.
    pub fn max_in_flight(&self) -> usize {
        self.options.max_in_flight
    }

    /// Sends one event and waits for the response.
    pub async fn deliver(&self, event: &StoredEvent) -> Result<(), DeliveryError> {
        self.post(event_id(event)?, &event.json).await
    }

    /// Sends an event with this id and waits for the response.
    pub(super) async fn post(&self, id: &str, json: &str) -> Result<(), DeliveryError> {
        let timestamp = self.clock.now().wall.as_second().to_string();
        let keys = self.options.keys.for_attempt();
        let headers = self.options.headers.iter().map(|header| (*header.for_attempt()).clone());
        let headers: HeaderMap = headers.collect();
        let request = |client: &Client| {
            let request = client
                .post(self.options.url.clone())
                .headers(headers.clone())
                .header(CONTENT_TYPE, MEDIA_TYPE)
                .header("webhook-id", id)
                .header("webhook-timestamp", &timestamp)
                .body(json.to_owned());
            match &keys[..] {
                [] => request,
                keys => {
                    let signatures = signature::signatures(keys, id, &timestamp, json.as_bytes());
                    request.header("webhook-signature", signatures)
                }
            }
        };
        let response = match request(&self.http).send().await {
            // If the first request arrived nevertheless, the receiver recognizes the event by its id.
            Err(error) if broke_before_answer(&error) => request(&self.unpooled).send().await,
            first => first,
        };
        match response {
            Ok(response) => self.outcome(response).await,
            Err(error) => Err(DeliveryError::retryable(reason(error))),
        }
    }

    async fn outcome(&self, response: Response) -> Result<(), DeliveryError> {
        let status = response.status();
        let retry_after_header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let after = retry_after_header.and_then(|value| retry_after(value, self.clock.now().wall));
        let body = PeerText::from_bytes(&body_start(response).await);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.options.note_refused(),
            status if status.is_success() => self.options.note_accepted(),
            _ => {}
        }
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                Err(DeliveryError::Refused {
                    reason: format!("the receiver answers {status}"),
                    response: body,
                })
            }
            StatusCode::GONE => {
                Err(DeliveryError::Stopped { reason: format!("the receiver answers {status}") })
            }
            status => {
                let remedy = remedy(status).map(|remedy| format!("; {remedy}")).unwrap_or_default();
                Err(DeliveryError::Retryable {
                    reason: format!("the receiver answers {status}{remedy}"),
                    after,
                })
            }
        }
    }
}

/// What to do about a status after which delivery is retried.
fn remedy(status: StatusCode) -> Option<&'static str> {
    match status.as_u16() {
        300..=399 => Some("no redirects are followed: set url to the new address"),
        401 | 403 => Some("correct the files of secret_file and header_files, which are then read again"),
        404 | 405 => Some("correct url: nothing there accepts events"),
        415 => Some("the receiver must accept application/cloudevents+json"),
        408 | 425 | 429 => {
            Some("the receiver wants fewer requests for now; lower max_in_flight if that lasts")
        }
        502..=504 => Some("check whether the program behind the receiver's proxy runs"),
        500..=599 => Some("look into the receiver's own log"),
        _ => None,
    }
}

/// The id of the event, by which the receiver recognizes duplicates.
fn event_id(event: &StoredEvent) -> Result<&str, DeliveryError> {
    #[derive(Deserialize)]
    struct Identified<'a> {
        id: &'a str,
    }
    let identified: Option<Identified<'_>> = serde_json::from_str(&event.json).ok();
    let id = identified.map(|identified| identified.id);
    id.filter(|id| HeaderValue::from_str(id).is_ok()).ok_or_else(DeliveryError::damaged_event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_without_sendable_id_is_refused() {
        for json in ["", "{\"id\"", "{}", "{\"id\":7}", "{\"id\":\"a\\nb\"}"] {
            let event = StoredEvent::sample(json);
            assert!(matches!(event_id(&event), Err(DeliveryError::Refused { .. })), "{json}");
        }
    }
}
