//! A shard that this replica owns: its lease, and what the next commits continue from.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::numbering::AccountProgress;
use crate::{
    domain::shard::ShardNumber,
    store::{StoreError, lease::StoreLease, published::Published, types::AccountId},
};

/// A shard that this replica owns, as the writer knows it.
#[derive(Debug)]
pub(super) struct OwnedShard {
    pub(super) number: ShardNumber,
    pub(super) epoch: i64,
    pub(super) lease: StoreLease,
    pub(super) published: Arc<Published>,
    progress: Mutex<ShardProgress>,
}

#[derive(Debug)]
pub(super) struct ShardProgress {
    /// The id of the newest event.
    pub(super) last_id: i64,
    /// What the next commits of accounts continue from, as far as it is known.
    pub(super) accounts: HashMap<AccountId, AccountProgress>,
    /// How many committed events the database has lost.
    pub(super) lost_events: Option<u64>,
}

impl OwnedShard {
    pub(super) fn new(number: ShardNumber, epoch: i64, lease: StoreLease, published: Arc<Published>) -> Self {
        let last_id = published.committed.borrow().0;
        let progress = Mutex::new(ShardProgress { last_id, accounts: HashMap::new(), lost_events: None });
        Self { number, epoch, lease, published, progress }
    }

    /// The newest event that this replica has committed.
    pub(super) fn last_id(&self) -> i64 {
        self.progress().last_id
    }

    pub(super) fn has_lost_events(&self) -> bool {
        matches!(self.lease.check(), Err(StoreError::EventsLost { .. }))
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, ShardProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
