//! What the store knows of its own condition.

use super::Page;
use crate::store::{Pending, Writes};

/// What a scrape reads from the store.
#[derive(Debug, Default)]
pub struct Stored {
    /// The size of the store and its log on the disk.
    pub size_bytes: u64,
    /// What of the store is in use.
    pub used_bytes: u64,
    /// How much of it may be, before sinks lose events.
    pub event_log_max_bytes: u64,
    /// How many events the log has, as far as it could be read.
    pub events: Option<u64>,
    /// How writing goes.
    pub writes: Writes,
    /// What each sink still has to deliver, as far as the store could be read.
    pub pending: Vec<(String, Option<Pending>)>,
}

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    /// The condition of the store.
    pub(super) fn store(&mut self, stored: &Stored) {
        let families = [
            (
                "kfwatch_store_size_bytes",
                "gauge",
                "Size of the store and its log on the disk.",
                Some(stored.size_bytes),
            ),
            (
                "kfwatch_store_used_bytes",
                "gauge",
                "What of the store is in use: its size without what is free in its file, and without its log.",
                Some(stored.used_bytes),
            ),
            (
                "kfwatch_store_event_log_max_bytes",
                "gauge",
                "How much of the store may be in use before the oldest events are removed.",
                Some(stored.event_log_max_bytes),
            ),
            ("kfwatch_store_events", "gauge", "Events in the log.", stored.events),
            (
                "kfwatch_store_failures_total",
                "counter",
                "Transactions of the store that failed.",
                Some(stored.writes.failures),
            ),
            (
                "kfwatch_store_last_write_successful",
                "gauge",
                "1 if the last transaction of the store was committed.",
                Some(stored.writes.last_succeeded.into()),
            ),
        ];
        for (name, kind, help, value) in families {
            self.header(name, kind, help);
            if let Some(value) = value {
                self.value(name, value);
            }
        }
    }
}
