//! Families about kf accounts.

use std::sync::Arc;

use super::{
    Detail, Page,
    columns::{Columns, LABELS_END, Value},
};
use crate::{
    domain::{
        account::{AccountState, Conclusion},
        agents::Collector,
        clock::UnixMs,
    },
    status::OfficialAccountStatus,
};

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    pub(super) fn accounts(&mut self, official_accounts: &[Arc<OfficialAccountStatus>], detail: Detail) {
        match detail {
            Detail::PerAccount | Detail::PerAccountWithoutNicknames => {
                let values = FAMILIES.map(|family| family.value);
                let columns = Columns::collect(official_accounts, &values);
                self.per_account(&columns);
                if detail == Detail::PerAccount {
                    self.nicknames(&columns);
                }
            }
            Detail::PerOfficialAccount => self.per_official_account(official_accounts),
        }
        self.watched(official_accounts);
    }

    fn watched(&mut self, official_accounts: &[Arc<OfficialAccountStatus>]) {
        let name = "wechat_kf_accounts_watched";
        self.header(
            name,
            "gauge",
            "Kf accounts that are polled; 0 if patterns find none, or before the first response of getkflist.",
        );
        for official_account in official_accounts {
            self.series(name, &official_account.labels, official_account.kf_accounts().len() as u64);
        }
    }

    fn per_account(&mut self, columns: &Columns<'_>) {
        let mut digits = itoa::Buffer::new();
        for (column, family) in FAMILIES.iter().enumerate() {
            self.header(family.name, family.kind, family.help);
            for (official_account, rows) in &columns.official_accounts {
                let prefix = [family.name, "{", &official_account.labels, ",kf_account=\""].concat();
                for (kf_account_and_end, value) in columns.known(column, rows.clone()) {
                    self.line([&prefix, kf_account_and_end, digits.format(value)]);
                }
            }
        }
    }

    fn nicknames(&mut self, columns: &Columns<'_>) {
        let name = "wechat_kf_account_info";
        self.header(name, "gauge", "Nickname of the kf account in the last response of getkflist; always 1.");
        for (official_account, rows) in &columns.official_accounts {
            let prefix = [name, "{", &official_account.labels, ",kf_account=\""].concat();
            for (kf_account, nickname) in columns.nicknames(rows.clone()) {
                self.line([&prefix, kf_account, "\",nickname=\"", nickname, LABELS_END, "1"]);
            }
        }
    }

    fn per_official_account(&mut self, official_accounts: &[Arc<OfficialAccountStatus>]) {
        let folded: Vec<_> = official_accounts.iter().map(|of| folded(of)).collect();
        for (column, family) in FAMILIES.iter().enumerate() {
            self.header(family.name, family.kind, family.help);
            for (official_account, values) in official_accounts.iter().zip(&folded) {
                if let Some(value) = values[column] {
                    self.series(family.name, &official_account.labels, value);
                }
            }
        }
    }
}

/// Returns the value of each family for an official account as a whole.
fn folded(official_account: &OfficialAccountStatus) -> [Option<u64>; FAMILIES.len()] {
    let mut all = [None; FAMILIES.len()];
    official_account.for_each_view(|_, view| {
        for (family, folded) in FAMILIES.iter().zip(&mut all) {
            let value = family.value.read(view);
            *folded = folded.zip(value).map(|(a, b)| (family.fold)(a, b)).or(*folded).or(value);
        }
    });
    all
}

/// How many of [`FAMILIES`] have values while these collectors run.
pub(super) fn families_from(running: &[Collector]) -> u64 {
    let without_online = FAMILIES.len() - FAMILIES_OF_ONLINE;
    if running.contains(&Collector::Online) { FAMILIES.len() as u64 } else { without_online as u64 }
}

struct AccountFamily {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// Combines the values of two kf accounts of an official account: the sum, or the earliest time.
    fold: fn(u64, u64) -> u64,
    value: Value,
}

const fn gauge(name: &'static str, help: &'static str, value: Value) -> AccountFamily {
    AccountFamily { name, kind: "gauge", help, fold: sum, value }
}

