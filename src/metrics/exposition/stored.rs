//! What the store knows: its own condition, and what each sink still has to deliver.

use std::sync::atomic::Ordering;

use super::{Metrics, Page};
use crate::{
    status::escaped,
    store::{Pending, Writes},
};

/// What a scrape reads from the store.
#[derive(Debug, Default)]
pub struct Stored {
    /// The size of the store and its log on the disk.
    pub size_bytes: u64,
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
                stored.size_bytes,
            ),
            (
                "kfwatch_store_failures_total",
                "counter",
                "Transactions of the store that failed.",
                stored.writes.failures,
            ),
            (
                "kfwatch_store_last_write_successful",
                "gauge",
                "1 if the last transaction of the store was committed.",
                stored.writes.last_succeeded.into(),
            ),
        ];
        for (name, kind, help, value) in families {
            self.header(name, kind, help);
            self.value(name, value);
        }
    }

    /// What sinks have delivered, and what they still have to.
    pub(super) fn sinks(&mut self, metrics: &Metrics, stored: &Stored) {
        type Value = fn(&Metrics, &str, Option<&Pending>) -> Option<u64>;
        let families: [(&str, &str, &str, Value); 6] = [
            (
                "kfwatch_sink_delivered_events_total",
                "counter",
                "Events that the sink confirmed.",
                |metrics, name, _| metrics.sink(name).map(|sink| sink.delivered.load(Ordering::Relaxed)),
            ),
            (
                "kfwatch_sink_delivery_failures_total",
                "counter",
                "Attempts to deliver that failed.",
                |metrics, name, _| metrics.sink(name).map(|sink| sink.failures.load(Ordering::Relaxed)),
            ),
            (
                "kfwatch_sink_pending_events",
                "gauge",
                "Events of the log behind what the sink has confirmed, wanted by it or not.",
                |_, _, pending| pending.map(|pending| pending.events),
            ),
            (
                "kfwatch_sink_oldest_pending_timestamp_seconds",
                "gauge",
                "When the oldest event that the sink has not confirmed was observed; absent without such events.",
                |_, _, pending| pending?.oldest.and_then(|at| u64::try_from(at.as_second()).ok()),
            ),
            (
                "kfwatch_sink_dead_letters",
                "gauge",
                "Events that the sink refused for good and that are kept apart.",
                |_, _, pending| pending.map(|pending| pending.dead_letters),
            ),
            (
                "kfwatch_sink_stopped",
                "gauge",
                "1 if the sink wants no more events until a person changes something.",
                |_, _, pending| pending.map(|pending| pending.stopped.into()),
            ),
        ];
        for (name, kind, help, value) in families {
            self.header(name, kind, help);
            for (sink, pending) in &stored.pending {
                if let Some(value) = value(metrics, sink, pending.as_ref()) {
                    self.series(name, &["sink=\"", &escaped(sink), "\""], value);
                }
            }
        }
    }
}
