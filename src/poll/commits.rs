//! How commits get on, for whoever has to see that they do.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::progress::WorkProgress;

/// Counts commits.
#[derive(Default)]
pub(super) struct Commits {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A commit that has not ended, until it is dropped: however its poll ends.
pub(super) struct CommitUnderWay<'a>(&'a Commits);

impl Commits {
    /// A commit begins.
    pub(super) fn begin(&self) -> CommitUnderWay<'_> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        CommitUnderWay(self)
    }

    /// How they get on. One that fails gets on as well.
    pub(super) fn work(&self) -> WorkProgress {
        let finished = self.ended.load(Ordering::Relaxed);
        WorkProgress { finished, pending: self.begun.load(Ordering::Relaxed) != finished }
    }
}

impl Drop for CommitUnderWay<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}
