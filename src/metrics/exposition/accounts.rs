//! What is known of each kf account.
//!
//! A page says everything of one family before it begins with the next, so it would visit every account once for each
//! family; and at 100,000 accounts, whose rows and names lie scattered over more memory than a processor's caches hold,
//! waiting for that memory would take most of a page's time. So the accounts are visited once and taken down in a
//! [`Sheet`], where each family finds its values, and the text of the label sets, in one piece and in order.

use super::{Detail, Page};
use crate::{
    domain::{
        account::{AccountState, Conclusion},
        clock::UnixMs,
    },
    status::{OfficialAccountStatus, RowRef, Table, push_escaped},
};

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    /// All families about kf accounts.
    pub(super) fn accounts(&mut self, table: &Table, detail: Detail) {
        let sheet = match detail {
            Detail::PerAccount => Sheet::of_accounts(table),
            Detail::PerOfficialAccount => Sheet::of_official_accounts(table),
        };
        for (family, column) in FAMILIES.iter().zip(&sheet.columns) {
            self.header(family.name, family.kind, family.help);
            let lines = sheet.labels.iter().zip(column);
            for (labels, &value) in lines.filter(|(_, value)| **value != ABSENT) {
                self.series(family.name, &[labels], value);
            }
        }
        if detail == Detail::PerAccount {
            self.nicknames(&sheet);
        }
    }

    /// The names that customers see.
    fn nicknames(&mut self, sheet: &Sheet) {
        let name = "wechat_kf_account_info";
        self.header(name, "gauge", "The nickname of the kf account, as getkflist last said; always 1.");
        let lines = sheet.labels.iter().zip(sheet.nicknames.iter());
        for (labels, nickname) in lines.filter(|(_, nickname)| !nickname.is_empty()) {
            self.series(name, &[labels, ",nickname=\"", nickname, "\""], 1);
        }
    }
}

/// Stands for a value that is absent: an `Option` would take twice the memory.
const ABSENT: u64 = u64::MAX;

/// The values of one page: a line for each kf account or official account, a column for each family.
#[derive(Default)]
struct Sheet {
    /// The label sets, without braces.
    labels: Texts,
    /// [`ABSENT`] where there is no value.
    columns: [Vec<u64>; FAMILIES.len()],
    /// The nicknames as label values, empty where none is known; no lines where they are not wanted.
    nicknames: Texts,
}

impl Sheet {
    /// With room for so many.
    fn of_lines(lines: usize) -> Self {
        Self { columns: std::array::from_fn(|_| Vec::with_capacity(lines)), ..Self::default() }
    }

    fn of_accounts(table: &Table) -> Self {
        let lines = table.official_accounts().iter().map(|of| of.kf_accounts().count());
        let mut sheet = Self::of_lines(lines.sum());
        for of in table.official_accounts() {
            of.look(|read| sheet.take_down(of, read));
        }
        sheet
    }

    fn of_official_accounts(table: &Table) -> Self {
        let mut sheet = Self::of_lines(table.official_accounts().len());
        for official_account in table.official_accounts() {
            let mut folded = [None; FAMILIES.len()];
            official_account.look(|read| {
                for (family, folded) in FAMILIES.iter().zip(&mut folded) {
                    let value = (family.value)(read);
                    *folded = folded.zip(value).map(|(a, b)| (family.fold)(a, b)).or(*folded).or(value);
                }
            });
            sheet.labels.add(|text| text.push_str(&official_account.labels));
            sheet
                .columns
                .iter_mut()
                .zip(folded)
                .for_each(|(column, value)| column.push(value.unwrap_or(ABSENT)));
        }
        sheet
    }

    fn take_down(&mut self, of: &OfficialAccountStatus, read: &RowRef<'_>) {
        for (family, column) in FAMILIES.iter().zip(&mut self.columns) {
            column.push((family.value)(read).unwrap_or(ABSENT));
        }
        self.labels.add(|text| {
            text.push_str(&of.labels);
            text.push_str(",kf_account=\"");
            push_escaped(text, &read.account.kf_account);
            text.push('"');
        });
        self.nicknames.add(|text| push_escaped(text, read.row.agent.nickname.as_deref().unwrap_or_default()));
    }
}

/// Many short texts in one piece.
#[derive(Default)]
struct Texts {
    text: String,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Texts {
    fn add(&mut self, write: impl FnOnce(&mut String)) {
        write(&mut self.text);
        self.ends.push(self.text.len());
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        let mut begin = 0;
        self.ends.iter().map(move |&end| &self.text[std::mem::replace(&mut begin, end)..end])
    }
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

/// Since the UNIX epoch, unless before.
fn seconds(moment: UnixMs) -> Option<u64> {
    moment.timestamp().as_second().try_into().ok()
}

const FAMILIES: [Family; 15] = [
    Family {
        name: "wechat_kf_active_sessions",
        kind: "gauge",
        help: "Sessions that the last successful poll listed.",
        fold: sum,
        value: |account| account.row.sessions.map(u64::from),
    },
    Family {
        name: "wechat_kf_oldest_session_timestamp_seconds",
        kind: "gauge",
        help: "When the session open longest began, as of the last successful poll; absent without sessions.",
        fold: earliest,
        value: |account| account.row.oldest_createtime.map(|at| seconds(at).unwrap_or(0)),
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
        value: |account| Some(account.row.started.into()),
    },
    Family {
        name: "wechat_kf_sessions_ended_total",
        kind: "counter",
        help: "Sessions that ended.",
        fold: sum,
        value: |account| Some(account.row.ended.into()),
    },
    Family {
        name: "kfwatch_poll_last_success_timestamp_seconds",
        kind: "gauge",
        help: "When the answer of the last successful poll was received.",
        fold: earliest,
        value: |account| account.row.last_success_at.and_then(seconds),
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
        value: |account| Some(account.row.polls.into()),
    },
    Family {
        name: "kfwatch_poll_failures_total",
        kind: "counter",
        help: "Polls that failed, or whose answer could not be stored.",
        fold: sum,
        value: |account| Some(account.row.failures.into()),
    },
    Family {
        name: "kfwatch_poll_overruns_total",
        kind: "counter",
        help: "Ticks that found the account's previous poll not finished.",
        fold: sum,
        value: |account| Some(account.row.overruns.into()),
    },
    Family {
        name: "wechat_kf_account_online",
        kind: "gauge",
        help: "1 if getonlinekflist last said that the kf account is online.",
        fold: sum,
        value: |account| account.row.agent.online.map(u64::from),
    },
    Family {
        name: "wechat_kf_account_accepted_cases",
        kind: "gauge",
        help: "Sessions that the kf account has accepted, as getonlinekflist last said; absent while it is not listed there.",
        fold: sum,
        value: |account| account.row.agent.accepted_cases.map(u64::from),
    },
];