const fn counter(name: &'static str, help: &'static str, value: Value) -> AccountFamily {
    AccountFamily { name, kind: "counter", help, fold: sum, value }
}

fn sum(a: u64, b: u64) -> u64 {
    a.wrapping_add(b)
}

fn earliest(a: u64, b: u64) -> u64 {
    a.min(b)
}

/// Seconds since the UNIX epoch; `None` for earlier times.
fn seconds(moment: UnixMs) -> Option<u64> {
    moment.timestamp().as_second().try_into().ok()
}

/// The families that every official account has, whatever the detail: `wechat_kf_accounts_watched`.
pub(super) const SERIES_PER_OFFICIAL_ACCOUNT: u64 = 1;

/// How many of the families come from getonlinekflist.
const FAMILIES_OF_ONLINE: usize = 2;

const FAMILIES: [AccountFamily; 15] = [
    gauge(
        "wechat_kf_active_sessions",
        "Sessions that the last successful poll listed.",
        Value::Number(|view| view.sessions.map(u64::from)),
    ),
    AccountFamily {
        fold: earliest,
        ..gauge(
            "wechat_kf_oldest_session_timestamp_seconds",
            "Start of the session that has been open longest, from the last successful poll; absent without sessions.",
            Value::Number(|view| view.oldest_createtime.map(|at| seconds(at).unwrap_or(0))),
        )
    },
    gauge(
        "wechat_kf_account_up",
        "1 if the last poll succeeded and was stored; 0 also while the account backs off.",
        Value::Flag(|view| Some(view.up == Some(true))),
    ),
    gauge(
        "wechat_kf_account_unbound",
        "1 if no WeChat user is bound to the kf account: the last conclusive response was errcode 65402, or, before \
         the first such response, getkflist says so.",
        Value::Flag(|view| Some(view.conclusion.map(Conclusion::state) == Some(AccountState::Unbound))),
    ),
    gauge(
        "wechat_kf_account_invalid",
        "1 if the last conclusive response was errcode 65401: WeChat does not know the kf account.",
        Value::Flag(|view| Some(view.conclusion == Some(Conclusion::Invalid))),
    ),
    gauge(
        "kfwatch_account_blind",
        "1 if all polls failed for poll.blind_after: the other values of the kf account are out of date.",
        Value::Flag(|view| Some(view.state == AccountState::Blind)),
    ),
    counter(
        "wechat_kf_sessions_started_total",
        "Sessions that started, without those that the first poll found open.",
        Value::Number(|view| Some(view.counters.started.into())),
    ),
    counter(
        "wechat_kf_sessions_ended_total",
        "Sessions that ended.",
        Value::Number(|view| Some(view.counters.ended.into())),
    ),
    AccountFamily {
        fold: earliest,
        ..gauge(
            "kfwatch_poll_last_success_timestamp_seconds",
            "When the response of the last successful poll was received.",
            Value::Number(|view| view.last_success_at.and_then(seconds)),
        )
    },
    gauge(
        "kfwatch_poll_overdue",
        "1 if two ticks of the schedule have passed without a completed poll.",
        Value::Flag(|view| Some(view.overdue)),
    ),
    counter(
        "kfwatch_polls_total",
        "Polls made. They follow the schedule; scrapes cause none.",
        Value::Number(|view| Some(view.counters.polls.into())),
    ),
    counter(
        "kfwatch_poll_failures_total",
        "Polls that failed, or whose response was not stored.",
        Value::Number(|view| Some(view.counters.failures.into())),
    ),
    counter(
        "kfwatch_poll_overruns_total",
        "Ticks that found the previous poll of the kf account still running.",
        Value::Number(|view| Some(view.counters.overruns.into())),
    ),
    gauge(
        "wechat_kf_account_online",
        "1 if the kf account is online, from the last response of getonlinekflist.",
        Value::Flag(|view| view.agent.online),
    ),
    gauge(
        "wechat_kf_account_accepted_cases",
        "Sessions that the kf account has accepted, from the last response of getonlinekflist; absent while it is not listed.",
        Value::Number(|view| view.agent.accepted_cases.map(u64::from)),
    ),
];
