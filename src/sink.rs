//! Destinations of events. A sink delivers the events that it is given and acknowledges them, or says whether to retry. It
//! reads no log, stores no cursor and does not back off; [`crate::dispatch`] does.

pub mod chat;
mod error;
mod http_client;
pub mod jsonl;
pub mod nats;
pub mod webhook;

use std::{sync::Arc, time::Duration};

pub use self::error::DeliveryError;
use self::{chat::ChatSink, jsonl::JsonlSink, nats::NatsSink, webhook::WebhookSink};
use crate::{domain::event::TestEvent, store::StoredEvent};

/// One configured destination.
#[derive(Debug)]
pub enum Sink {
    /// JSON lines, to standard output or a file.
    Jsonl(Box<JsonlSink>),
    /// HTTP requests.
    Webhook(Box<WebhookSink>),
    /// Messages to NATS JetStream.
    Nats(NatsSink),
    /// Messages for people, to a robot in a group chat.
    Chat(Box<ChatSink>),
}

/// What became of the events of a successful attempt: the sink has all of them, except those that it postpones.
#[derive(Debug, Default)]
pub struct Acknowledged {
    /// Events that the sink does not want yet, each with how long to wait: all of a kf account, or none.
    pub postponed: Vec<(Arc<StoredEvent>, Duration)>,
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
            Self::Chat(_) => DeliveryMode::Batch { max_events: chat::MAX_BATCH },
        }
    }

    /// How long the sink wants nothing after it has responded.
    pub fn interval(&self) -> Duration {
        match self {
            Self::Jsonl(_) | Self::Webhook(_) | Self::Nats(_) => Duration::ZERO,
            Self::Chat(sink) => sink.interval(),
        }
    }

    /// Where the sink sends events, for the log: a file, or the address of a server without secrets.
    pub fn destination(&self) -> String {
        match self {
            Self::Jsonl(sink) => sink.destination(),
            Self::Webhook(sink) => sink.receiver(),
            Self::Nats(sink) => sink.servers(),
            Self::Chat(sink) => sink.receiver(),
        }
    }

    /// Closes the sink's file, if it has one. The next delivery opens it again. Does not block.
    pub fn reopen_file(&self) {
        if let Self::Jsonl(sink) = self {
            sink.reopen();
        }
    }

    /// Sends a test event or message, and waits until it is acknowledged. Of a file it only checks that it can be written.
    pub async fn test(&self, sink: &str, event: &TestEvent) -> Result<(), DeliveryError> {
        match self {
            Self::Jsonl(sink) => sink.check_writable(),
            Self::Webhook(sink) => sink.post(&event.id, &event.json).await,
            Self::Nats(sink) => sink.publish_test(event).await,
            Self::Chat(robot) => robot.send_test(sink).await,
        }
    }

    /// Delivers events in order.
    pub async fn deliver(&self, events: &[Arc<StoredEvent>]) -> Result<Acknowledged, DeliveryError> {
        match self {
            Self::Jsonl(sink) => sink.deliver(events).await?,
            Self::Chat(sink) => return sink.deliver(events).await,
            Self::Webhook(sink) => {
                for event in events {
                    sink.deliver(event).await?;
                }
            }
            Self::Nats(sink) => {
                for event in events {
                    sink.deliver(event).await?;
                }
            }
        }
        Ok(Acknowledged::default())
    }
}
