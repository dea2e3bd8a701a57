//! What sinks have delivered, what they still have to, and what they never will.

use std::sync::atomic::Ordering;

use super::{Metrics, Page, Stored};
use crate::{metrics::SinkCounters, status::escaped, store::Pending};

/// A family with one value for each sink.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Sink<'_>) -> Option<u64>,
}

/// What is known of a sink; not all of it is always there.
struct Sink<'a> {
    counters: Option<&'a SinkCounters>,
    pending: Option<&'a Pending>,
}

const FAMILIES: &[Family] = &[
    Family {
        name: "kfwatch_sink_delivered_events_total",
        kind: "counter",
        help: "Events that the sink confirmed.",
        value: |sink| sink.counters.map(|counters| counters.delivered.load(Ordering::Relaxed)),
    },
    Family {
        name: "kfwatch_sink_delivery_failures_total",
        kind: "counter",
        help: "Attempts to deliver that failed.",
        value: |sink| sink.counters.map(|counters| counters.failures.load(Ordering::Relaxed)),
    },
    Family {
        name: "kfwatch_sink_pending_events",
        kind: "gauge",
        help: "Events of the log behind what the sink has confirmed, wanted by it or not.",
        value: |sink| sink.pending.map(|pending| pending.events),
    },
    Family {
        name: "kfwatch_sink_oldest_pending_timestamp_seconds",
        kind: "gauge",
        help: "When the oldest event that the sink has not confirmed was observed; absent without such events.",
        value: |sink| sink.pending?.oldest.and_then(|at| u64::try_from(at.as_second()).ok()),
    },
    Family {
        name: "kfwatch_sink_dead_letters",
        kind: "gauge",
        help: "Events that the sink refused for good and that are kept apart.",
        value: |sink| sink.pending.map(|pending| pending.dead_letters),
    },
    Family {
        name: "kfwatch_sink_expired_dead_letters_total",
        kind: "counter",
        help: "Dead letters that were removed for their age.",
        value: |sink| sink.pending.map(|pending| pending.expired_dead_letters),
    },
    Family {
        name: "kfwatch_sink_lost_events_total",
        kind: "counter",
        help: "Events of the log, wanted by the sink or not, that were removed before it had confirmed them.",
        value: |sink| sink.pending.map(|pending| pending.lost_events),
    },
    Family {
        name: "kfwatch_sink_stopped",
        kind: "gauge",
        help: "1 if the sink gets no more events until it is resumed, or delivers to another url.",
        value: |sink| sink.pending.map(|pending| pending.stopped.into()),
    },
    Family {
        name: "kfwatch_sink_suspended",
        kind: "gauge",
        help: "1 if the sink is stopped because it was furthest behind when the store had reached event_log_max_bytes; events \
                 are removed before it has them.",
        value: |sink| sink.pending.map(|pending| pending.suspended.into()),
    },
];

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    /// The families of sinks.
    pub(super) fn sinks(&mut self, metrics: &Metrics, stored: &Stored) {
        for family in FAMILIES {
            self.header(family.name, family.kind, family.help);
            for (name, pending) in &stored.pending {
                let sink = Sink { counters: metrics.sink(name), pending: pending.as_ref() };
                if let Some(value) = (family.value)(&sink) {
                    self.series(family.name, &["sink=\"", &escaped(name), "\""], value);
                }
            }
        }
    }
}
