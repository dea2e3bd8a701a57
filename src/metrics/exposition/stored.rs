//! Families about the store.

use std::sync::Arc;

use super::{
    ClusterView, Page,
    family::{Family, counter, gauge},
};
use crate::{
    domain::sink_state::SinkState,
    status::SinkStatus,
    store::{SinkBacklog, WriteStats},
};

/// What is known about a sink.
#[derive(Clone, Debug)]
pub struct SinkView {
    pub(crate) status: Arc<SinkStatus>,
    pub(crate) state: SinkState,
    /// What it has to deliver; `None` if the store did not answer in time.
    pub(crate) backlog: Option<SinkBacklog>,
}

/// What a scrape reads from the store.
#[derive(Debug, Default)]
pub struct Stored {
    /// Size of the store and its write-ahead log on the disk.
    pub(crate) size_bytes: u64,
    /// Size of the store without free pages and without its write-ahead log.
    pub(crate) used_bytes: u64,
    /// The limit on `used_bytes`, `store.event_log_max_bytes`.
    pub(crate) event_log_max_bytes: u64,
    /// Events in the log; `None` if the store did not answer in time.
    pub(crate) events: Option<u64>,
    pub(crate) writes: WriteStats,
    pub(crate) sinks: Vec<SinkView>,
    /// `None` with a SQLite store.
    pub(crate) cluster: Option<ClusterView>,
}

pub(super) const FAMILIES: [Family<Stored>; 6] = [
    gauge("kfwatch_store_size_bytes", "Size of the store and its write-ahead log on the disk.", |stored| {
        Some(stored.size_bytes)
    }),
    gauge(
        "kfwatch_store_used_bytes",
        "Bytes of the store in use, without free pages and without its write-ahead log.",
        |stored| Some(stored.used_bytes),
    ),
    gauge(
        "kfwatch_store_event_log_max_bytes",
        "Bytes of the store that may be in use before the oldest events are removed.",
        |stored| Some(stored.event_log_max_bytes),
    ),
    gauge("kfwatch_store_events", "Events in the log.", |stored| stored.events),
    counter("kfwatch_store_failures_total", "Transactions of the store that failed.", |stored| {
        Some(stored.writes.failures)
    }),
    gauge(
        "kfwatch_store_last_write_successful",
        "1 if the last transaction of the store was committed.",
        |stored| Some(stored.writes.last_succeeded.into()),
    ),
];

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    pub(super) fn store(&mut self, stored: &Stored) {
        self.families(&FAMILIES, [("", stored)].into_iter());
    }
}
