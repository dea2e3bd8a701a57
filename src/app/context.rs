//! What the parts of the daemon share.

use std::sync::Arc;

use crate::{domain::clock::Clock, metrics::Metrics, schedule::queue::PollQueue};

/// What runs need of the process.
#[derive(Clone)]
pub(super) struct RunContext {
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) queue: Arc<PollQueue>,
}
