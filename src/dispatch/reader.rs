//! Reads the event log for one sink.

use std::{sync::Arc, time::Duration};

use super::{backoff::store_backoff, window::Window};
use crate::{
    domain::{clock::Clock, failure_streak::FailureStreak},
    store::{EventFilter, LogPosition, Store, StoreError},
};

/// How many unacknowledged events are read ahead: about half a megabyte.
const READ_AHEAD: usize = 1000;

/// How many events that wait for earlier ones of their kf account are evicted: some three megabytes. The log is not read
/// further than that while the sink refuses the earlier ones.
const MAX_EVICTED: usize = 100_000;

/// How many events of the log one read scans for those that pass the filter: other dispatchers wait for the connection.
const MAX_SCANNED: i64 = 20_000;

/// Fills a sink's window.
pub(super) struct Reader {
    sink: String,
    filter: EventFilter,
    store: Store,
    clock: Arc<dyn Clock>,
    /// No read before, after a failure.
    retry_at: Duration,
    failures: FailureStreak<()>,
}

impl Reader {
    pub(super) fn new(sink: String, filter: EventFilter, store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { sink, filter, store, clock, retry_at: Duration::ZERO, failures: FailureStreak::default() }
    }

    /// Reloads evicted events whose turn has come. Then reads the log up to `newest`, if the window has room. `spare` is how
    /// many events of idle kf accounts the sink could receive now. Returns whether to read again at once: the filter may
    /// have excluded everything that was read, or everything waits for earlier events.
    pub(super) async fn read(&mut self, window: &mut Window, newest: LogPosition, spare: usize) -> bool {
        if self.retry_at > self.clock.now().monotonic || !self.reload(window).await {
            return false;
        }
        let has_more = has_room(window, newest, spare)
            && self.read_next(window).await
            && has_room(window, newest, spare);
        has_more || window.has_to_reload()
    }

    /// Returns whether it succeeded.
    async fn reload(&mut self, window: &mut Window) -> bool {
        let to_reload = window.to_reload(READ_AHEAD.saturating_sub(window.len()));
        if to_reload.is_empty() {
            return true;
        }
        let read = self.store.read_events_at(to_reload.iter().map(|(_, id)| *id).collect()).await;
        self.observe(read).map(|events| window.add_reloaded(&to_reload, events)).is_some()
    }

    /// Returns whether it succeeded.
    async fn read_next(&mut self, window: &mut Window) -> bool {
        let after = window.read_to();
        let mut filter = EventFilter { after, ..self.filter.clone() };
        if !(filter.types.is_empty() && filter.official_accounts.is_empty()) {
            filter.until = Some(LogPosition(after.0.saturating_add(MAX_SCANNED)));
        }
        let read = self.store.read_events(filter, READ_AHEAD).await;
        self.observe(read).map(|page| window.add(page.events, page.next)).is_some()
    }

    /// Logs failures and recoveries, and backs off after a failure.
    fn observe<T>(&mut self, read: Result<T, StoreError>) -> Option<T> {
        let now = self.clock.now();
        match read {
            Ok(read) => {
                if self.failures.succeeded(now).is_some() {
                    tracing::info!(sink = %self.sink, "Event log readable again");
                }
                Some(read)
            }
            Err(error) => {
                self.retry_at = now.monotonic + store_backoff();
                if self.failures.failed((), now) {
                    let error = crate::chain(&error);
                    tracing::error!(sink = %self.sink, "Event log not readable; will retry: {error}");
                }
                None
            }
        }
    }
}

/// Whether there is more to read and room for it. First evicts waiting events if the sink could receive others at once.
fn has_room(window: &mut Window, newest: LogPosition, spare: usize) -> bool {
    if window.read_to() >= newest || window.evicted() >= MAX_EVICTED {
        return false;
    }
    let is_full = |window: &Window| window.len() > READ_AHEAD / 2;
    // The first event of each kf account stays. If these alone fill the window, evicting the others gains nothing.
    if is_full(window) && spare > 0 && window.kf_accounts() <= READ_AHEAD / 2 {
        window.evict_waiting();
    }
    !is_full(window)
}
