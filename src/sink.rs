//! Destinations of events. A sink delivers the events that it is given and acknowledges them, or says whether to retry. It
//! reads no log, stores no cursor and does not back off; [`crate::dispatch`] does.

mod error;
pub mod jsonl;
pub mod nats;
pub mod webhook;

use std::sync::Arc;

pub use self::error::DeliveryError;
use self::{jsonl::JsonlSink, nats::NatsSink, webhook::WebhookSink};
use crate::store::StoredEvent;

/// One configured destination.
#[derive(Debug)]
pub enum Sink {
    /// JSON lines, to standard output or a file.
    Jsonl(JsonlSink),
    /// HTTP requests.
    Webhook(Box<WebhookSink>),
    /// Messages to NATS JetStream.
    Nats(NatsSink),
}

/// How a sink takes events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the fields say what they are")]
pub enum DeliveryMode {
    /// In batches in the order of the log, one batch at a time.
    Batch { max_events: usize },
    /// One by one, several at a time, but at most one of each kf account.
    Concurrent { max_in_flight: usize },
}

impl Sink {
    /// How the sink takes events.
    pub fn delivery_mode(&self) -> DeliveryMode {
        match self {
            Self::Jsonl(_) => DeliveryMode::Batch { max_events: jsonl::MAX_BATCH },
            Self::Webhook(sink) => DeliveryMode::Concurrent { max_in_flight: sink.max_in_flight() },
            Self::Nats(sink) => DeliveryMode::Concurrent { max_in_flight: sink.max_in_flight() },
        }
    }

    /// Closes the sink's file, if it has one. The next delivery opens it again. Does not block.
    pub fn reopen_file(&self) {
        if let Self::Jsonl(sink) = self {
            sink.reopen();
        }
    }

    /// Delivers events in order; `Ok` means that all of them are acknowledged.
    pub async fn deliver(&self, events: &[Arc<StoredEvent>]) -> Result<(), DeliveryError> {
        match self {
            Self::Jsonl(sink) => sink.deliver(events).await,
            Self::Webhook(sink) => {
                for event in events {
                    sink.deliver(event).await?;
                }
                Ok(())
            }
            Self::Nats(sink) => {
                for event in events {
                    sink.deliver(event).await?;
                }
                Ok(())
            }
        }
    }
}
