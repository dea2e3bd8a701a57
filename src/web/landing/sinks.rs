//! How deliveries go, below what is known of customers.

use std::sync::Arc;

use maud::{Markup, html};

use super::{ago, known};
use crate::{domain::clock::Moment, metrics::exposition::Stored, status::SinkStatus};

/// A row for each sink; what the store did not say in time is left open.
pub(super) fn table(sinks: &[Arc<SinkStatus>], stored: &Stored, now: Moment) -> Markup {
    let rows = sinks
        .iter()
        .zip(&stored.pending)
        .map(|(status, (_, pending))| (&status.name, status.read(), pending));
    html! {
        table.of {
            thead { tr {
                th { "Sink" } th { "State" } th.n { "Pending events" } th.n { "Oldest" } th.n { "Last delivery" }
                th.n { "Dead letters" } th.n { "Lost" } th { "Last failure" }
            } }
            tbody { @for (name, row, pending) in rows {
                @let state = pending.as_ref().and_then(crate::store::Pending::halted).unwrap_or(row.state());
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
    }
}
