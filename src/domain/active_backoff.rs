//! A backoff of polls, with the cause that events report for it.

use super::{backoff::Backoff, clock::Moment, tracker::FailureCause};

/// A backoff that no success has ended yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActiveBackoff {
    pub(crate) backoff: Backoff,
    pub(crate) cause: FailureCause,
    /// Whether every call of the official account would fail for the same reason.
    pub(crate) every_call: bool,
}

impl ActiveBackoff {
    /// Whether polls are still to be skipped.
    pub(crate) fn is_active_at(&self, now: Moment) -> bool {
        self.backoff.is_active_at(now)
    }
}

/// Ends the backoff after the success of a call that was sent at `sent_at`, unless the backoff began after that.
pub(crate) fn end_after_success(backoff: &mut Option<ActiveBackoff>, sent_at: Moment) {
    if backoff.is_some_and(|active| active.backoff.ended_by_request_sent_at(sent_at)) {
        *backoff = None;
    }
}
