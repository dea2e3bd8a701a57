//! The event logs of several stores as one, in the order in which the events were observed.

use std::collections::VecDeque;

use futures_util::future::try_join_all;
use jiff::Timestamp;

use super::{
    Store, StoreError,
    types::{EventFilter, LogPosition, StoredEvent},
};

/// The fewest events that are read of one log at a time.
const MIN_READ: usize = 16;

/// Reads the logs of several stores. Within a log the order is that of the log; clocks of different machines may differ.
#[derive(Debug)]
pub struct MergedLog(Vec<Log>);

/// The log of one store.
#[derive(Debug)]
struct Log {
    store: Store,
    after: LogPosition,
    /// Events that were read and not yet returned.
    events: VecDeque<StoredEvent>,
    /// Whether there were no more events at the last look.
    is_at_end: bool,
}

impl MergedLog {
    /// The logs from the events on that were observed at `since` or later, or whole.
    pub async fn open(stores: Vec<Store>, since: Option<Timestamp>) -> Result<Self, StoreError> {
        let logs = stores.into_iter().map(|store| async move {
            let after = match since {
                Some(since) => store.position_before(since).await?,
                None => LogPosition::BEGINNING,
            };
            Ok::<_, StoreError>(Log { store, after, events: VecDeque::new(), is_at_end: false })
        });
        Ok(Self(try_join_all(logs).await?))
    }

    /// The next events that the filter selects, at most `limit`. Fewer if there are no more at this moment.
    pub async fn read(&mut self, filter: &EventFilter, limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        let per_log = (limit / self.0.len().max(1)).max(MIN_READ);
        self.0.iter_mut().for_each(|log| log.is_at_end = false);
        let mut events = Vec::new();
        while events.len() < limit {
            try_join_all(self.0.iter_mut().map(|log| log.fill(filter, per_log))).await?;
            let unread = self.0.iter_mut().filter(|log| !log.events.is_empty());
            let first = unread.min_by_key(|log| log.events.front().map(|event| event.observed_at));
            let Some(event) = first.and_then(|log| log.events.pop_front()) else { break };
            events.push(event);
        }
        Ok(events)
    }
}

impl Log {
    /// Reads the next events, unless some are here.
    async fn fill(&mut self, filter: &EventFilter, limit: usize) -> Result<(), StoreError> {
        if self.events.is_empty() && !self.is_at_end {
            let filter = EventFilter { after: self.after, ..filter.clone() };
            let page = self.store.read_events(filter, limit).await?;
            self.is_at_end = page.events.len() < limit;
            self.after = page.next;
            self.events = page.events.into();
        }
        Ok(())
    }
}
