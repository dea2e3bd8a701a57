//! Where events go. A sink delivers what it is given and confirms it, or says whether another attempt makes sense;
//! it reads no log, keeps no cursor and waits for nothing: that is [`crate::dispatch`]'s.

pub mod jsonl;

use std::time::Duration;

use crate::store::StoredEvent;
use jsonl::JsonlSink;

/// One configured destination.
#[derive(Debug)]
pub enum Sink {
    /// JSON lines, to standard output or a file.
    Jsonl(JsonlSink),
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
    /// Whoever read the events has gone for good.
    #[error("the reader of standard output has gone")]
    Gone,
}

impl Sink {
    /// Delivers events in order; `Ok` means that all of them are confirmed.
    pub async fn deliver(&mut self, events: &[StoredEvent]) -> Result<(), DeliveryError> {
        match self {
            Self::Jsonl(sink) => sink.deliver(events).await,
        }
    }
}
