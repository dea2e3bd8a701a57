//! Families about sinks.

use std::sync::atomic::Ordering;

use super::{
    Metrics, Page, Stored,
    family::{Family, counter, gauge},
};
use crate::{metrics::SinkCounters, status::escaped, store::Pending};

/// A sink, with what is known about it.
struct SinkMetrics<'a> {
    counters: Option<&'a SinkCounters>,
    pending: Option<&'a Pending>,
}

fn families<'a>() -> [Family<SinkMetrics<'a>>; 9] {
    [
        counter("kfwatch_sink_delivered_events_total", "Events that the sink acknowledged.", |sink| {
            sink.counters.map(|counters| counters.delivered.load(Ordering::Relaxed))
        }),
        counter("kfwatch_sink_delivery_failures_total", "Delivery attempts that failed.", |sink| {
            sink.counters.map(|counters| counters.failures.load(Ordering::Relaxed))
        }),
        gauge(
            "kfwatch_sink_pending_events",
            "Events after the sink's cursor, whether its filters select them or not.",
            |sink| sink.pending.map(|pending| pending.events),
        ),
        gauge(
            "kfwatch_sink_oldest_pending_timestamp_seconds",
            "When the oldest event after the sink's cursor was observed; absent without such events.",
            |sink| sink.pending?.oldest.and_then(|at| u64::try_from(at.as_second()).ok()),
        ),
        gauge(
            "kfwatch_sink_dead_letters",
            "Events that the sink refused for good, stored as dead letters.",
            |sink| sink.pending.map(|pending| pending.dead_letters),
        ),
        counter(
            "kfwatch_sink_expired_dead_letters_total",
            "Dead letters that were removed after store.dead_letter_retention.",
            |sink| sink.pending.map(|pending| pending.expired_dead_letters),
        ),
        counter(
            "kfwatch_sink_lost_events_total",
            "Events that were removed from the log before the sink acknowledged them, whether its filters select them or not.",
            |sink| sink.pending.map(|pending| pending.lost_events),
        ),
        gauge(
            "kfwatch_sink_stopped",
            "1 if the sink receives no more events until it is resumed or its url changes.",
            |sink| sink.pending.map(|pending| pending.stopped.into()),
        ),
        gauge(
            "kfwatch_sink_suspended",
            "1 if the sink is stopped because it lagged most when the store reached store.event_log_max_bytes; it misses the \
             events that are removed.",
            |sink| sink.pending.map(|pending| pending.suspended.into()),
        ),
    ]
}

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    pub(super) fn sinks(&mut self, metrics: &Metrics, stored: &Stored) {
        let sinks: Vec<_> = stored
            .pending
            .iter()
            .map(|(name, pending)| {
                let labels = format!("sink=\"{}\"", escaped(name));
                (labels, SinkMetrics { counters: metrics.sink(name), pending: pending.as_ref() })
            })
            .collect();
        self.families(&families(), sinks.iter().map(|(labels, sink)| (labels.as_str(), sink)));
    }
}
