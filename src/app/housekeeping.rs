//! Periodic work on the store: records when accounts were last seen, prunes expired data, and removes events when the store
//! has reached its maximum size.
//!
//! Polls that change nothing are not stored individually. After a restart, their send times are the lower bounds of
//! `ended_between`. So they are stored in batches at least every minute, and once more at the end of a drain.

use std::{
    mem::Discriminant,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    dispatch::admin::SinkAdmin,
    domain::{clock::Clock, failure_streak::FailureStreak},
    metrics::exposition::share_of_shards,
    status::{AccountTable, WatchedAccount},
    store::{LastSeenUpdate, PruneLimits, Pruned, SizeLimit, SizePruneOutcome, Store, StoreError},
};

/// How often send times are stored.
const LAST_SEEN_INTERVAL: Duration = Duration::from_secs(30);

/// How often the store is pruned.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);

/// How long snapshots of unwatched accounts and cursors of removed sinks are kept.
const KEPT_AFTER_REMOVAL: Duration = Duration::from_secs(7 * 24 * 3600);

/// How many rows one transaction may prune. Limited, because commits wait for it.
const PRUNE_BATCH: usize = 5000;

/// The percentage of `event_log_max_bytes` at which events are removed. The rest is room for commits in the meantime.
const PRUNE_FROM_PERCENT: u64 = 95;

/// Events are removed down to this percentage, so that this happens rarely.
const PRUNE_TO_PERCENT: u64 = 90;

/// How long the sink that lags most may take to confirm an event before it is suspended.
const CATCH_UP: Duration = Duration::from_secs(5);

/// The reason recorded for a suspended sink.
const SUSPENDED: &str = "it lagged most when the store reached event_log_max_bytes";

/// How long to wait after a failure to prune the event log.
const ROOM_RETRY_AFTER: Duration = Duration::from_secs(60);

/// How many send times one transaction may store. Limited, because commits wait for it.
const LAST_SEEN_BATCH: usize = 10_000;

/// The periodic work on the store.
pub(super) struct Housekeeping {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) table: Arc<AccountTable>,
    pub(super) sinks: Arc<SinkAdmin>,
    pub(super) limits: Arc<ArcSwap<config::StoreConfig>>,
    /// All stores of this process.
    pub(super) stores: Arc<ArcSwap<Vec<Store>>>,
    /// Failures of the store, so that a lasting failure is logged once and not every half minute.
    pub(super) store_failures: Mutex<FailureStreak<Discriminant<StoreError>>>,
}

impl Housekeeping {
    /// Runs until `polls_done`, then stores the last send times. Fails when another daemon has taken over the store: then this one
    /// must stop.
    pub(super) async fn run(self, polls_done: CancellationToken) -> Result<(), StoreError> {
        tokio::select! {
            () = polls_done.cancelled() => {}
            lost = self.record_last_seen_regularly() => return lost,
            // Each batch is one transaction, so these futures can be dropped between two batches.
            () = self.prune_regularly() => {}
            () = self.prune_when_full() => {}
        }
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
        let mut pending: Vec<Arc<WatchedAccount>> = Vec::new();
        for official_account in self.table.official_accounts().iter() {
            let accounts = official_account.kf_accounts();
            pending.extend(accounts.iter().filter(|account| account.pending_last_seen().is_some()).cloned());
        }
        for batch in pending.chunks(LAST_SEEN_BATCH) {
            // Read late, because a poll may have committed a newer time in the meantime.
            let (accounts, updates): (Vec<_>, Vec<LastSeenUpdate>) =
                batch.iter().filter_map(|account| Some((account, account.pending_last_seen()?))).unzip();
            match self.store.record_last_seen(updates.clone()).await {
                Ok(()) => {
                    self.log_recovery();
                    accounts
                        .iter()
                        .zip(&updates)
                        .for_each(|(account, stored)| account.last_seen_stored(stored));
                }
                Err(error @ StoreError::LeaseLost) => return Err(error),
                Err(error) => {
                    self.log_store_failure("Could not store the times of the last polls", &error);
                    break;
                }
            }
        }
        Ok(())
    }

    async fn prune(&self) {
        let now = self.clock.now().wall;
        let retention = self.limits.load();
        let before = |age: Duration| now.checked_sub(age).unwrap_or(Timestamp::MIN);
        let limits = PruneLimits {
            events_before: before(retention.event_retention),
            unwatched_before: before(KEPT_AFTER_REMOVAL),
            sinks_before: before(KEPT_AFTER_REMOVAL),
            dead_letters_before: before(retention.dead_letter_retention),
            batch: PRUNE_BATCH,
        };
        match self.store.prune(limits).await {
            Ok(pruned) if pruned != Pruned::default() => {
                let Pruned { events, snapshots, sinks, dead_letters } = pruned;
                tracing::info!(events, snapshots, sinks, dead_letters, "Pruned the store");
            }
            Ok(_) => {}
            Err(error) => self.log_store_failure("Could not prune the store", &error),
        }
    }

