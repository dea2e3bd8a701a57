//! All polls of one tick.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    domain::clock::{Clock, Moment},
    metrics::Metrics,
    poll::OfficialAccount,
};

/// An official account in a schedule. The kf accounts that it has at a tick are polled.
pub struct ScheduledAccount {
    /// The official account.
    pub official_account: Arc<OfficialAccount>,
    /// Its lane in the queue.
    pub lane: u32,
}

/// All polls of one tick. It ends, and its duration is recorded, when the last of them drops it.
pub struct Sweep {
    started: Moment,
    /// When the next tick is due.
    pub next_due: Option<Timestamp>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl Sweep {
    /// A sweep that starts now.
    pub fn start(metrics: &Arc<Metrics>, clock: &Arc<dyn Clock>, next_due: Option<Timestamp>) -> Arc<Self> {
        let started = clock.now();
        Arc::new(Self { started, next_due, metrics: Arc::clone(metrics), clock: Arc::clone(clock) })
    }

    pub(super) fn started(&self) -> Moment {
        self.started
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.metrics.swept(self.clock.now().since(&self.started));
    }
}
