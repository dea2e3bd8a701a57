//! A sink's cursor in the store: written behind the deliveries, which do not wait for it.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::store::{LogPosition, Store, StoreError};

/// How long a store that failed is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Stores how far a sink has confirmed, one write at a time.
pub(super) struct Cursor {
    sink: String,
    stored: LogPosition,
    store: Store,
    writing: Option<(LogPosition, BoxFuture<'static, Result<(), StoreError>>)>,
    /// Not before, after a failure.
    retry_at: Option<Instant>,
}

impl Cursor {
    /// The store has this cursor.
    pub(super) fn new(sink: String, stored: LogPosition, store: Store) -> Self {
        Self { sink, stored, store, writing: None, retry_at: None }
    }

    /// Goes on storing the cursor if it moved, else waits for ever. Can be dropped at any time, and goes on at the next call.
    pub(super) async fn store(&mut self, cursor: LogPosition) {
        if self.writing.is_none() {
            if cursor == self.stored {
                std::future::pending::<()>().await;
            }
            if let Some(retry_at) = self.retry_at {
                tokio::time::sleep_until(retry_at).await;
            }
            self.begin(cursor);
        }
        self.end().await;
    }

    /// Stores the cursor if it moved, for the last time.
    pub(super) async fn finish(&mut self, cursor: LogPosition) {
        self.end().await;
        if cursor != self.stored {
            self.begin(cursor);
            self.end().await;
        }
    }

    fn begin(&mut self, cursor: LogPosition) {
        let (store, sink) = (self.store.clone(), self.sink.clone());
        self.writing = Some((cursor, Box::pin(async move { store.advance_cursor(&sink, cursor).await })));
    }

    /// A store that fails (a full disk, say) does not keep events from being delivered: the cursor is stored the next
    /// time, and a crash until then delivers again.
    async fn end(&mut self) {
        let Some((cursor, writing)) = &mut self.writing else { return };
        let (cursor, written) = (*cursor, writing.await);
        self.writing = None;
        match written {
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
