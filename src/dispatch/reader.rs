//! Reads on in the event log for one sink, with what the sink wants of it.

use std::{sync::Arc, time::Duration};

use super::window::Window;
use crate::{
    domain::{clock::Clock, streak::Streak},
    store::{EventFilter, EventId, Store},
};

/// How many events are read ahead of what the sink has confirmed: about half a megabyte.
const READ_AHEAD: usize = 1000;

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
    told: Streak<()>,
}

impl Reader {
    pub(super) fn new(sink: String, wanted: EventFilter, store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { sink, wanted, store, clock, retry_at: Duration::ZERO, told: Streak::default() }
    }

    /// Reads on if the window has room and the log goes on, up to `newest`. Whether to do so again at once: a sink may want
    /// nothing of what was looked through.
    pub(super) async fn read_on(&mut self, window: &mut Window, newest: EventId) -> bool {
        let has_room = |window: &Window| window.len() <= READ_AHEAD / 2 && window.read_to() < newest;
        if !has_room(window) || self.retry_at > self.clock.now().monotonic {
            return false;
        }
        self.read(window).await && has_room(window)
    }

    async fn read(&mut self, window: &mut Window) -> bool {
        let after = window.read_to();
        let mut filter = EventFilter { after, ..self.wanted.clone() };
        if !(filter.types.is_empty() && filter.official_accounts.is_empty()) {
            filter.until = Some(EventId(after.0.saturating_add(LOOK_THROUGH)));
        }
        let read = self.store.read_events(filter, READ_AHEAD).await;
        let now = self.clock.now();
        match read {
            Ok(page) => {
                window.add(page.events, page.next);
                if self.told.succeeded(now).is_some() {
                    tracing::info!(sink = %self.sink, "The event log can be read again");
                }
                true
            }
            Err(error) => {
                self.retry_at = now.monotonic + RETRY_AFTER;
                if self.told.failed((), now) {
                    let error = crate::chain(&error);
                    tracing::error!(sink = %self.sink, "The event log cannot be read, and will be again: {error}");
                }
                false
            }
        }
    }
}
