//! Families about sinks.

use std::sync::atomic::Ordering;

use super::{
    Metrics, Page, SinkView, Stored,
    family::{Family, counter, gauge},
};
use crate::{domain::sink_state::SinkState, metrics::SinkCounters, status::escaped};

/// A sink, with what is known about it.
struct SinkMetrics<'a> {
    counters: Option<&'a SinkCounters>,
    view: &'a SinkView,
}

/// How many series a sink has.
pub(super) const FAMILIES: u64 = 9;

fn families<'a>() -> [Family<SinkMetrics<'a>>; FAMILIES as usize] {
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
            |sink| sink.view.backlog.map(|backlog| backlog.events),
        ),
        gauge(
            "kfwatch_sink_oldest_pending_timestamp_seconds",
            "When the oldest event after the sink's cursor was observed; absent without such events.",
            |sink| sink.view.backlog?.oldest.and_then(|at| u64::try_from(at.as_second()).ok()),
        ),
        gauge(
            "kfwatch_sink_dead_letters",
            "Events that the sink refused for good, stored as dead letters.",
            |sink| sink.view.backlog.map(|backlog| backlog.dead_letters),
        ),
        counter(
            "kfwatch_sink_expired_dead_letters_total",
            "Dead letters that were removed after store.dead_letter_retention.",
            |sink| sink.view.backlog.map(|backlog| backlog.expired_dead_letters),
        ),
        counter(
            "kfwatch_sink_lost_events_total",
            "Events that were removed from the log before the sink acknowledged them, whether its filters select them or not.",
            |sink| sink.view.backlog.map(|backlog| backlog.lost_events),
        ),
        gauge(
            "kfwatch_sink_stopped",
            "1 if the sink receives no more events until it is resumed or its url changes.",
            |sink| sink.view.backlog.map(|_| sink.view.state.is_stopped().into()),
        ),
        gauge(
            "kfwatch_sink_suspended",
            "1 if the sink is stopped because it lagged most when the store reached store.event_log_max_bytes; it misses the \
             events that are removed.",
            |sink| sink.view.backlog.map(|_| matches!(sink.view.state, SinkState::Suspended { .. }).into()),
        ),
    ]
}

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    pub(super) fn sinks(&mut self, metrics: &Metrics, stored: &Stored) {
        let sinks: Vec<_> = stored
            .sinks
            .iter()
            .map(|view| {
                let labels = format!("sink=\"{}\"", escaped(&view.name));
                (labels, SinkMetrics { counters: metrics.sink(&view.name), view })
            })
            .collect();
        self.families(&families(), sinks.iter().map(|(labels, sink)| (labels.as_str(), sink)));
    }
}
