//! A sink's cursor in the store: written behind the deliveries, which do not wait for it.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::{EventId, Store};

/// How long a store that failed is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Stores how far a sink has confirmed.
pub(super) struct Cursor {
    sink: String,
    stored: EventId,
    store: Store,
    /// Not before, after a failure.
    retry_at: Option<Instant>,
}

impl Cursor {
    /// The store has this cursor.
    pub(super) fn new(sink: String, stored: EventId, store: Store) -> Self {
        Self { sink, stored, store, retry_at: None }
    }

    /// Stores the cursor if it moved, else waits for ever. Can be dropped at any time: then it is stored at the next call, or was
    /// stored already, which does no harm.
    pub(super) async fn store(&mut self, cursor: EventId) {
        if cursor == self.stored {
            std::future::pending::<()>().await;
        }
        if let Some(retry_at) = self.retry_at {
            tokio::time::sleep_until(retry_at).await;
        }
        self.store_now(cursor).await;
    }

    /// Stores the cursor if it moved. A store that fails (a full disk, say) does not keep events from being delivered: the
    /// cursor is stored the next time, and a crash until then delivers again.
    pub(super) async fn store_now(&mut self, cursor: EventId) {
        if cursor == self.stored {
            return;
        }
        match self.store.advance_cursor(&self.sink, cursor).await {
            Ok(()) => {
                self.stored = cursor;
                self.retry_at = None;
            }
            Err(error) => {
                self.retry_at = Some(Instant::now() + RETRY_AFTER);
                tracing::debug!(sink = %self.sink, "Cursor not stored: {}", crate::chain(&error));
            }
        }
    }
}
