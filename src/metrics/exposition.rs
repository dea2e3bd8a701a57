//! The families with free-form labels, written as text (format 0.0.4) straight from the account table.
//!
//! Output goes out in chunks of [`CHUNK`] bytes through a callback, so that a page of a hundred megabytes never
//! stands in memory; nothing is allocated per series. All series of a family are written together, as the format
//! asks, and no family name stands in the registry as well.

mod calls;
mod collected;
mod sinks;
mod stored;

use std::io::Write;

pub use self::stored::Stored;
use super::Metrics;
use crate::{
    domain::account::{AccountState, Conclusion},
    status::{AccountRows, RowRef, Table},
};

/// How many bytes are handed on at a time.
pub const CHUNK: usize = 64 * 1024;

/// Which series a page has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// One series for each kf account.
    PerAccount,
    /// Sums per official account.
    PerOfficialAccount,
}

/// Writes all families with free-form labels; `emit` takes the text in chunks and says whether to go on.
pub fn write(
    table: &Table,
    metrics: &Metrics,
    stored: &Stored,
    detail: Detail,
    emit: impl FnMut(Vec<u8>) -> bool,
) {
    let mut page = Page { chunk: Vec::with_capacity(CHUNK), emit, open: true };
    let rows = table.read();
    for family in ACCOUNT_FAMILIES {
        match detail {
            Detail::PerAccount => page.per_account(family, &rows),
            Detail::PerOfficialAccount => page.per_official_account(family, &rows),
        }
    }
    if detail == Detail::PerAccount {
        page.nicknames(&rows);
    }
    page.collected(table);
    page.calls(table);
    page.store(stored);
    page.sinks(metrics, stored);
    page.flush();
}

/// A family with one value for each kf account.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// What a sum per official account is: of most values their sum, of moments the earliest.
    fold: fn(u64, u64) -> u64,
    value: fn(&RowRef<'_>) -> Option<u64>,
}

const fn sum(a: u64, b: u64) -> u64 {
    a.wrapping_add(b)
}

const fn earliest(a: u64, b: u64) -> u64 {
    if a < b { a } else { b }
}

const ACCOUNT_FAMILIES: &[Family] = &[
    Family {
        name: "wechat_kf_active_sessions",
        kind: "gauge",
        help: "Sessions that the last successful poll listed.",
        fold: sum,
        value: |account| account.row.sessions,
    },
    Family {
        name: "wechat_kf_oldest_session_timestamp_seconds",
        kind: "gauge",
        help: "When the session open longest began, as of the last successful poll; absent without sessions.",
        fold: earliest,
        value: |account| {
            account.row.oldest_createtime.map(|createtime| u64::try_from(createtime).unwrap_or(0))
        },
    },
    Family {
        name: "wechat_kf_account_up",
        kind: "gauge",
        help: "1 if the last poll succeeded and was stored; 0 also while the account is held back.",
        fold: sum,
        value: |account| Some(account.row.up.into()),
    },
    Family {
        name: "wechat_kf_account_unbound",
        kind: "gauge",
        help: "1 if the last conclusive answer was errcode 65402, or getkflist alone says so: no WeChat user is bound to \
               the kf account.",
        fold: sum,
        value: |account| {
            Some((account.row.conclusion.map(Conclusion::state) == Some(AccountState::Unbound)).into())
        },
    },
    Family {
        name: "wechat_kf_account_invalid",
        kind: "gauge",
        help: "1 if the last conclusive answer was errcode 65401: WeChat does not know the kf account.",
        fold: sum,
        value: |account| Some((account.row.conclusion == Some(Conclusion::Invalid)).into()),
    },
    Family {
        name: "kfwatch_account_blind",
        kind: "gauge",
        help: "1 if no good or conclusive answer came for poll.blind_after since the first failure in a row: what is \
               told of the kf account is old.",
        fold: sum,
        value: |account| Some((account.row.state == AccountState::Blind).into()),
    },
    Family {
        name: "wechat_kf_sessions_started_total",
        kind: "counter",
        help: "Sessions that started, without those found by the first poll.",
        fold: sum,
        value: |account| Some(account.row.started),
    },
    Family {
        name: "wechat_kf_sessions_ended_total",
        kind: "counter",
        help: "Sessions that ended.",
        fold: sum,
        value: |account| Some(account.row.ended),
    },
    Family {
        name: "kfwatch_poll_last_success_timestamp_seconds",
        kind: "gauge",
        help: "When the answer of the last successful poll was received.",
        fold: earliest,
        value: |account| account.row.last_success_at.and_then(|at| u64::try_from(at.as_second()).ok()),
    },
    Family {
        name: "kfwatch_poll_overdue",
        kind: "gauge",
        help: "1 if two ticks of its schedule passed without a completed poll.",
        fold: sum,
        value: |account| Some(account.overdue.into()),
    },
    Family {
        name: "kfwatch_polls_total",
        kind: "counter",
        help: "Polls made. They follow the schedule of kfwatch; scrapes cause none.",
        fold: sum,
        value: |account| Some(account.row.polls),
    },
    Family {
        name: "kfwatch_poll_failures_total",
        kind: "counter",
        help: "Polls that failed, or whose answer could not be stored.",
        fold: sum,
        value: |account| Some(account.row.failures),
    },
    Family {
        name: "kfwatch_poll_overruns_total",
        kind: "counter",
        help: "Ticks that found the account's previous poll not finished.",
        fold: sum,
        value: |account| Some(account.row.overruns),
    },
    Family {
        name: "wechat_kf_account_online",
        kind: "gauge",
        help: "1 if getonlinekflist last said that the kf account is online.",
        fold: sum,
        value: |account| account.agent.online.map(u64::from),
    },
    Family {
        name: "wechat_kf_account_accepted_cases",
        kind: "gauge",
        help: "Sessions that the kf account has accepted, as getonlinekflist last said; absent while it is not listed there.",
        fold: sum,
        value: |account| account.agent.accepted_cases,
    },
];

struct Page<E> {
    chunk: Vec<u8>,
    emit: E,
    /// Whether somebody still reads.
    open: bool,
}

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    fn per_account(&mut self, family: &Family, rows: &[AccountRows]) {
        self.header(family.name, family.kind, family.help);
        for row in rows.iter().flat_map(AccountRows::iter) {
            if let Some(value) = (family.value)(&row) {
                self.series(family.name, &[&row.status.labels], value);
            }
        }
    }

    fn per_official_account(&mut self, family: &Family, rows: &[AccountRows]) {
        self.header(family.name, family.kind, family.help);
        for rows in rows {
            if let Some(value) = rows.iter().filter_map(|row| (family.value)(&row)).reduce(family.fold) {
                self.series(family.name, &[&rows.official_account.labels], value);
            }
        }
    }

    fn header(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to memory cannot fail.
        let _ = write!(self.chunk, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn value(&mut self, name: &str, value: u64) {
        // Writing to memory cannot fail.
        let _ = writeln!(self.chunk, "{name} {value}");
    }

    fn series(&mut self, name: &str, labels: &[&str], value: u64) {
        self.chunk.extend_from_slice(name.as_bytes());
        self.chunk.push(b'{');
        for part in labels {
            self.chunk.extend_from_slice(part.as_bytes());
        }
        self.chunk.extend_from_slice(b"} ");
        self.chunk.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self.chunk.push(b'\n');
        // Room for the longest line is kept, so that a chunk does not grow.
        if self.chunk.len() > CHUNK - 1024 {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let full = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.open = self.open && (self.emit)(full);
    }
}
