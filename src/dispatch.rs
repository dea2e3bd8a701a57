//! From the event log to one sink: read behind the cursor, deliver, move the cursor.
//!
//! Each sink has a dispatcher of its own, so that a slow or dead sink holds back neither polling nor the others. The
//! cursor moves only when the sink has confirmed; what a crash leaves between the two is delivered again. A commit
//! wakes the dispatcher at once; it also looks by itself now and then, so that a lost wake-up delays and loses nothing.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    sink::{DeliveryError, Sink},
    store::{EventId, Store, StoreError},
};

/// How many events are read and delivered at a time: about half a megabyte.
const BATCH: usize = 1000;

/// How often the log is looked at without a wake-up.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The first wait after a failed attempt.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest wait after failed attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Delivers the log to one sink.
pub struct Dispatcher {
    name: String,
    sink: Sink,
    /// Up to where the sink has confirmed.
    cursor: EventId,
    /// Up to where that is stored.
    stored: EventId,
    store: Store,
    metrics: Arc<Metrics>,
}

/// The sink has ended for good; its undelivered events stay in the log.
#[derive(Debug, thiserror::Error)]
#[error("sink {name:?} has ended")]
pub struct SinkEnded {
    /// The sink.
    pub name: String,
    source: DeliveryError,
}

impl Dispatcher {
    /// A dispatcher that goes on behind `cursor`.
    pub fn new(name: String, sink: Sink, cursor: EventId, store: Store, metrics: Arc<Metrics>) -> Self {
        Self { name, sink, cursor, stored: cursor, store, metrics }
    }

    /// Delivers until `drain`, and then what is in the log by then, unless an attempt fails or it is aborted.
    pub async fn run(mut self, drain: CancellationToken) -> Result<(), SinkEnded> {
        let mut committed = self.store.committed();
        let mut failures = 0;
        loop {
            // Marked as seen before reading, so that a commit in between wakes us again.
            committed.borrow_and_update();
            let delivered = self.deliver_batch().await;
            let wait = match delivered {
                Ok(more) => {
                    self.recovered(std::mem::take(&mut failures));
                    if more {
                        continue;
                    }
                    LOOK_INTERVAL
                }
                Err(DeliveryError::Gone) => {
                    return Err(SinkEnded { name: self.name, source: DeliveryError::Gone });
                }
                Err(DeliveryError::Retryable { reason, after }) => {
                    failures += 1;
                    self.failed(failures, &reason);
                    after.unwrap_or_default().max(wait_after(failures, fastrand::f64())).min(LONGEST_WAIT)
                }
            };
            tokio::select! {
                biased; // What the last polls committed is delivered before the drain is obeyed.
                _ = committed.changed(), if failures == 0 => {}
                () = drain.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Whether there was anything to deliver, so that there may be more.
    async fn deliver_batch(&mut self) -> Result<bool, DeliveryError> {
        let events = self.store.read_events_after(self.cursor, BATCH).await.map_err(retryable)?;
        if let Some(last) = events.last().map(|event| event.id) {
            self.sink.deliver(&events).await?;
            // Confirmed: not to be delivered again by this process, whatever becomes of the stored cursor.
            self.cursor = last;
            if let Some(counters) = self.metrics.sink(&self.name) {
                counters.delivered(events.len() as u64);
            }
        }
        self.store_cursor().await;
        Ok(!events.is_empty())
    }

    /// Stores how far the sink has confirmed. A store that fails (a full disk, say) does not keep events from being
    /// delivered: the cursor is stored the next time, and a crash until then delivers again.
    async fn store_cursor(&mut self) {
        if self.stored == self.cursor {
            return;
        }
        match self.store.advance_cursor(&self.name, self.cursor).await {
            Ok(()) => self.stored = self.cursor,
            Err(error) => tracing::debug!(sink = %self.name, "Cursor not stored: {}", crate::chain(&error)),
        }
    }

    fn failed(&self, failures: u32, reason: &str) {
        if let Some(counters) = self.metrics.sink(&self.name) {
            counters.failed();
        }
        if failures == 1 {
            tracing::error!(sink = %self.name, "Delivery stands still and will be tried again: {reason}");
        } else {
            tracing::debug!(sink = %self.name, failures, "Delivery still stands still: {reason}");
        }
    }

    fn recovered(&self, failures: u32) {
        if failures > 0 {
            tracing::info!(sink = %self.name, failures, "Delivery goes on");
        }
    }
}

fn retryable(error: StoreError) -> DeliveryError {
    DeliveryError::Retryable { reason: crate::chain(&error), after: None }
}

/// Doubles from failure to failure, shortened by up to a fifth.
fn wait_after(failures: u32, jitter: f64) -> Duration {
    let wait = FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_WAIT);
    wait.mul_f64(1.0 - 0.2 * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_cap() {
        let waits = [1, 2, 3, 8, 9, 100].map(|failures| wait_after(failures, 0.0).as_millis());
        assert_eq!(waits, [500, 1000, 2000, 60_000, 60_000, 60_000]);
        assert!(wait_after(1, 1.0) >= Duration::from_millis(400));
    }
}
