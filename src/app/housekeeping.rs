//! Periodic work on the store: record when accounts were last seen, prune expired data, make room when the store has reached
//! its maximum size.
//!
//! Polls that change nothing are not stored one by one. Their send times are the lower bounds of `ended_between` after
//! a restart, so they are stored together at least every minute, and once more at the end of a drain.

use std::{
    mem::Discriminant,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    dispatch::admin::SinkAdmin,
    domain::{clock::Clock, failure_streak::FailureStreak},
    poll::OfficialAccount,
    status::WatchedAccount,
    store::{LastSeenUpdate, PruneLimits, Pruned, RoomOutcome, SizeLimit, Store, StoreError},
};

/// How often send times are stored.
const LAST_SEEN_INTERVAL: Duration = Duration::from_secs(30);

/// How often the store is pruned.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);

/// How long snapshots of unwatched accounts and cursors of removed sinks are kept.
const KEPT_AFTER_REMOVAL: Duration = Duration::from_secs(7 * 24 * 3600);

/// How many rows one transaction prunes at most: commits wait for it.
const PRUNE_BATCH: usize = 5000;

/// The share of `event_log_max_bytes`, in percent, from which on room is made. The rest is for commits in the meantime.
const MAKE_ROOM_FROM: u64 = 95;

/// Down to which share, so that room is not made all the time.
const MAKE_ROOM_TO: u64 = 90;

/// How long the sink that lags most may take to confirm an event before it is suspended.
const CATCH_UP: Duration = Duration::from_secs(5);

/// The reason recorded for a suspended sink.
const SUSPENDED: &str = "it lagged most when the store reached event_log_max_bytes";

/// How long to wait after room could not be made.
const ROOM_RETRY_AFTER: Duration = Duration::from_secs(60);

/// How many send times one transaction stores: commits wait for it.
const LAST_SEEN_BATCH: usize = 10_000;

/// The periodic work on the store.
pub(super) struct Housekeeping {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) official_accounts: Vec<Arc<OfficialAccount>>,
    pub(super) sinks: Arc<SinkAdmin>,
    pub(super) limits: config::StoreConfig,
    /// Failures of the store, logged once and not every half minute.
    pub(super) store_failures: Mutex<FailureStreak<Discriminant<StoreError>>>,
}

impl Housekeeping {
    /// Runs until `polling_stops`, and stores the last send times when all polls are done. Fails when another daemon has
    /// taken over the store: then this one must stop.
    pub(super) async fn run(
        self,
        polling_stops: CancellationToken,
        polls_done: CancellationToken,
    ) -> Result<(), StoreError> {
        tokio::select! {
            () = polling_stops.cancelled() => {}
            lost = self.record_last_seen_regularly() => return lost,
            // Each batch is a transaction of its own, so this can be dropped between two of them.
            () = self.prune_regularly() => {}
            () = self.make_room_when_full() => {}
        }
        polls_done.cancelled().await;
        self.record_last_seen().await
    }

    /// Returns only when the lease is lost.
    async fn record_last_seen_regularly(&self) -> Result<(), StoreError> {
        let mut interval = tokio::time::interval(LAST_SEEN_INTERVAL);
        loop {
            interval.tick().await;
            self.record_last_seen().await?;
        }
    }

    async fn prune_regularly(&self) {
        let mut interval = tokio::time::interval(PRUNE_INTERVAL);
        loop {
            interval.tick().await;
            self.prune().await;
        }
    }

    /// Stores the send times of polls that changed nothing else.
    async fn record_last_seen(&self) -> Result<(), StoreError> {
        let mut waiting: Vec<Arc<WatchedAccount>> = Vec::new();
        for of in &self.official_accounts {
            waiting.extend(
                of.accounts().iter().filter(|account| account.pending_last_seen().is_some()).cloned(),
            );
        }
        for batch in waiting.chunks(LAST_SEEN_BATCH) {
            // Read as late as possible: a poll may have committed a newer one meanwhile.
            let (accounts, updates): (Vec<_>, Vec<LastSeenUpdate>) =
                batch.iter().filter_map(|account| Some((account, account.pending_last_seen()?))).unzip();
            match self.store.record_sightings(updates.clone()).await {
                Ok(()) => {
                    self.log_recovery();
                    accounts
                        .iter()
                        .zip(&updates)
                        .for_each(|(account, stored)| account.last_seen_stored(stored));
                }
                Err(error @ StoreError::LeaseLost) => return Err(error),
                Err(error) => {
                    self.log_store_failure("Times of the last polls not stored", &error);
                    break;
                }
            }
        }
        Ok(())
    }

