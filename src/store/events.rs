//! The event log.

use jiff::Timestamp;

use super::{
    Store, StoreError,
    types::{EventFilter, EventPage, LogPosition, StoredEvent},
};

impl Store {
    /// The events at these positions that the log still has, in the order of the log. For dispatchers.
    pub async fn read_events_at(&self, positions: Vec<LogPosition>) -> Result<Vec<StoredEvent>, StoreError> {
        on_backend!(self, store => store.read_events_at(positions).await)
    }

    /// The first matching events, at most `limit`, and how far the log was scanned. For dispatchers, and where no daemon is needed.
    pub async fn read_events(&self, filter: EventFilter, limit: usize) -> Result<EventPage, StoreError> {
        on_backend!(self, store => store.read_events(filter, limit).await)
    }

    /// Returns a position before the events that were observed at `since` or later, without a scan of all events before
    /// it. In a large log, events observed while the clock was wrong by more than an hour may be before that position.
    pub async fn position_before(&self, since: Timestamp) -> Result<LogPosition, StoreError> {
        on_backend!(self, store => store.position_before(since).await)
    }

    /// The number of events in the log. The cost does not grow with that number.
    pub async fn count_events(&self) -> Result<u64, StoreError> {
        on_backend!(self, store => store.count_events().await)
    }
}
