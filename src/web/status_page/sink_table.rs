//! The table of sinks on the status page.

use maud::{Markup, html};

use super::{PageTime, known, known_time};
use crate::{
    domain::sink_state::SinkState,
    metrics::exposition::{SinkView, Stored},
    status::SinkActivity,
};

/// The table, and below it how to resume stopped sinks.
pub(super) fn table(stored: &Stored, now: PageTime) -> Markup {
    let sinks: Vec<(SinkActivity, &SinkView)> =
        stored.sinks.iter().map(|sink| (sink.status.read(), sink)).collect();
    html! {
        table.of {
            thead { tr {
                th { "Sink" } th { "State" } th.n { "Pending events" } th.n { "Oldest" } th.n { "Last delivery" }
                th.n { "Dead letters" } th.n { "Lost" } th { "Last failure" }
            } }
            tbody { @for (activity, SinkView { status, state, backlog }) in &sinks {
                @let word = state.as_str();
                tr {
                    td { (status.name) }
                    td { span.state.(word) { (word) } }
                    td.n { (known(backlog.map(|backlog| backlog.events))) }
                    td.n { (known_time(backlog.and_then(|backlog| backlog.oldest), now)) }
                    td.n { (known_time(activity.last_delivery_at, now)) @if activity.last_delivery_at.is_some() { " ago" } }
                    td.n { (known(backlog.map(|backlog| backlog.dead_letters))) }
                    td.n { (known(backlog.map(|backlog| backlog.lost_events + backlog.expired_dead_letters))) }
                    td {
                        @if let Some((at, reason)) = &activity.last_failure { (reason) ", " (now.zone.show(*at)) }
                    }
                }
            } }
        }
        @for (_, sink) in &sinks {
            @if let Some(reason) = sink.state.stop_reason() { (remark(sink, reason)) }
        }
    }
}

/// Why a sink is stopped and how to resume it, in the words of `kfwatch sinks`.
fn remark(sink: &SinkView, reason: &str) -> Markup {
    html! {
        p.remark {
            b { (sink.status.name) } ": " (SinkState::describe(sink.state.as_str(), reason))
            br;
            (SinkState::when_to_resume(reason)) ": " code { "kfwatch sinks resume " (sink.status.name) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use jiff::Timestamp;

    use super::*;
    use crate::{
        domain::{clock::Moment, local_time::LocalZone},
        status::SinkStatus,
    };

    fn shown(state: SinkState) -> String {
        let status = SinkStatus::new("crm".to_owned());
        status.set_state(state.clone());
        let view = SinkView { status: Arc::new(status), state, backlog: None };
        let stored = Stored { sinks: vec![view], ..Stored::default() };
        let now = Moment { wall: Timestamp::UNIX_EPOCH, monotonic: Duration::ZERO };
        table(&stored, PageTime { now, zone: LocalZone::UTC }).into_string()
    }

    #[test]
    fn stopped_sink_shows_escaped_reason_and_resume_command() {
        let command = "when this is fixed: <code>kfwatch sinks resume crm</code>";
        let reason = || "<script>x</script> & y".to_owned();
        for state in [SinkState::Stopped { reason: reason() }, SinkState::Suspended { reason: reason() }] {
            let word = state.as_str();
            let remark = format!("<b>crm</b>: {word}: &lt;script&gt;x&lt;/script&gt; &amp; y<br>{command}");
            let page = shown(state);
            assert!(page.contains(&remark), "{page}");
        }
        let page = shown(SinkState::Delivering);
        assert!(page.contains(">delivering</span>") && !page.contains("resume"), "{page}");
    }
}
