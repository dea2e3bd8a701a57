//! What the store publishes about its commits, whichever backend it has.

use tokio::sync::watch;

use super::{
    StoreError,
    types::{LogPosition, WriteStats},
};

/// What the writer publishes after each group of commits.
#[derive(Debug)]
pub(super) struct Published {
    /// The newest event.
    pub(super) committed: watch::Sender<LogPosition>,
    /// The used bytes of the store.
    pub(super) used_bytes: watch::Sender<u64>,
    /// Whether the last transaction succeeded, and how many have failed.
    pub(super) write_stats: watch::Sender<WriteStats>,
    /// Why the last transaction failed; `None` if it was committed.
    pub(super) write_failure: watch::Sender<Option<StoreError>>,
}

impl Published {
    /// What is known when the store is opened.
    pub(super) fn new(committed: LogPosition, used_bytes: u64) -> Self {
        Self {
            committed: watch::Sender::new(committed),
            used_bytes: watch::Sender::new(used_bytes),
            write_stats: watch::Sender::new(WriteStats::default()),
            write_failure: watch::Sender::new(None),
        }
    }

    /// Publishes whether a transaction succeeded.
    pub(super) fn publish_outcome(&self, failure: Option<&StoreError>) {
        self.write_stats.send_modify(|stats| {
            stats.last_succeeded = failure.is_none();
            stats.failures += u64::from(failure.is_some());
        });
        self.write_failure.send_replace(failure.cloned());
    }

    /// Publishes the newest event.
    pub(super) fn publish_committed(&self, last_event: LogPosition) {
        publish(&self.committed, last_event);
    }

    /// Publishes the used bytes.
    pub(super) fn publish_used_bytes(&self, used_bytes: u64) {
        publish(&self.used_bytes, used_bytes);
    }
}

/// Wakes the receivers only if the value changed.
fn publish<T: PartialEq>(watch: &watch::Sender<T>, value: T) {
    watch.send_if_modified(|known| {
        let is_new = *known != value;
        *known = value;
        is_new
    });
}
