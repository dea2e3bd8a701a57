//! Families about the cluster. Absent with a SQLite store.

use super::{
    Page, Stored,
    family::{Family, counter, gauge},
};
use crate::{
    domain::shard::ShardNumber,
    status::{ClusterStatus, Takeover},
};

/// The cluster at the last heartbeat.
#[derive(Clone, Debug)]
pub struct ClusterView {
    pub(crate) status: ClusterStatus,
    /// Whether this replica may act for its shards.
    pub(crate) is_trusted: bool,
}

/// The part of a maximum for the whole cluster that a replica with so many shards has.
pub fn share_of_shards(maximum: u64, shards: usize) -> u64 {
    maximum / ShardNumber::COUNT.unsigned_abs() as u64 * shards as u64
}

pub(super) const FAMILIES: [Family<ClusterView>; 8] = [
    gauge("kfwatch_cluster_shards", "Shards of the cluster.", |cluster| Some(cluster.status.shards)),
    gauge(
        "kfwatch_cluster_shards_unowned",
        "Shards that no living replica owned at the last heartbeat: nobody polls their accounts.",
        |cluster| Some(cluster.status.unowned_shards),
    ),
    gauge("kfwatch_cluster_replicas", "Replicas that were alive at the last heartbeat.", |cluster| {
        Some(cluster.status.replicas.len() as u64)
    }),
    gauge(
        "kfwatch_cluster_config_mismatch",
        "1 while living replicas have different configurations: nothing is retired.",
        |cluster| Some(cluster.status.has_config_mismatch.into()),
    ),
    gauge(
        "kfwatch_cluster_clock_skew_seconds",
        "How far the clocks of this machine and of the database are apart.",
        |cluster| Some(cluster.status.clock_skew.as_secs()),
    ),
    gauge("kfwatch_shards_owned", "Shards that this replica owned at the last heartbeat.", |cluster| {
        Some(if cluster.is_trusted { cluster.status.owned_shards } else { 0 })
    }),
    gauge(
        "kfwatch_lease_trusted",
        "1 if this replica may act for its shards; 0 if the database has not answered heartbeats for eight seconds.",
        |cluster| Some(cluster.is_trusted.into()),
    ),
    counter("kfwatch_shards_lost_total", "Shards that another replica has taken from this one.", |cluster| {
        Some(cluster.status.counters.lost())
    }),
];

const TAKEOVERS: [Family<u64>; 1] =
    [counter("kfwatch_shard_takeovers_total", "Shards that this replica has acquired.", |takeovers| {
        Some(*takeovers)
    })];

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    pub(super) fn cluster(&mut self, stored: &Stored) {
        if let Some(cluster) = &stored.cluster {
            self.families(&FAMILIES, [("", cluster)].into_iter());
            let counters = &cluster.status.counters;
            let labeled =
                |reason: Takeover| (format!("reason=\"{}\"", reason.as_str()), counters.takeovers(reason));
            let takeovers = Takeover::ALL.map(labeled);
            self.families(&TAKEOVERS, takeovers.iter().map(|(labels, count)| (labels.as_str(), count)));
        }
    }
}
