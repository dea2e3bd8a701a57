//! Sinks: their cursors, stops, backlogs and dead letters.

use futures_util::future::try_join_all;
use jiff::Timestamp;

use super::{
    Store, StoreError,
    types::{CursorRewind, DeadLetter, LogPosition, StoredSink},
};

/// All sinks of these stores, also removed ones: what is stored about each, added up over the stores. In the order of the first store.
pub async fn sinks_of(stores: &[Store]) -> Result<Vec<StoredSink>, StoreError> {
    let mut lists = try_join_all(stores.iter().map(Store::sinks)).await?.into_iter();
    let mut sinks = lists.next().unwrap_or_default();
    for stored in lists.flatten() {
        match sinks.iter_mut().find(|sink| sink.name == stored.name) {
            Some(sink) => sink.add(stored),
            None => sinks.push(stored),
        }
    }
    Ok(sinks)
}

impl Store {
    /// All sinks, also removed ones. The cost does not grow with the number of undelivered events.
    pub async fn sinks(&self) -> Result<Vec<StoredSink>, StoreError> {
        on_backend!(self, store => store.sinks().await)
    }

    /// One sink. The cost does not grow with the number of undelivered events.
    pub async fn sink(&self, sink: &str) -> Result<StoredSink, StoreError> {
        on_backend!(self, store => store.sink(sink).await)
    }

    /// Moves a sink's cursor forward to `to`, never back. Idempotent.
    pub async fn advance_cursor(&self, sink: &str, to: LogPosition) -> Result<(), StoreError> {
        on_backend!(self, store => store.advance_cursor(sink, to).await)
    }

    /// Moves a sink's cursor back before the retained events that were observed at `since` or later. A cursor that is
    /// already before them stays. Idempotent.
    pub async fn rewind_cursor(&self, sink: &str, since: Timestamp) -> Result<CursorRewind, StoreError> {
        on_backend!(self, store => store.rewind_cursor(sink, since).await)
    }

    /// Records that a sink receives no more events until it is resumed, or until its destination changes unless an operator has
    /// stopped it ([`BY_OPERATOR`](crate::domain::sink_state::BY_OPERATOR)). Idempotent.
    pub async fn stop_sink(&self, sink: &str, reason: &str, at: Timestamp) -> Result<(), StoreError> {
        on_backend!(self, store => store.stop_sink(sink, reason, at).await)
    }

    /// Stops a sink and lets pruning remove events that it has not acknowledged. Removed events are recorded as missed, and
    /// the cursor moves past them. A sink that is already stopped keeps its reason. Idempotent.
    pub async fn suspend_sink(&self, sink: &str, reason: &str, at: Timestamp) -> Result<(), StoreError> {
        on_backend!(self, store => store.suspend_sink(sink, reason, at).await)
    }

    /// Resumes a stopped or suspended sink and returns its cursor. Idempotent.
    pub async fn resume_sink(&self, sink: &str) -> Result<LogPosition, StoreError> {
        on_backend!(self, store => store.resume_sink(sink).await)
    }

    /// Stores a dead letter and returns how many the sink has now. Idempotent: the last call for an event wins. Moves no
    /// cursor: after a crash before that, the event is delivered again, and perhaps becomes a dead letter again.
    pub async fn add_dead_letter(&self, letter: DeadLetter) -> Result<u64, StoreError> {
        on_backend!(self, store => store.add_dead_letter(letter).await)
    }

    /// Dead letters of a sink after `after` in the order of the log, at most `limit`.
    pub async fn dead_letters(
        &self,
        sink: &str,
        after: LogPosition,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        on_backend!(self, store => store.dead_letters(sink, after, limit).await)
    }

    /// The first dead letters of a sink that are to be delivered again, in the order of the log, at most `limit`.
    pub async fn dead_letters_to_retry(
        &self,
        sink: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        on_backend!(self, store => store.dead_letters_to_retry(sink, limit).await)
    }

    /// The events after `after` that are dead letters of a sink.
    pub async fn dead_letters_after(
        &self,
        sink: &str,
        after: LogPosition,
    ) -> Result<Vec<LogPosition>, StoreError> {
        on_backend!(self, store => store.dead_letters_after(sink, after).await)
    }

    /// Marks all dead letters of a sink to be delivered again and returns how many. They stay dead letters until they are
    /// acknowledged. Idempotent.
    pub async fn retry_dead_letters(&self, sink: &str) -> Result<u64, StoreError> {
        on_backend!(self, store => store.retry_dead_letters(sink).await)
    }

    /// Removes one dead letter, which the sink has acknowledged. Idempotent.
    pub async fn remove_dead_letter(&self, sink: &str, event: LogPosition) -> Result<(), StoreError> {
        on_backend!(self, store => store.remove_dead_letter(sink, event).await)
    }

    /// Removes all dead letters of a sink and returns how many.
    pub async fn drop_dead_letters(&self, sink: &str) -> Result<u64, StoreError> {
        on_backend!(self, store => store.drop_dead_letters(sink).await)
    }
}