    async fn prune(&self) {
        let now = self.clock.now().wall;
        let before = |age: Duration| now.checked_sub(age).unwrap_or(Timestamp::MIN);
        let limits = PruneLimits {
            events_before: before(self.limits.event_retention),
            unwatched_before: before(KEPT_AFTER_REMOVAL),
            sinks_before: before(KEPT_AFTER_REMOVAL),
            dead_letters_before: before(self.limits.dead_letter_retention),
            batch: PRUNE_BATCH,
        };
        match self.store.prune(limits).await {
            Ok(pruned) if pruned != Pruned::default() => {
                let Pruned { events, snapshots, sinks, dead_letters } = pruned;
                tracing::info!(events, snapshots, sinks, dead_letters, "Pruned the store");
            }
            Ok(_) => {}
            Err(error) => self.log_store_failure("Store not pruned", &error),
        }
    }

    /// Never returns.
    async fn make_room_when_full(&self) {
        let mut used = self.store.used_bytes();
        let [from, to] =
            [MAKE_ROOM_FROM, MAKE_ROOM_TO].map(|share| self.limits.event_log_max_bytes / 100 * share);
        // Fails only when the store is closed, at the end of a drain.
        while used.wait_for(|used| *used > from).await.is_ok() {
            if let Err(error) = self.make_room(to).await {
                self.log_store_failure("No room made in the store", &error);
                tokio::time::sleep(ROOM_RETRY_AFTER).await;
            }
        }
        std::future::pending().await
    }

    /// Removes the oldest events until the store is no larger than this, or has no more events.
    async fn make_room(&self, bytes: u64) -> Result<(), StoreError> {
        let limit = SizeLimit { bytes, batch: PRUNE_BATCH };
        let (mut events, mut waited_for) = (0, None);
        loop {
            match self.store.make_room(limit).await? {
                RoomOutcome::Removed { events: removed } => events += removed,
                RoomOutcome::Blocked { sink, cursor } => {
                    let is_full = *self.store.used_bytes().borrow() > self.limits.event_log_max_bytes;
                    // Once in any case, then as long as the cursor moves and there is room for new events.
                    let may_take_time =
                        waited_for.replace(cursor).is_none_or(|before| before != cursor && !is_full);
                    if may_take_time {
                        tokio::time::sleep(CATCH_UP).await;
                    } else {
                        self.suspend(&sink).await?;
                    }
                }
                RoomOutcome::Enough => break,
                RoomOutcome::NothingLeft => {
                    tracing::error!(
                        bytes,
                        "The store is too large without any events: raise store.event_log_max_bytes"
                    );
                    tokio::time::sleep(ROOM_RETRY_AFTER).await;
                    break;
                }
            }
        }
        if events > 0 {
            tracing::warn!(
                events,
                "The store has reached event_log_max_bytes: the oldest events were removed"
            );
        }
        Ok(())
    }

    async fn suspend(&self, sink: &str) -> Result<(), StoreError> {
        self.store.suspend_sink(sink, SUSPENDED, self.clock.now().wall).await?;
        tracing::error!(
            %sink,
            "Sink suspended; it misses the oldest events, which are removed: {SUSPENDED}; repair the sink and run \
             \"kfwatch sinks resume {sink}\", or raise event_log_max_bytes"
        );
        self.sinks.report_suspension(sink, SUSPENDED.to_owned()).await;
        Ok(())
    }

    fn log_store_failure(&self, what: &str, error: &StoreError) {
        let mut failure_streak = self.store_failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failure_streak.failed(std::mem::discriminant(error), self.clock.now()) {
            tracing::warn!("{what}: {}", crate::chain(error));
        } else {
            tracing::debug!("{what}: {}", crate::chain(error));
        }
    }

    fn log_recovery(&self) {
        let mut failure_streak = self.store_failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recovery) = failure_streak.succeeded(self.clock.now()) {
            tracing::info!(failures = recovery.failures, "Times of the last polls are stored again");
        }
    }
}
