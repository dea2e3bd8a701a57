//! The store's delivery steps: sinks, cursors, stops and dead letters.

use jiff::Timestamp;

use super::{
    Store,
    error::StoreError,
    sqlite::{cursors, dead_letters},
    types::{CursorRewind, DeadLetter, LogPosition, RegisteredSink, SinkRegistration, StoredSink},
};

impl Store {
    /// Registers the configured sinks and returns them in the same order. A new sink starts where its registration says;
    /// the others keep their cursors. Stored sinks that are not given count as removed from `now` on. Idempotent.
    pub async fn register_sinks(
        &self,
        registrations: Vec<SinkRegistration>,
        now: Timestamp,
    ) -> Result<Vec<RegisteredSink>, StoreError> {
        self.sqlite.write(move |tx| cursors::register(tx, &registrations, now)).await
    }

    /// All sinks, also removed ones. The cost does not grow with the number of undelivered events.
    pub async fn sinks(&self) -> Result<Vec<StoredSink>, StoreError> {
        self.sqlite.read(cursors::all).await
    }

    /// One sink. The cost does not grow with the number of undelivered events.
    pub async fn sink(&self, sink: &str) -> Result<StoredSink, StoreError> {
        let sink = sink.to_owned();
        let stored = self.sqlite.read_for_delivery(move |connection| cursors::one(connection, &sink)).await?;
        stored.ok_or(StoreError::UnknownSink)
    }

    /// Moves a sink's cursor forward to `to`, never back. Idempotent.
    pub async fn advance_cursor(&self, sink: &str, to: LogPosition) -> Result<(), StoreError> {
        let sink = sink.to_owned();
        let is_known = self.sqlite.write(move |tx| cursors::advance(tx, &sink, to)).await?;
        if is_known { Ok(()) } else { Err(StoreError::UnknownSink) }
    }

    /// Moves a sink's cursor back before the retained events that were observed at `since` or later. A cursor that is
    /// already before them stays. Idempotent.
    pub async fn rewind_cursor(&self, sink: &str, since: Timestamp) -> Result<CursorRewind, StoreError> {
        let sink = sink.to_owned();
        let rewind = self.sqlite.write(move |tx| cursors::rewind(tx, &sink, since)).await?;
        rewind.ok_or(StoreError::UnknownSink)
    }

    /// Records that a sink receives no more events until it is resumed or its destination changes. Idempotent.
    pub async fn stop_sink(&self, sink: &str, reason: &str, at: Timestamp) -> Result<(), StoreError> {
        let (sink, reason) = (sink.to_owned(), reason.to_owned());
        self.sqlite.write(move |tx| cursors::stop(tx, &sink, &reason, at)).await
    }

    /// Stops a sink and lets pruning remove events that it has not acknowledged. Removed events are recorded as missed, and
    /// the cursor moves past them. Idempotent.
    pub async fn suspend_sink(&self, sink: &str, reason: &str, at: Timestamp) -> Result<(), StoreError> {
        let (sink, reason) = (sink.to_owned(), reason.to_owned());
        self.sqlite.write(move |tx| cursors::suspend(tx, &sink, &reason, at)).await
    }

    /// Resumes a stopped or suspended sink and returns its cursor. Idempotent.
    pub async fn resume_sink(&self, sink: &str) -> Result<LogPosition, StoreError> {
        let sink = sink.to_owned();
        self.sqlite.write(move |tx| cursors::resume(tx, &sink)).await?.ok_or(StoreError::UnknownSink)
    }

    /// Stores a dead letter and returns how many the sink has now. Idempotent: the last call for an event wins. Moves no
    /// cursor: after a crash before that, the event is delivered again, and perhaps becomes a dead letter again.
    pub async fn add_dead_letter(&self, letter: DeadLetter) -> Result<u64, StoreError> {
        self.sqlite.write(move |tx| dead_letters::add(tx, &letter)).await
    }

    /// Dead letters of a sink after `after` in the order of the log, at most `limit`.
    pub async fn dead_letters(
        &self,
        sink: &str,
        after: LogPosition,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let sink = sink.to_owned();
        self.sqlite.read(move |connection| dead_letters::read_after(connection, &sink, after, limit)).await
    }

    /// The first dead letters of a sink that are to be delivered again, in the order of the log, at most `limit`.
    pub async fn dead_letters_to_retry(
        &self,
        sink: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let sink = sink.to_owned();
        let read = move |connection: &_| dead_letters::read_to_retry(connection, &sink, limit);
        self.sqlite.read_for_delivery(read).await
    }

    /// The events after `after` that are dead letters of a sink.
    pub async fn dead_letters_after(
        &self,
        sink: &str,
        after: LogPosition,
    ) -> Result<Vec<LogPosition>, StoreError> {
        let sink = sink.to_owned();
        let read = move |connection: &_| dead_letters::ids_after(connection, &sink, after);
        self.sqlite.read_for_delivery(read).await
    }

    /// Marks all dead letters of a sink to be delivered again and returns how many. They stay dead letters until they are
    /// acknowledged. Idempotent.
    pub async fn retry_dead_letters(&self, sink: &str) -> Result<u64, StoreError> {
        let sink = sink.to_owned();
        self.sqlite.write(move |tx| dead_letters::retry_all(tx, &sink)).await
    }

    /// Removes one dead letter, which the sink has acknowledged. Idempotent.
    pub async fn remove_dead_letter(&self, sink: &str, event: LogPosition) -> Result<(), StoreError> {
        let sink = sink.to_owned();
        self.sqlite.write(move |tx| dead_letters::remove(tx, &sink, event)).await
    }

    /// Removes all dead letters of a sink and returns how many.
    pub async fn drop_dead_letters(&self, sink: &str) -> Result<u64, StoreError> {
        let sink = sink.to_owned();
        self.sqlite.write(move |tx| dead_letters::remove_all(tx, &sink)).await
    }
}
