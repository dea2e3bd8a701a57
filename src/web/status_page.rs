//! The status page at `/`: official accounts, sinks, and every kf account with its state and sessions.
//!
//! It works without scripts. Accounts that need a human come first.

mod replica_table;
mod sink_table;

use std::{cmp::Reverse, sync::Arc};

use axum::extract::State;
use jiff::{SignedDuration, Timestamp};
use maud::{DOCTYPE, Markup, html};

use super::WebState;
use crate::{
    domain::{
        account::{Account, AccountState},
        agents::{Binding, Collector, Invitation, InvitationStatus},
        clock::{Moment, UnixMs},
        event::millis,
        local_time::LocalZone,
        quantity::{counted, grouped},
    },
    status::{AccountView, CollectorReadings, OfficialAccountStatus},
};

/// Kf accounts shown at most.
const MAX_ROWS: usize = 1000;

/// Official accounts shown at most, because the kf accounts that need a human come below them.
const MAX_OFFICIAL_ACCOUNTS: usize = 20;

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #1d2733; }
h1 { font-size: 1.5rem; margin-bottom: 0; } p { margin: .3rem 0 1rem; color: #56616e; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .35rem .7rem; }
th { border-bottom: 2px solid #d5dbe1; font-weight: 600; } td { border-bottom: 1px solid #e9edf0; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
table.of { width: auto; margin-bottom: 1.5rem; } td.kf { white-space: nowrap; } .name, .offline { color: #56616e; } .online { color: #1b7a36; }
.state { border-radius: .6rem; padding: .1rem .6rem; font-size: .85rem; background: #e9edf0; }
.ok, .delivering { background: #d8f0de; } .unbound, .invalid, .stopped, .suspended { background: #fbd9d6; }
.blind, .failing { background: #fdeac9; }
.remark { color: inherit; overflow-wrap: anywhere; } code { background: #e9edf0; border-radius: .3rem; padding: .1rem .35rem; }
@media (prefers-color-scheme: dark) { body { background: #14191f; color: #dfe5eb; } p, .name, .offline { color: #9aa6b2; }
.online { color: #7fd497; }
th, td { border-color: #2b343d; } .state, code { background: #2b343d; } .ok, .delivering { background: #1d4d2b; }
.unbound, .invalid, .stopped, .suspended { background: #6b211b; } .blind, .failing { background: #64480f; } }
";

/// The time of the page, and the zone in which it shows times.
#[derive(Clone, Copy)]
struct PageTime {
    now: Moment,
    zone: LocalZone,
}

pub(super) async fn page(State(state): State<Arc<WebState>>) -> Markup {
    let settings = state.settings();
    let now = PageTime { now: state.clock.now(), zone: settings.timezone };
    let stored = state.stored(settings).await;
    let mut rows = state.table.views();
    // A stable sort: within each urgency the order of the configuration remains.
    rows.sort_by_key(|(_, view)| urgency(view.state));
    let sessions = rows.iter().filter_map(|(_, view)| view.sessions).map(u64::from).reduce(|a, b| a + b);
    let not_polled = rows.iter().filter(|(_, view)| !view.was_polled()).count();
    let failing = rows.iter().filter(|(_, view)| urgency(view.state) < NO_ATTENTION).count() as u64;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content="15";
                title { "kfwatch" }
                style { (maud::PreEscaped(STYLE)) }
            }
            body {
                h1 { "kfwatch " (env!("CARGO_PKG_VERSION")) }
                p {
                    (counted(rows.len() as u64, "kf account")) ", "
                    @if not_polled > 0 { (not_polled) " not polled yet, " }
                    (sessions.map_or_else(|| "– open sessions".to_owned(), |sessions| counted(sessions, "open session"))) ", "
                    (counted(failing, "account")) @if failing == 1 { " needs" } @else { " need" } " attention · "
                    (now.zone.show(now.now.wall)) " (" (now.zone) ") · "
                    a href="/metrics" { "metrics" } " · " a href="/-/ready" { "ready" } " · "
                    a href="/-/healthy" { "healthy" }
                }
                @if let Some(error) = state.write_failure() {
                    p.remark { b { "Nothing is stored" } ": " (crate::chain(&error)) }
                }
                @if let Some(refusal) = state.reload_refusal.load_full() {
                    p.remark { b { "The changed configuration is not in use" } ": " (refusal.reasons.join("; ")) }
                }
                (official_accounts(&state.table.official_accounts(), now))
                @if let Some(cluster) = &stored.cluster { (replica_table::table(cluster, now)) }
                (sink_table::table(&stored, now))
                (accounts(&rows, now))
                @if rows.len() > MAX_ROWS { p { "Only the first " (MAX_ROWS) " kf accounts are shown. The metrics cover all." } }
            }
        }
    }
}

/// The official accounts with the most waiting customers.
fn official_accounts(all: &[Arc<OfficialAccountStatus>], now: PageTime) -> Markup {
    let mut rows: Vec<(&str, CollectorReadings)> = all
        .iter()
        .map(|official_account| (&*official_account.name, official_account.readings().clone()))
        .filter(|(_, collected)| collected.waiting.is_some() || collected.quota.is_some())
        .collect();
    rows.sort_by_key(|(_, collected)| Reverse(collected.waiting.map(|queue| queue.customers)));
    if rows.is_empty() {
        return html! {};
    }
    html! {
        table.of {
            thead { tr { th { "Official account" } th.n { "Waiting customers" } th.n { "Calls left today" } } }
            tbody { @for (name, collected) in rows.iter().take(MAX_OFFICIAL_ACCOUNTS) {
                @let CollectorReadings { waiting, quota, .. } = collected;
                tr {
                    td { (name) }
                    td.n { (known(waiting.map(|queue| queue.customers))) }
                    td.n {
                        (known(quota.map(|quota| format!("{} of {}", grouped(quota.remaining), grouped(quota.limit)))))
                        // Others use the quota, too.
                        @if let Some(at) = collected.last_success_at(Collector::Quota) { ", " (ago(at, now)) " ago" }
                    }
                }
            } }
        }
        @if rows.len() > MAX_OFFICIAL_ACCOUNTS {
            p { "Only the " (MAX_OFFICIAL_ACCOUNTS) " official accounts with the most waiting customers are shown." }
        }
    }
}

fn accounts(rows: &[(Account, AccountView)], now: PageTime) -> Markup {
    html! {
        table {
            thead { tr {
                th { "Official account" } th { "Kf account" } th { "State" } th { "Agent" } th.n { "Sessions" }
                th.n { "Longest session" } th.n { "Last success" } th { "Last failure" }
            } }
            tbody { @for (account, view) in rows.iter().take(MAX_ROWS) {
                tr {
                    td { (account.official_account) }
                    td.kf {
                        (account.kf_account)
                        @if let Some(nickname) = &view.agent.nickname { " " span.name { (nickname) } }
                    }
                    td { span.state.(view.state.as_str()) { (view.state.as_str()) } }
                    td { (agent(view, now.now)) }
                    td.n { (known(view.sessions)) }
                    td.n { (known_time(view.oldest_createtime, now)) }
                    td.n { (known_time(view.last_success_at, now)) @if view.last_success_at.is_some() { " ago" } }
                    td { (view.failing_with.unwrap_or_default()) }
                }
            } }
        }
    }
}

/// Whether the agent is online; without a bound WeChat user, the state of the invitation.
fn agent(view: &AccountView, now: Moment) -> Markup {
    let (state, agent) = (view.state, &view.agent);
    // getsessionlist takes precedence over getkflist.
    match (agent.binding.filter(|_| state != AccountState::Ok), agent.online) {
        (Some(Binding::Unbound(Some(invitation))), _) => html! { (invited(invitation, now)) },
        (Some(Binding::Unbound(None)), _) => html! { "not invited" },
        (_, Some(true)) => html! { span.online { "online" } },
        (_, Some(false)) => html! { span.offline { "offline" } },
        (_, None) => html! { "–" },
    }
}

fn invited(invitation: Invitation, now: Moment) -> String {
    let expires_at = invitation.expires_at.map(UnixMs::timestamp);
    let left = expires_at.filter(|at| *at > now.wall).map(|at| span(at.duration_since(now.wall)));
    match (invitation.status, left) {
        (InvitationStatus::Waiting, Some(left)) => format!("invited, {left} left"),
        (InvitationStatus::Waiting, None) => "invited".to_owned(),
        (InvitationStatus::Rejected, _) => "declined the invitation".to_owned(),
        (InvitationStatus::Expired, _) => "invitation expired".to_owned(),
        (InvitationStatus::Other, _) => "invited, result unknown".to_owned(),
    }
}

fn known(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}

/// How long ago it was; the time itself is shown when the pointer is on it.
fn ago(then: impl Into<Timestamp>, PageTime { now, zone }: PageTime) -> Markup {
    let then = then.into();
    html! { time datetime=(millis(then)) title=(zone.show(then)) { (span(now.wall.duration_since(then))) } }
}

fn known_time(then: Option<impl Into<Timestamp>>, now: PageTime) -> Markup {
    match then {
        Some(then) => ago(then, now),
        None => html! { "–" },
    }
}

/// A duration in its two largest units.
fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// From this urgency on, an account does not need attention.
const NO_ATTENTION: u8 = 2;

fn urgency(state: AccountState) -> u8 {
    match state {
        AccountState::Unbound | AccountState::Invalid => 0,
        AccountState::Blind => 1,
        // Not polled since it was configured.
        AccountState::Unknown | AccountState::Unwatched => NO_ATTENTION,
        AccountState::Ok => NO_ATTENTION + 1,
    }
}
