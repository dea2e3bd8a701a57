//! Stores a sink's cursor while deliveries continue.

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::backoff::store_backoff;
use crate::store::{LogPosition, Store, StoreError};

/// Stores how far a sink has acknowledged, one write at a time.
pub(super) struct Cursor {
    sink: String,
    stored: LogPosition,
    store: Store,
    write: Option<(LogPosition, BoxFuture<'static, Result<(), StoreError>>)>,
    /// Set after a failure.
    retry_at: Option<Instant>,
}

impl Cursor {
    /// The stored cursor of a sink.
    pub(super) fn new(sink: String, stored: LogPosition, store: Store) -> Self {
        Self { sink, stored, store, write: None, retry_at: None }
    }

    /// Stores the cursor if it moved; otherwise never returns. Cancel safe: the next call continues the write.
    pub(super) async fn store(&mut self, cursor: LogPosition) {
        if self.write.is_none() {
            if cursor == self.stored {
                std::future::pending::<()>().await;
            }
            if let Some(retry_at) = self.retry_at {
                tokio::time::sleep_until(retry_at).await;
            }
            self.start_write(cursor);
        }
        self.finish_write().await;
    }

    /// Stores the cursor at once if it moved.
    pub(super) async fn finish(&mut self, cursor: LogPosition) {
        self.finish_write().await;
        if cursor != self.stored {
            self.start_write(cursor);
            self.finish_write().await;
        }
    }

    fn start_write(&mut self, cursor: LogPosition) {
        let (store, sink) = (self.store.clone(), self.sink.clone());
        self.write = Some((cursor, Box::pin(async move { store.advance_cursor(&sink, cursor).await })));
    }

    /// A failing store (a full disk, for example) does not stop deliveries. The cursor is stored later; a crash until then
    /// delivers the events again.
    async fn finish_write(&mut self) {
        let Some((cursor, write)) = &mut self.write else { return };
        let (cursor, written) = (*cursor, write.await);
        self.write = None;
        match written {
            Ok(()) => {
                self.stored = cursor;
                self.retry_at = None;
            }
            Err(error) => {
                self.retry_at = Some(Instant::now() + store_backoff());
                tracing::debug!(sink = %self.sink, "Cursor not stored: {}", crate::chain(&error));
            }
        }
    }
}
