//! What the last heartbeat said about the cluster.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    domain::clock::Moment,
    store::{Heartbeat, LivingReplica},
};

/// The cluster, as the database saw it at the last heartbeat of this replica.
#[derive(Clone, Debug, Default)]
pub struct ClusterStatus {
    /// Until when this replica may act for its shards, by the monotonic clock. Zero before the first heartbeat.
    pub(crate) trusted_until: Duration,
    /// The living replicas, by name.
    pub(crate) replicas: Vec<ReplicaStatus>,
    /// How many shards there are.
    pub(crate) shards: u64,
    /// How many of them no living replica owns.
    pub(crate) unowned_shards: u64,
    /// How many of them this replica owns.
    pub(crate) owned_shards: u64,
    /// Whether living replicas have different configurations.
    pub(crate) has_config_mismatch: bool,
    /// How far the clock of this machine and the database's are apart.
    pub(crate) clock_skew: Duration,
    pub(crate) counters: Arc<ClusterCounters>,
}

/// Why a shard had no owner when this replica acquired it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takeover {
    /// Its owner has released it, or it never had one.
    Released,
    /// Its owner was not alive any more.
    Expired,
    /// Its owner had the name of this replica, which has been restarted.
    Restart,
}

impl Takeover {
    pub(crate) const ALL: [Self; 3] = [Self::Released, Self::Expired, Self::Restart];

    /// The value of the label `reason`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Restart => "restart",
        }
    }
}

/// What has happened to the shards of this replica since it started.
#[derive(Debug, Default)]
pub(crate) struct ClusterCounters {
    /// In the order of [`Takeover::ALL`].
    takeovers: [AtomicU64; Takeover::ALL.len()],
    lost: AtomicU64,
}

impl ClusterCounters {
    pub(crate) fn count_takeover(&self, reason: Takeover) {
        self.takeovers[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn takeovers(&self, reason: Takeover) -> u64 {
        self.takeovers[reason as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn count_lost(&self, shards: u64) {
        self.lost.fetch_add(shards, Ordering::Relaxed);
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// One living replica.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaStatus {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    /// Where its page is.
    pub(crate) address: String,
    pub(crate) version: String,
    pub(crate) started_at: Timestamp,
    pub(crate) is_draining: bool,
    /// Whether this process is that replica.
    pub(crate) is_this: bool,
    pub(crate) shards: u64,
    pub(crate) kf_accounts: u64,
}

impl ClusterStatus {
    /// What a heartbeat of replica `this` says, which was answered at `now`, with the same counters.
    pub(crate) fn after(&self, this: Uuid, heartbeat: &Heartbeat, now: Moment) -> Self {
        let Heartbeat { replicas, view, database_time, trusted_until, .. } = heartbeat;
        let owned_by = |owner: Option<Uuid>| view.shards.iter().filter(move |shard| shard.owner == owner);
        let replica = |replica: &LivingReplica| ReplicaStatus {
            id: replica.id,
            name: replica.info.name.clone(),
            address: replica.info.address.clone(),
            version: replica.info.version.clone(),
            started_at: replica.info.started_at,
            is_draining: replica.info.is_draining,
            is_this: replica.id == this,
            shards: owned_by(Some(replica.id)).count() as u64,
            kf_accounts: owned_by(Some(replica.id)).map(|shard| u64::from(shard.kf_accounts)).sum(),
        };
        Self {
            trusted_until: *trusted_until,
            replicas: replicas.iter().map(replica).collect(),
            shards: view.shards.len() as u64,
            unowned_shards: owned_by(None).count() as u64,
            owned_shards: owned_by(Some(this)).count() as u64,
            has_config_mismatch: !heartbeat.is_agreed(),
            counters: Arc::clone(&self.counters),
            clock_skew: now.wall.duration_since(*database_time).unsigned_abs(),
        }
    }

    /// Whether the leases of this replica have not ended.
    pub fn is_trusted(&self, now: Moment) -> bool {
        now.monotonic < self.trusted_until
    }
}
