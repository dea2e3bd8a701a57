//! Why events were not acknowledged.

use std::time::Duration;

use crate::domain::peer_text::PeerText;

/// Why events were not acknowledged, and whether to retry.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// Another attempt may succeed.
    #[error("{reason}")]
    Retryable {
        /// What failed.
        reason: String,
        /// The shortest wait, if the sink asked for one.
        after: Option<Duration>,
    },
    /// The sink works and refuses these events.
    #[error("{reason}")]
    Refused {
        /// Why. Safe to log.
        reason: String,
        /// The sink's response, truncated. It may contain personal data of the event.
        response: PeerText,
    },
    /// The sink wants no more events until an operator resumes it.
    #[error("{reason}")]
    Stopped {
        /// What it responded.
        reason: String,
    },
    /// The program that read standard output has ended.
    #[error("standard output was closed by its reader")]
    OutputClosed,
}

impl DeliveryError {
    /// The error with the beginning of the response, for the person who asked for a test. It may contain personal data.
    pub fn with_response(&self) -> String {
        match self {
            Self::Refused { reason, response } if !response.is_empty() => format!("{reason}: {response}"),
            error => error.to_string(),
        }
    }

    pub(super) fn retryable(reason: String) -> Self {
        Self::Retryable { reason, after: None }
    }

    /// For an event that lacks what its sink needs, and so can never be delivered.
    pub(super) fn damaged_event() -> Self {
        Self::Refused {
            reason: "the event log is damaged here: this is not a whole event".to_owned(),
            response: PeerText::default(),
        }
    }
}
