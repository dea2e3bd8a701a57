//! Counts the commits of polls, so that the watchdog notices when none of them ends.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::progress::WorkProgress;

#[derive(Default)]
pub(super) struct CommitCounter {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A running commit. Counts it as ended when dropped, however the poll ends.
pub(super) struct RunningCommit<'a>(&'a CommitCounter);

impl CommitCounter {
    pub(super) fn begin(&self) -> RunningCommit<'_> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        RunningCommit(self)
    }

    /// A failed commit counts as finished, too.
    pub(super) fn work(&self) -> WorkProgress {
        let finished = self.ended.load(Ordering::Relaxed);
        WorkProgress { finished, pending: self.begun.load(Ordering::Relaxed) != finished }
    }
}

impl Drop for RunningCommit<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}
