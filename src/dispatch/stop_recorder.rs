//! Stops a sink at once, and records the stop in the store as soon as the store takes it.
//!
//! A store with a full disk cannot record a stop. The sink receives nothing all the same, and pages and commands show that. If
//! the daemon restarts before the stop is recorded, the sink gets another attempt, and stops again.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::backoff::store_backoff;
use crate::{
    domain::{
        clock::Moment,
        sink_state::{BY_OPERATOR, SinkState},
    },
    status::SinkStatus,
    store::Store,
};

/// Stops and resumes a sink.
pub(super) struct StopRecorder {
    sink: String,
    store: Store,
    status: Arc<SinkStatus>,
    /// When the sink stopped, until that is recorded.
    unrecorded: Option<Timestamp>,
    /// When to try to record it again, after a failure.
    retry_at: Option<Duration>,
}

impl StopRecorder {
    /// The status has the stored state.
    pub(super) fn new(sink: String, store: Store, status: Arc<SinkStatus>) -> Self {
        Self { sink, store, status, unrecorded: None, retry_at: None }
    }

    /// Stops the sink.
    pub(super) fn stop(&mut self, reason: String, at: Timestamp) {
        self.unrecorded = Some(at);
        self.status.set_state(SinkState::Stopped { reason });
    }

    /// Stops the sink, as an operator has recorded in the store.
    pub(super) fn stop_by_operator(&mut self) {
        (self.unrecorded, self.retry_at) = (None, None);
        self.status.set_state(SinkState::Stopped { reason: BY_OPERATOR.to_owned() });
    }

    /// Stops or suspends the sink, as the store has recorded. A sink that is already stopped keeps its reason.
    pub(super) fn note_stored(&mut self, state: SinkState) {
        if !self.status.is_stopped() {
            self.status.set_state(state);
        }
    }

    /// Resumes the sink, as the store has recorded.
    pub(super) fn resume(&mut self) {
        (self.unrecorded, self.retry_at) = (None, None);
        self.status.set_state(SinkState::Delivering);
    }

    /// Records an unrecorded stop. If that fails, returns how long to wait before the next try.
    pub(super) async fn record(&mut self, now: Moment) -> Option<Duration> {
        let at = self.unrecorded?;
        let state = self.status.read().state;
        let reason = state.stop_reason()?;
        if let Some(wait) = self.retry_at.and_then(|retry_at| retry_at.checked_sub(now.monotonic))
            && !wait.is_zero()
        {
            return Some(wait);
        }
        let has_failed = self.retry_at.is_some();
        match self.store.stop_sink(&self.sink, reason, at).await {
            Ok(()) => {
                (self.unrecorded, self.retry_at) = (None, None);
                if has_failed {
                    tracing::info!(sink = %self.sink, "Stop of the sink stored");
                }
                None
            }
            Err(error) => {
                if !has_failed {
                    let error = crate::chain(&error);
                    tracing::warn!(sink = %self.sink, "Stop of the sink not stored; will retry: {error}");
                }
                let wait = store_backoff();
                self.retry_at = Some(now.monotonic + wait);
                Some(wait)
            }
        }
    }
}
