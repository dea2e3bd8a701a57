//! What the parts of the daemon share.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::components::Components;
use crate::{
    dispatch::{SinkShares, admin::SinkAdmin},
    domain::clock::Clock,
    metrics::Metrics,
    poll::PollLog,
    schedule::queue::PollQueue,
    store::{Cluster, Store},
};

/// What runs need of the process.
#[derive(Clone)]
pub(super) struct RunContext {
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) queue: Arc<PollQueue>,
    pub(super) poll_log: Arc<PollLog>,
    pub(super) sink_admin: Arc<SinkAdmin>,
    pub(super) sink_shares: Arc<SinkShares>,
    /// The stores of all runs.
    pub(super) stores: Arc<ArcSwap<Vec<Store>>>,
    /// If the store is in PostgreSQL.
    pub(super) cluster: Option<Cluster>,
    /// The same. The run of a file has its own.
    pub(super) components: Option<Arc<Components>>,
}
