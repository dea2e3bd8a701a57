//! The minimum time between two token fetches.

use std::{sync::Arc, time::Duration};

use super::journal::TokenJournal;
use crate::domain::clock::Moment;

/// The minimum time between two token fetches for one official account, or for one component.
pub const MIN_FETCH_INTERVAL: Duration = Duration::from_secs(10);

/// Enforces [`MIN_FETCH_INTERVAL`] for one official account or component.
pub(super) struct MinFetchInterval {
    appid: Arc<str>,
    journal: Arc<dyn TokenJournal>,
    /// The earliest next fetch, on the monotonic clock.
    next_fetch_at: Duration,
}

impl MinFetchInterval {
    /// `last_fetch_ago`: how long before `now` the last fetch was recorded, if ever.
    pub(super) fn new(
        appid: Arc<str>,
        journal: Arc<dyn TokenJournal>,
        last_fetch_ago: Option<Duration>,
        now: Moment,
    ) -> Self {
        let remaining = last_fetch_ago.map_or(Duration::ZERO, |ago| MIN_FETCH_INTERVAL.saturating_sub(ago));
        Self { appid, journal, next_fetch_at: now.monotonic + remaining }
    }

    /// How long the next fetch has to wait.
    pub(super) fn left(&self, now: Moment) -> Duration {
        self.next_fetch_at.saturating_sub(now.monotonic)
    }

    /// Records that a fetch is about to start.
    pub(super) async fn record(&mut self, now: Moment) {
        self.next_fetch_at = now.monotonic + MIN_FETCH_INTERVAL;
        self.journal.record_fetch(&self.appid, now).await;
    }

    /// Makes the next fetch wait at least this long, because another process has fetched.
    pub(super) fn postpone(&mut self, now: Moment, wait: Duration) {
        self.next_fetch_at = self.next_fetch_at.max(now.monotonic + wait);
    }

    /// Restarts the interval if the failed fetch had been recorded: a slow failure must not be followed by an immediate
    /// fetch.
    pub(super) fn record_failure(&mut self, started_at: Moment, now: Moment) {
        if self.next_fetch_at > started_at.monotonic {
            self.next_fetch_at = now.monotonic + MIN_FETCH_INTERVAL;
        }
    }
}
