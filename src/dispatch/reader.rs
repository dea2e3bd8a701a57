//! Reads on in the event log for one sink, with what the sink wants of it.

use std::{sync::Arc, time::Duration};

use super::window::Window;
use crate::{
    domain::{clock::Clock, failure_streak::FailureStreak},
    store::{EventFilter, LogPosition, Store, StoreError},
};

/// How many events are read ahead of what the sink has confirmed: about half a megabyte.
const READ_AHEAD: usize = 1000;

/// How many events that wait behind others of their kf account are put aside: some three megabytes. Behind so many of a sink
/// that refuses what comes before them, the log is not read on.
const PUT_ASIDE: usize = 100_000;

/// How far one read looks through the log for events that the sink wants: other readers of the store wait for it.
const LOOK_THROUGH: i64 = 20_000;

/// How long a store that cannot be read is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Fills a sink's window.
pub(super) struct Reader {
    sink: String,
    wanted: EventFilter,
    store: Store,
    clock: Arc<dyn Clock>,
    /// Not before, after a failure.
    retry_at: Duration,
    told: FailureStreak<()>,
}

impl Reader {
    pub(super) fn new(sink: String, wanted: EventFilter, store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { sink, wanted, store, clock, retry_at: Duration::ZERO, told: FailureStreak::default() }
    }

    /// Reads again what was put aside and has its turn, and on if the window has room and the log goes on, up to `newest`.
    /// The sink could take so many events of kf accounts that nothing is under way of (`spare`). Whether to do so again at once:
    /// it may want nothing of what was looked through, or can take nothing of it yet.
    pub(super) async fn read_on(&mut self, window: &mut Window, newest: LogPosition, spare: usize) -> bool {
        if self.retry_at > self.clock.now().monotonic || !self.read_again(window).await {
            return false;
        }
        let goes_on =
            make_room(window, newest, spare) && self.read(window).await && make_room(window, newest, spare);
        goes_on || window.misses_some()
    }

    /// Whether that went well.
    async fn read_again(&mut self, window: &mut Window) -> bool {
        let missing = window.missing(READ_AHEAD.saturating_sub(window.len()));
        if missing.is_empty() {
            return true;
        }
        let read = self.store.read_these_events(missing.iter().map(|(_, id)| *id).collect()).await;
        self.told_of(read).map(|events| window.add_again(&missing, events)).is_some()
    }

    /// Whether that went well.
    async fn read(&mut self, window: &mut Window) -> bool {
        let after = window.read_to();
        let mut filter = EventFilter { after, ..self.wanted.clone() };
        if !(filter.types.is_empty() && filter.official_accounts.is_empty()) {
            filter.until = Some(LogPosition(after.0.saturating_add(LOOK_THROUGH)));
        }
        let read = self.store.read_events(filter, READ_AHEAD).await;
        self.told_of(read).map(|page| window.add(page.events, page.next)).is_some()
    }

    /// What was read, if it could be.
    fn told_of<T>(&mut self, read: Result<T, StoreError>) -> Option<T> {
        let now = self.clock.now();
        match read {
            Ok(read) => {
                if self.told.succeeded(now).is_some() {
                    tracing::info!(sink = %self.sink, "The event log can be read again");
                }
                Some(read)
            }
            Err(error) => {
                self.retry_at = now.monotonic + RETRY_AFTER;
                if self.told.failed((), now) {
                    let error = crate::chain(&error);
                    tracing::error!(sink = %self.sink, "The event log cannot be read, and will be again: {error}");
                }
                None
            }
        }
    }
}

/// Whether there is more to read and room for it: what waits makes room for what the sink could take at once.
fn make_room(window: &mut Window, newest: LogPosition, spare: usize) -> bool {
    if window.read_to() >= newest || window.aside() >= PUT_ASIDE {
        return false;
    }
    let is_full = |window: &Window| window.len() > READ_AHEAD / 2;
    // The first event of each stays. Where these alone fill it, the others would come and go for nothing.
    if is_full(window) && spare > 0 && window.kf_accounts() <= READ_AHEAD / 2 {
        window.put_waiting_aside();
    }
    !is_full(window)
}
