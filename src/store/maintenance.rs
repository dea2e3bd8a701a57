//! Removes what is older than its retention, or what exceeds the size limit.

use super::{
    Store, StoreError,
    types::{PruneLimits, Pruned, SizeLimit, SizePruneOutcome},
};

impl Store {
    /// Removes what is older than the limits, in small transactions between which polls are committed: events that every
    /// configured sink has delivered (suspended ones miss them), snapshots of unwatched accounts, dead letters, removed sinks.
    /// Positions and sequences are not used again. If it fails halfway, the next call continues.
    pub async fn prune(&self, limits: PruneLimits) -> Result<Pruned, StoreError> {
        on_backend!(self, store => store.prune(limits).await)
    }

    /// Removes one batch of the oldest events that every configured sink has delivered (suspended ones miss them), whatever
    /// their age. Call it again until the store is small enough.
    pub async fn prune_to_size(&self, limit: SizeLimit) -> Result<SizePruneOutcome, StoreError> {
        on_backend!(self, store => store.prune_to_size(limit).await)
    }
}
