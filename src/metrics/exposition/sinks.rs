//! Families about sinks.

use super::{
    Page, SinkView, Stored,
    family::{Family, counter, gauge},
};
use crate::{domain::sink_state::SinkState, status::escaped};

pub(super) const FAMILIES: [Family<SinkView>; 9] = [
    counter("kfwatch_sink_delivered_events_total", "Events that the sink acknowledged.", |sink| {
        Some(sink.status.delivered_events())
    }),
    counter("kfwatch_sink_delivery_failures_total", "Delivery attempts that failed.", |sink| {
        Some(sink.status.failed_attempts())
    }),
    gauge(
        "kfwatch_sink_pending_events",
        "Events after the sink's cursor, whether its filters select them or not.",
        |sink| sink.backlog.map(|backlog| backlog.events),
    ),
    gauge(
        "kfwatch_sink_oldest_pending_timestamp_seconds",
        "When the oldest event after the sink's cursor was observed; absent without such events.",
        |sink| sink.backlog?.oldest.and_then(|at| u64::try_from(at.as_second()).ok()),
    ),
    gauge(
        "kfwatch_sink_dead_letters",
        "Events that the sink refused for good, stored as dead letters.",
        |sink| sink.backlog.map(|backlog| backlog.dead_letters),
    ),
    counter(
        "kfwatch_sink_expired_dead_letters_total",
        "Dead letters that were removed after store.dead_letter_retention.",
        |sink| sink.backlog.map(|backlog| backlog.expired_dead_letters),
    ),
    counter(
        "kfwatch_sink_lost_events_total",
        "Events that were removed from the log before the sink acknowledged them, whether its filters select them or not.",
        |sink| sink.backlog.map(|backlog| backlog.lost_events),
    ),
    gauge(
        "kfwatch_sink_stopped",
        "1 if the sink receives no more events until it is resumed or its url changes.",
        |sink| sink.backlog.map(|_| sink.state.is_stopped().into()),
    ),
    gauge(
        "kfwatch_sink_suspended",
        "1 if the sink is stopped because it lagged most when the store reached store.event_log_max_bytes; it misses the \
             events that are removed.",
        |sink| sink.backlog.map(|_| matches!(sink.state, SinkState::Suspended { .. }).into()),
    ),
];

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    pub(super) fn sinks(&mut self, stored: &Stored) {
        let labeled = |sink: &SinkView| format!("sink=\"{}\"", escaped(&sink.status.name));
        let labels: Vec<String> = stored.sinks.iter().map(labeled).collect();
        self.families(&FAMILIES, labels.iter().map(String::as_str).zip(&stored.sinks));
    }
}
