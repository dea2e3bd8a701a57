//! Where events go. A sink delivers what it is given and confirms it, or says whether another attempt makes sense;
//! it reads no log, keeps no cursor and waits for nothing: that is [`crate::dispatch`]'s.

pub mod jsonl;
pub mod nats;
pub mod webhook;

use std::{sync::Arc, time::Duration};

use crate::store::StoredEvent;
use jsonl::JsonlSink;
use nats::NatsSink;
use webhook::WebhookSink;

/// One configured destination.
#[derive(Debug)]
pub enum Sink {
    /// JSON lines, to standard output or a file.
    Jsonl(JsonlSink),
    /// Events by HTTP.
    Webhook(Box<WebhookSink>),
    /// Events to NATS JetStream.
    Nats(NatsSink),
}

/// Why events were not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// Another attempt may succeed.
    #[error("{reason}")]
    Retryable {
        /// What went wrong.
        reason: String,
        /// How long to wait at least, if the sink said so.
        after: Option<Duration>,
    },
    /// The sink is there and refuses these events for their own sake.
    #[error("{reason}")]
    Refused {
        /// In what way; fit for the log.
        reason: String,
        /// What it said, shortened; it may repeat personal data of the event.
        answer: String,
    },
    /// The sink wants no more events, until a person says otherwise.
    #[error("{reason}")]
    Stopped {
        /// How it said so.
        reason: String,
    },
    /// Whoever read the events has gone for good.
    #[error("the reader of standard output has gone")]
    Gone,
}

/// How events are handed to a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Up to so many in the order of the log, and the next ones when those are confirmed.
    Together(usize),
    /// One by one, with up to so many deliveries under way, and of each kf account one.
    OneByOne(usize),
}

impl Sink {
    /// How events are to be handed to it.
    pub fn pace(&self) -> Pace {
        match self {
            Self::Jsonl(_) => Pace::Together(jsonl::BATCH),
            Self::Webhook(sink) => Pace::OneByOne(sink.max_in_flight()),
            Self::Nats(sink) => Pace::OneByOne(sink.max_in_flight()),
        }
    }

    /// Closes its file, if it has one; the next delivery opens it anew. Waits for nothing.
    pub fn reopen_file(&self) {
        if let Self::Jsonl(sink) = self {
            sink.reopen();
        }
    }

    /// Delivers events in order; `Ok` means that all of them are confirmed.
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

/// Of an event from which what its sink needs cannot be read: it can never be delivered.
fn damaged() -> DeliveryError {
    DeliveryError::Refused {
        reason: "the event log is damaged here: this is no whole event".to_owned(),
        answer: String::new(),
    }
}
