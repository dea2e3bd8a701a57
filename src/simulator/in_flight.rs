//! Counts requests in flight.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of requests in flight now, and its maximum so far.
#[derive(Debug, Default)]
pub(super) struct InFlightCounter {
    now: AtomicUsize,
    max: AtomicUsize,
}

impl InFlightCounter {
    pub(super) fn increment(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.max.fetch_max(now, Ordering::Relaxed);
    }

    pub(super) fn decrement(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }
}
