//! Whether a sink gets more events, and if not, why: shown at once, and remembered as soon as the store takes it.
//!
//! A store whose disk is full cannot be told. The sink gets nothing all the same, and whoever looks is to see that; a restart
//! before the store was told tries the sink once more, and is told the same by it.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{domain::clock::Moment, status::SinkStatus, store::Store};

/// How long a store that failed is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The stop of a sink, if there is one.
pub(super) struct Stop {
    sink: String,
    store: Store,
    status: Arc<SinkStatus>,
    reason: Option<String>,
    /// Since when the sink is stopped, while the store does not know.
    untold: Option<Timestamp>,
    /// When to tell it once more, after a failure.
    retry_at: Option<Duration>,
}

impl Stop {
    /// The store knows this reason, or of none.
    pub(super) fn known(sink: String, reason: Option<String>, store: Store, status: Arc<SinkStatus>) -> Self {
        status.set_stopped(reason.clone());
        Self { sink, store, status, reason, untold: None, retry_at: None }
    }

    /// Why the sink gets no more events, if it does not.
    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The sink gets no more from now on; the store is to be told.
    pub(super) fn begin(&mut self, reason: String, at: Timestamp) {
        self.untold = Some(at);
        self.set(Some(reason));
    }

    /// The store has stopped the sink. One that is stopped already stays so for its own reason.
    pub(super) fn begun_by_store(&mut self, reason: String) {
        if self.reason.is_none() {
            self.set(Some(reason));
        }
    }

    /// The sink gets events again, and the store knows.
    pub(super) fn end(&mut self) {
        (self.untold, self.retry_at) = (None, None);
        self.set(None);
    }

    /// Tells the store what it does not know yet. How long to wait before it is told once more, if that failed.
    pub(super) async fn tell_store(&mut self, now: Moment) -> Option<Duration> {
        let (at, reason) = (self.untold?, self.reason.as_deref()?);
        if let Some(wait) = self.retry_at.and_then(|retry_at| retry_at.checked_sub(now.monotonic))
            && !wait.is_zero()
        {
            return Some(wait);
        }
        let has_failed = self.retry_at.is_some();
        match self.store.stop_sink(&self.sink, reason, at).await {
            Ok(()) => {
                (self.untold, self.retry_at) = (None, None);
                if has_failed {
                    tracing::info!(sink = %self.sink, "The end of delivery is remembered now");
                }
                None
            }
            Err(error) => {
                if !has_failed {
                    let error = crate::chain(&error);
                    tracing::warn!(sink = %self.sink, "The end of delivery is not remembered, and will be: {error}");
                }
                self.retry_at = Some(now.monotonic + RETRY_AFTER);
                Some(RETRY_AFTER)
            }
        }
    }

    fn set(&mut self, reason: Option<String>) {
        self.status.set_stopped(reason.clone());
        self.reason = reason;
    }
}