    /// Never returns.
    async fn prune_when_full(&self) {
        let mut used = self.store.used_bytes();
        loop {
            // Not held while the limit is computed, which reads it again: a writer that waits in between would wait for ever.
            let now = *used.borrow_and_update();
            if now > self.share_of_limit(PRUNE_FROM_PERCENT) {
                if let Err(error) = self.prune_to_size(self.share_of_limit(PRUNE_TO_PERCENT)).await {
                    self.log_store_failure("Could not remove events from the full store", &error);
                    tokio::time::sleep(ROOM_RETRY_AFTER).await;
                }
            } else if used.changed().await.is_err() {
                // The store is closed, at the end of a drain. A limit that was lowered applies from the next commit on.
                std::future::pending().await
            }
        }
    }

    fn share_of_limit(&self, percent: u64) -> u64 {
        let share = u128::from(self.max_bytes()) * u128::from(percent) / 100;
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// How many bytes this store may use.
    fn max_bytes(&self) -> u64 {
        let limits = self.limits.load();
        if limits.location.file().is_some() {
            return limits.event_log_max_bytes;
        }
        let used = |store: &Store| *store.used_bytes().borrow();
        let of_all: Vec<u64> = self.stores.load().iter().map(used).collect();
        max_bytes_of_shard(limits.event_log_max_bytes, used(&self.store), &of_all)
    }

    /// Removes the oldest events until the store is at most this large or contains no more events.
    async fn prune_to_size(&self, bytes: u64) -> Result<(), StoreError> {
        let limit = SizeLimit { bytes, batch: PRUNE_BATCH };
        let (mut events, mut waited_for) = (0, None);
        loop {
            match self.store.prune_to_size(limit).await? {
                SizePruneOutcome::Removed { events: removed } => events += removed,
                SizePruneOutcome::Blocked { sink, cursor } => {
                    let used = *self.store.used_bytes().borrow();
                    let is_full = used > self.max_bytes();
                    // Wait once in any case, then as long as the cursor advances and the store is not full.
                    let may_take_time =
                        waited_for.replace(cursor).is_none_or(|before| before != cursor && !is_full);
                    if may_take_time {
                        tokio::time::sleep(CATCH_UP).await;
                    } else {
                        self.suspend(&sink).await?;
                    }
                }
                SizePruneOutcome::SmallEnough => break,
                SizePruneOutcome::NothingLeft => {
                    tracing::error!(
                        bytes,
                        "The store reaches its maximum size without any events: raise store.event_log_max_bytes"
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
        self.sinks.note_stop(sink);
        Ok(())
    }

    fn log_store_failure(&self, what: &str, error: &StoreError) {
        let mut failure_streak = self.store_failures.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = failure_streak.failed(std::mem::discriminant(error), self.clock.now());
        // The store has logged that its files were deleted or replaced.
        if is_news && !error.is_displaced() {
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

/// How many bytes a shard may use that uses `own` now. The shards of a cluster share the maximum: a replica may use as large a part of it as it
/// has of the shards, and each of its shards as large a part of that as it uses. So nothing is removed until the replica uses its whole
/// part. `of_all`: what each shard of the replica uses.
fn max_bytes_of_shard(maximum: u64, own: u64, of_all: &[u64]) -> u64 {
    let used: u64 = of_all.iter().sum();
    let of_replica = share_of_shards(maximum, of_all.len());
    if used == 0 || used <= of_replica / 2 {
        // Far from it. Also before the shards are known.
        return maximum;
    }
    let of_shard = u128::from(of_replica) * u128::from(own) / u128::from(used);
    u64::try_from(of_shard).unwrap_or(maximum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAXIMUM: u64 = 64_000;

    #[test]
    fn shard_may_grow_as_long_as_its_replica_has_room() {
        for (own, of_all) in
            [(0, &[][..]), (500, &[]), (0, &[0]), (400, &[400]), (5, &[5, 490, 505, 400]), (900, &[900, 0])]
        {
            assert!(max_bytes_of_shard(MAXIMUM, own, of_all) >= own * 2, "{own} of {of_all:?}");
        }
    }

    #[test]
    fn shards_of_a_full_replica_share_what_it_may_use() {
        let of_all = [3_000, 1_000, 0];
        let limits = of_all.map(|own| max_bytes_of_shard(MAXIMUM, own, &of_all));
        assert_eq!(limits, [2_250, 750, 0]);
        assert_eq!(limits.iter().sum::<u64>(), share_of_shards(MAXIMUM, of_all.len()));
    }
}
