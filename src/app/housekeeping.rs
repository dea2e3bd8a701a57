//! What has to be done now and then: store when accounts were last seen, prune what has outlived its time.
//!
//! Polls that change nothing are not stored one by one. Their send times are the lower bounds of `ended_between` after
//! a restart, so they are stored together at least every minute, and once more at the end of a drain.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::clock::Clock,
    poll::WatchedAccount,
    store::{PruneLimits, Seen, Store, StoreError},
};

/// How often send times are stored.
const SIGHTINGS_INTERVAL: Duration = Duration::from_secs(30);

/// How often the store is pruned.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);

/// How long snapshots of unwatched accounts and cursors of removed sinks are kept.
const KEPT_AFTER_REMOVAL: Duration = Duration::from_secs(7 * 24 * 3600);

/// What one transaction of pruning removes at most: polls wait for it.
const PRUNE_BATCH: usize = 5000;

/// How many sightings are stored in one transaction: polls wait for it.
const SIGHTINGS_BATCH: usize = 10_000;

/// What housekeeping works on.
pub(super) struct Housekeeping {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) accounts: Vec<Arc<WatchedAccount>>,
    pub(super) event_retention: Duration,
}

impl Housekeeping {
    /// Works until `polling_stops`; stores the last sightings once all polls are done. Fails when another daemon has
    /// taken the store over: then this one must stop.
    pub(super) async fn run(
        self,
        polling_stops: CancellationToken,
        polls_done: CancellationToken,
    ) -> Result<(), StoreError> {
        let mut stored = vec![None; self.accounts.len()];
        let mut sightings = tokio::time::interval(SIGHTINGS_INTERVAL);
        let mut prunes = tokio::time::interval(PRUNE_INTERVAL);
        loop {
            tokio::select! {
                () = polling_stops.cancelled() => break,
                _ = sightings.tick() => self.store_sightings(&mut stored).await?,
                _ = prunes.tick() => self.prune().await,
            }
        }
        polls_done.cancelled().await;
        self.store_sightings(&mut stored).await
    }

    /// Stores the sightings that are newer than those in `stored`.
    async fn store_sightings(&self, stored: &mut [Option<Timestamp>]) -> Result<(), StoreError> {
        let newer = self.accounts.iter().enumerate().filter_map(|(index, account)| {
            let sighting = account.sighting();
            let known = stored.get(index).copied().flatten();
            (sighting.last_success_at > known).then_some((index, account.row(), sighting))
        });
        let newer: Vec<_> = newer.collect();
        for batch in newer.chunks(SIGHTINGS_BATCH) {
            let sightings = batch.iter().map(|(_, id, sighting)| Seen {
                id: *id,
                listed_sent_at: sighting.listed_sent_at,
                last_success_at: sighting.last_success_at,
            });
            match self.store.record_sightings(sightings.collect()).await {
                Ok(()) => {
                    batch.iter().for_each(|(index, _, sighting)| stored[*index] = sighting.last_success_at)
                }
                Err(error @ StoreError::LeaseLost) => return Err(error),
                Err(error) => {
                    tracing::warn!("Times of the last polls not stored: {}", crate::chain(&error));
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
            events_before: before(self.event_retention),
            unwatched_before: before(KEPT_AFTER_REMOVAL),
            sinks_before: before(KEPT_AFTER_REMOVAL),
            batch: PRUNE_BATCH,
        };
        match self.store.prune(limits).await {
            Ok(pruned) if pruned.events + pruned.snapshots + pruned.sinks > 0 => {
                tracing::info!(
                    events = pruned.events,
                    snapshots = pruned.snapshots,
                    sinks = pruned.sinks,
                    "Pruned the store"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("Store not pruned: {}", crate::chain(&error)),
        }
    }
}
