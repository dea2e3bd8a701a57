//! The steps of delivery: where sinks stand in the log, what they refused, and what a person changes about it.

use jiff::Timestamp;

use super::{
    Store,
    error::StoreError,
    sqlite::{
        dead_letters::{self, Which},
        sinks,
    },
    types::{DeadLetter, LogPosition, Pending, RegisteredSink, Rewound, SinkRegistration, StoredSink},
};

impl Store {
    /// Brings the configured sinks in and returns how they stand, in the same order. A sink not seen before starts where
    /// its registration says; the others go on where they stood. Stored sinks that are not given count as removed from
    /// `now` on. Idempotent.
    pub async fn register_sinks(
        &self,
        registrations: Vec<SinkRegistration>,
        now: Timestamp,
    ) -> Result<Vec<RegisteredSink>, StoreError> {
        self.sqlite.write(move |tx| sinks::register(tx, &registrations, now)).await
    }

    /// All sinks that are known, also those that left the configuration a while ago.
    pub async fn sinks(&self) -> Result<Vec<StoredSink>, StoreError> {
        self.sqlite.read(sinks::all).await
    }

    /// Moves a sink's cursor forward to `to`; never back. Idempotent.
    pub async fn advance_cursor(&self, sink: &str, to: LogPosition) -> Result<(), StoreError> {
        let sink = sink.to_owned();
        let known = self.sqlite.write(move |tx| sinks::advance_cursor(tx, &sink, to)).await?;
        if known { Ok(()) } else { Err(StoreError::UnknownSink) }
    }

    /// Moves a sink's cursor back, so that it passes what was observed since once more, as far as the log still has it. A
    /// cursor that stands further back stays. Gives the cursor, and what lies between the two. Idempotent.
    pub async fn rewind_cursor(
        &self,
        sink: &str,
        since: Timestamp,
    ) -> Result<(LogPosition, Rewound), StoreError> {
        let sink = sink.to_owned();
        let rewound = self.sqlite.write(move |tx| sinks::rewind(tx, &sink, since)).await?;
        rewound.ok_or(StoreError::UnknownSink)
    }

    /// Remembers that a sink gets no more events, until it is resumed or delivers to another destination. Idempotent.
    pub async fn stop_sink(&self, sink: &str, reason: &str, at: Timestamp) -> Result<(), StoreError> {
        let (sink, reason) = (sink.to_owned(), reason.to_owned());
        self.sqlite.write(move |tx| sinks::stop(tx, &sink, &reason, at)).await
    }

    /// Stops a sink, and has it hold back pruning no longer: what is removed before it has confirmed it is noted as its gap,
    /// and its cursor moves behind it. Idempotent.
    pub async fn suspend_sink(&self, sink: &str, reason: &str, at: Timestamp) -> Result<(), StoreError> {
        let (sink, reason) = (sink.to_owned(), reason.to_owned());
        self.sqlite.write(move |tx| sinks::suspend(tx, &sink, &reason, at)).await
    }

    /// Lets a sink that was stopped or suspended get events again, and says where it goes on. Idempotent.
    pub async fn resume_sink(&self, sink: &str) -> Result<RegisteredSink, StoreError> {
        let sink = sink.to_owned();
        self.sqlite.write(move |tx| sinks::resume(tx, &sink)).await?.ok_or(StoreError::UnknownSink)
    }

    /// What a sink still has to deliver, and how it stands. Reading it costs the same however many events that is: all
    /// behind the cursor are counted, also those that the sink does not want and has not passed yet.
    pub async fn pending(&self, sink: &str) -> Result<Pending, StoreError> {
        let sink = sink.to_owned();
        self.sqlite
            .read(move |connection| sinks::pending(connection, &sink))
            .await?
            .ok_or(StoreError::UnknownSink)
    }

    /// Keeps an event that a sink refused for good, and says how many the sink has by now. Idempotent: what is told last counts.
    /// Moves no cursor: a crash before that delivers, and perhaps buries, the event again.
    pub async fn bury(&self, letter: DeadLetter) -> Result<u64, StoreError> {
        self.sqlite.write(move |tx| dead_letters::bury(tx, &letter)).await
    }

    /// Dead letters of a sink behind `after` in the order of the log, at most `limit`.
    pub async fn dead_letters(
        &self,
        sink: &str,
        after: LogPosition,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.read_dead_letters(sink, Which::All, after, limit).await
    }

    /// Dead letters of a sink that are to be delivered once more, behind `after` in the order of the log, at most `limit`.
    pub async fn dead_letters_to_retry(
        &self,
        sink: &str,
        after: LogPosition,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.read_dead_letters(sink, Which::ToRetry, after, limit).await
    }

    async fn read_dead_letters(
        &self,
        sink: &str,
        which: Which,
        after: LogPosition,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let sink = sink.to_owned();
        let read = move |connection: &_| dead_letters::read(connection, &sink, which, after, limit);
        self.sqlite.read(read).await
    }

    /// Which events behind `after` are dead letters of a sink.
    pub async fn dead_letters_behind(
        &self,
        sink: &str,
        after: LogPosition,
    ) -> Result<Vec<LogPosition>, StoreError> {
        let sink = sink.to_owned();
        self.sqlite.read(move |connection| dead_letters::behind(connection, &sink, after)).await
    }

    /// Has all dead letters of a sink delivered once more, and says how many. They stay dead letters until they are confirmed.
    /// Idempotent.
    pub async fn retry_dead_letters(&self, sink: &str) -> Result<u64, StoreError> {
        let sink = sink.to_owned();
        self.sqlite.write(move |tx| dead_letters::retry(tx, &sink)).await
    }

    /// The sink has confirmed this one after all. Idempotent.
    pub async fn dead_letter_delivered(&self, sink: &str, event: LogPosition) -> Result<(), StoreError> {
        let sink = sink.to_owned();
        self.sqlite.write(move |tx| dead_letters::delivered(tx, &sink, event)).await
    }

    /// Removes all dead letters of a sink for good, and says how many.
    pub async fn drop_dead_letters(&self, sink: &str) -> Result<u64, StoreError> {
        let sink = sink.to_owned();
        self.sqlite.write(move |tx| dead_letters::drop_all(tx, &sink)).await
    }
}
