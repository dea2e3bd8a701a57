//! What has to be done now and then: store when accounts were last seen, prune what has outlived its time, make room when the
//! store has reached its size.
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
    poll::{OfficialAccount, WatchedAccount},
    store::{LastSeenUpdate, PruneLimits, Pruned, RoomOutcome, SizeLimit, Store, StoreError},
};

/// How often send times are stored.
const SIGHTINGS_INTERVAL: Duration = Duration::from_secs(30);

/// How often the store is pruned.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);

/// How long snapshots of unwatched accounts and cursors of removed sinks are kept.
const KEPT_AFTER_REMOVAL: Duration = Duration::from_secs(7 * 24 * 3600);

/// What one transaction of pruning removes at most: polls wait for it.
const PRUNE_BATCH: usize = 5000;

/// From which share of `event_log_max_bytes` on room is made, in percent: what is committed until then fits in the rest.
const MAKE_ROOM_FROM: u64 = 95;

/// Down to which share, so that it is not made all the time.
const MAKE_ROOM_TO: u64 = 90;

/// How long the sink that is furthest behind may take to confirm something before it is suspended.
const CATCH_UP: Duration = Duration::from_secs(5);

/// What a suspended sink is told to be stopped for.
const SUSPENDED: &str = "it was furthest behind when the store had reached event_log_max_bytes";

/// How long a store that has no room to make, or fails to, is left alone.
const ROOM_RETRY_AFTER: Duration = Duration::from_secs(60);

/// How many sightings are stored in one transaction: polls wait for it.
const SIGHTINGS_BATCH: usize = 10_000;

/// What housekeeping works on.
pub(super) struct Housekeeping {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) official_accounts: Vec<Arc<OfficialAccount>>,
    pub(super) sinks: Arc<SinkAdmin>,
    pub(super) limits: config::StoreConfig,
    /// Failures of the store, told once and not every half a minute.
    pub(super) not_stored: Mutex<FailureStreak<Discriminant<StoreError>>>,
}

impl Housekeeping {
    /// Works until `polling_stops`; stores the last sightings once all polls are done. Fails when another daemon has
    /// taken the store over: then this one must stop.
    pub(super) async fn run(
        self,
        polling_stops: CancellationToken,
        polls_done: CancellationToken,
    ) -> Result<(), StoreError> {
        tokio::select! {
            () = polling_stops.cancelled() => {}
            lost = self.keep_sightings() => return lost,
            // Its batches are transactions of their own: it can be dropped between two of them.
            () = self.keep_pruning() => {}
            () = self.keep_room() => {}
        }
        polls_done.cancelled().await;
        self.store_sightings().await
    }

    /// Returns only when the lease is lost.
    async fn keep_sightings(&self) -> Result<(), StoreError> {
        let mut interval = tokio::time::interval(SIGHTINGS_INTERVAL);
        loop {
            interval.tick().await;
            self.store_sightings().await?;
        }
    }

    async fn keep_pruning(&self) {
        let mut interval = tokio::time::interval(PRUNE_INTERVAL);
        loop {
            interval.tick().await;
            self.prune().await;
        }
    }

    /// Stores the sightings that wait for it.
    async fn store_sightings(&self) -> Result<(), StoreError> {
        let mut waiting: Vec<Arc<WatchedAccount>> = Vec::new();
        for of in &self.official_accounts {
            waiting.extend(of.accounts().iter().filter(|account| account.last_seen_pending()).cloned());
        }
        for batch in waiting.chunks(SIGHTINGS_BATCH) {
            // Read as late as possible: a poll may have committed a newer one meanwhile.
            let sightings: Vec<LastSeenUpdate> = batch.iter().map(|account| account.seen()).collect();
            match self.store.record_sightings(sightings.clone()).await {
                Ok(()) => {
                    self.stored();
                    batch.iter().zip(&sightings).for_each(|(account, seen)| account.last_seen_stored(seen));
                }
                Err(error @ StoreError::LeaseLost) => return Err(error),
                Err(error) => {
                    self.not_stored("Times of the last polls not stored", &error);
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
            Err(error) => self.not_stored("Store not pruned", &error),
        }
    }

    /// Never returns.
    async fn keep_room(&self) {
        let mut used = self.store.used_bytes();
        let [from, to] =
            [MAKE_ROOM_FROM, MAKE_ROOM_TO].map(|share| self.limits.event_log_max_bytes / 100 * share);
        // Fails only when the store is closed, and then the end is near.
        while used.wait_for(|used| *used > from).await.is_ok() {
            if let Err(error) = self.make_room(to).await {
                self.not_stored("No room made in the store", &error);
                tokio::time::sleep(ROOM_RETRY_AFTER).await;
            }
        }
        std::future::pending().await
    }

    /// Removes the oldest events until the store is no larger than that, or has no more.
    async fn make_room(&self, bytes: u64) -> Result<(), StoreError> {
        let limit = SizeLimit { bytes, batch: PRUNE_BATCH };
        let (mut events, mut waited_for) = (0, None);
        loop {
            match self.store.make_room(limit).await? {
                RoomOutcome::Removed { events: removed } => events += removed,
                RoomOutcome::Blocked { sink, cursor } => {
                    let is_full = *self.store.used_bytes().borrow() > self.limits.event_log_max_bytes;
                    // Once in any case; then while it gets on, and there is room for what comes meanwhile.
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
            "Delivery is suspended, and the oldest events are removed before the sink has them: {SUSPENDED}; mend the sink, and \
             run \"kfwatch sinks resume {sink}\", or raise event_log_max_bytes"
        );
        self.sinks.report_suspension(sink, SUSPENDED.to_owned()).await;
        Ok(())
    }

    fn not_stored(&self, what: &str, error: &StoreError) {
        let mut failure_streak = self.not_stored.lock().unwrap_or_else(PoisonError::into_inner);
        if failure_streak.failed(std::mem::discriminant(error), self.clock.now()) {
            tracing::warn!("{what}: {}", crate::chain(error));
        } else {
            tracing::debug!("{what}: {}", crate::chain(error));
        }
    }

    fn stored(&self) {
        let mut failure_streak = self.not_stored.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recovery) = failure_streak.succeeded(self.clock.now()) {
            tracing::info!(failures = recovery.failures, "Times of the last polls are stored again");
        }
    }
}
