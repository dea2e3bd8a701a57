//! What is remembered of one collector of an official account.

use crate::domain::{backoff::Backoff, failure_reason::FailureReason, failure_streak::FailureStreak};

#[derive(Debug, Default)]
pub(super) struct CollectorState {
    pub(super) backoff: Option<Backoff>,
    pub(super) failure_streak: FailureStreak<FailureReason>,
}
