//! The table of sinks on the status page.

use std::sync::Arc;

use maud::{Markup, html};

use super::{ago, known};
use crate::{
    domain::clock::Moment,
    metrics::exposition::Stored,
    status::{SinkRow, SinkStatus},
    store::Pending,
};

/// A row of the table. `pending` is `None` if the store was not read in time.
struct SinkTableRow<'a> {
    name: &'a str,
    row: SinkRow,
    pending: Option<&'a Pending>,
}

impl SinkTableRow<'_> {
    fn state(&self) -> &'static str {
        self.pending.and_then(Pending::halted).unwrap_or(self.row.state())
    }

    fn is_halted(&self) -> bool {
        self.row.stopped.is_some() || self.pending.and_then(Pending::halted).is_some()
    }
}

/// The table, and below it how to resume stopped sinks.
pub(super) fn table(sinks: &[Arc<SinkStatus>], stored: &Stored, now: Moment) -> Markup {
    let sinks = sinks.iter().zip(&stored.pending);
    let sinks: Vec<SinkTableRow<'_>> = sinks
        .map(|(status, (_, pending))| SinkTableRow {
            name: &status.name,
            row: status.read(),
            pending: pending.as_ref(),
        })
        .collect();
    html! {
        table.of {
            thead { tr {
                th { "Sink" } th { "State" } th.n { "Pending events" } th.n { "Oldest" } th.n { "Last delivery" }
                th.n { "Dead letters" } th.n { "Lost" } th { "Last failure" }
            } }
            tbody { @for sink @ SinkTableRow { name, row, pending } in &sinks {
                @let state = sink.state();
                tr {
                    td { (name) }
                    td { span.state.(state) { (state) } }
                    td.n { (known(pending.map(|pending| pending.events))) }
                    td.n { (known(pending.and_then(|pending| pending.oldest).map(|at| ago(at, now)))) }
                    td.n { (known(row.last_delivery_at.map(|at| ago(at, now) + " ago"))) }
                    td.n { (known(pending.map(|pending| pending.dead_letters))) }
                    td.n { (known(pending.map(|pending| pending.lost_events + pending.expired_dead_letters))) }
                    td {
                        @if let Some((at, reason)) = &row.last_failure { (reason) ", " (ago(*at, now)) " ago" }
                    }
                }
            } }
        }
        @for sink in sinks.iter().filter(|sink| sink.is_halted()) { (remark(sink)) }
    }
}

/// Why a sink is stopped and how to resume it, in the words of `kfwatch sinks`.
fn remark(sink: &SinkTableRow<'_>) -> Markup {
    html! {
        p.remark {
            b { (sink.name) } ": " (sink.state())
            // The dispatcher of a sink suspended a moment ago may not know the reason yet.
            @if let Some(reason) = &sink.row.stopped { ": " (reason) }
            br;
            "when this is fixed: " code { "kfwatch sinks resume " (sink.name) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;

    fn shown(stopped: Option<&str>, pending: Option<Pending>) -> String {
        let status = SinkStatus::new("crm".to_owned());
        status.set_stopped(stopped.map(str::to_owned));
        let stored = Stored { pending: vec![("crm".to_owned(), pending)], ..Stored::default() };
        let now = Moment { wall: Timestamp::UNIX_EPOCH, monotonic: Duration::ZERO };
        table(&[Arc::new(status)], &stored, now).into_string()
    }

    #[test]
    fn stopped_sink_shows_escaped_reason_and_resume_command() {
        let command = "when this is fixed: <code>kfwatch sinks resume crm</code>";
        let stopped = Pending { stopped: true, ..Pending::default() };
        let suspended = Pending { suspended: true, ..stopped };
        for (pending, state) in
            [(Some(stopped), "stopped"), (Some(suspended), "suspended"), (None, "stopped")]
        {
            let page = shown(Some("<script>x</script> & y"), pending);
            let remark = format!("<b>crm</b>: {state}: &lt;script&gt;x&lt;/script&gt; &amp; y<br>{command}");
            assert!(page.contains(&remark), "{page}");
        }
        let page = shown(None, Some(suspended));
        assert!(page.contains(&format!("<b>crm</b>: suspended<br>{command}")), "{page}");
        for pending in [None, Some(Pending::default())] {
            let page = shown(None, pending);
            assert!(page.contains(">delivering</span>") && !page.contains("resume"), "{page}");
        }
    }
}
