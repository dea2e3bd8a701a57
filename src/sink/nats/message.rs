//! The message of an event.

use async_nats::{HeaderMap, HeaderValue, header::NATS_MESSAGE_ID};
use bytes::Bytes;
use serde::Deserialize;

use super::options::is_token;
use crate::{domain::event::TestEvent, sink::error::DeliveryError, store::StoredEvent};

/// The media type of a CloudEvent in structured mode.
const MEDIA_TYPE: &str = "application/cloudevents+json";

/// What is published for an event.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Message {
    /// Fails if the event lacks what the subject or the message id needs.
    pub(super) fn from_event(event: &StoredEvent, prefix: &str) -> Result<Self, DeliveryError> {
        #[derive(Deserialize)]
        struct Event<'a> {
            id: &'a str,
            #[serde(borrow)]
            data: Data<'a>,
        }
        #[derive(Deserialize)]
        struct Data<'a> {
            official_account: &'a str,
        }
        let damaged = DeliveryError::damaged_event;
        let parsed: Event<'_> = serde_json::from_str(&event.json).map_err(|_| damaged())?;
        let official_account = parsed.data.official_account;
        if !is_token(official_account) {
            return Err(damaged());
        }
        let event_type = event.event_type.as_str();
        let kind = event_type.strip_prefix("kf.").unwrap_or(event_type);
        Self::new(format!("{prefix}.{official_account}.{kind}"), parsed.id, &event.json)
    }

    /// The message of a test.
    pub(super) fn from_test(event: &TestEvent, prefix: &str) -> Result<Self, DeliveryError> {
        Self::new(format!("{prefix}.test"), &event.id, &event.json)
    }

    fn new(subject: String, id: &str, json: &str) -> Result<Self, DeliveryError> {
        let id: HeaderValue = id.parse().map_err(|_| DeliveryError::damaged_event())?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, id);
        headers.insert("Content-Type", MEDIA_TYPE);
        Ok(Self { subject, headers, payload: Bytes::copy_from_slice(json.as_bytes()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventType;

    #[test]
    fn subject_names_official_account_and_event_type() {
        let json = "{\"id\":\"af546c58\",\"data\":{\"official_account\":\"shop\",\"more\":1}}";
        for (event_type, expected) in [
            (EventType::SessionStarted, "acme.kf.shop.session.started"),
            (EventType::SessionEnded, "acme.kf.shop.session.ended"),
            (EventType::StateChanged, "acme.kf.shop.account.state_changed"),
        ] {
            let event = StoredEvent { event_type, ..StoredEvent::sample(json) };
            let message = Message::from_event(&event, "acme.kf").unwrap();
            assert_eq!(message.subject, expected);
            assert_eq!(message.headers.get("Nats-Msg-Id").unwrap().as_str(), "af546c58");
            assert_eq!(message.headers.get("Content-Type").unwrap().as_str(), "application/cloudevents+json");
            assert_eq!(message.payload, json);
        }
    }

    #[test]
    fn damaged_event_is_refused() {
        for json in [
            "",
            "{\"id\":\"a\"",
            "{\"id\":\"a\"}",
            "{\"id\":\"a\",\"data\":{}}",
            "{\"id\":\"a\\nb\",\"data\":{\"official_account\":\"shop\"}}",
            "{\"id\":\"a\",\"data\":{\"official_account\":\"\"}}",
            "{\"id\":\"a\",\"data\":{\"official_account\":\"a.b\"}}",
            "{\"id\":\"a\",\"data\":{\"official_account\":\">\"}}",
        ] {
            let message = Message::from_event(&StoredEvent::sample(json), "kf");
            assert!(matches!(message, Err(DeliveryError::Refused { .. })), "{json}");
        }
    }
}
