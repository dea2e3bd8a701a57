//! What is known of each kf account.

use std::ops::Range;

use super::{Detail, Page, columns::Columns};
use crate::{
    domain::{
        account::{AccountState, Conclusion},
        clock::UnixMs,
    },
    status::{AccountViewRef, OfficialAccountStatus, Table},
};

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    /// All families about kf accounts.
    pub(super) fn accounts(&mut self, table: &Table, detail: Detail) {
        match detail {
            Detail::PerAccount => self.per_account(&Columns::take_down(table)),
            Detail::PerOfficialAccount => self.per_official_account(table),
        }
    }

    fn per_account(&mut self, columns: &Columns<'_>) {
        let (mut numbers, mut flags) = (0, 0);
        for family in &FAMILIES {
            self.header(family.name, family.kind, family.help);
            match family.value {
                Value::Number(_) => {
                    self.column(family.name, columns, |lines| columns.numbers(numbers, lines));
                    numbers += 1;
                }
                Value::Flag(_) => {
                    self.column(family.name, columns, |lines| columns.flags(flags, lines));
                    flags += 1;
                }
            }
        }
        self.nicknames(columns);
    }

    fn column<V: Iterator<Item = Option<u64>>>(
        &mut self,
        name: &str,
        columns: &Columns<'_>,
        values: impl Fn(Range<usize>) -> V,
    ) {
        for (official_account, lines) in columns.official_accounts() {
            let head = [name, "{", &official_account.labels, ",kf_account=\""].concat();
            self.lines(&head, columns.names.padded(lines.clone()), values(lines));
        }
    }

    /// The names that customers see.
    fn nicknames(&mut self, columns: &Columns<'_>) {
        let name = "wechat_kf_account_info";
        self.header(name, "gauge", "The nickname of the kf account, as getkflist last said; always 1.");
        for (official_account, lines) in columns.official_accounts() {
            let named = columns.names.of(lines.clone()).zip(columns.nicknames.of(lines));
            for (kf_account, nickname) in named.filter(|(_, nickname)| !nickname.is_empty()) {
                let of = &*official_account.labels;
                let labels = [of, ",kf_account=\"", kf_account, "\",nickname=\"", nickname, "\""];
                self.series(name, &labels, 1);
            }
        }
    }

    fn per_official_account(&mut self, table: &Table) {
        let official_accounts = table.official_accounts();
        let folded: Vec<_> = official_accounts.iter().map(|of| folded(of)).collect();
        for (place, family) in FAMILIES.iter().enumerate() {
            self.header(family.name, family.kind, family.help);
            for (official_account, values) in official_accounts.iter().zip(&folded) {
                if let Some(value) = values[place] {
                    self.series(family.name, &[&official_account.labels], value);
                }
            }
        }
    }
}

/// The value of each family for an official account as a whole.
fn folded(official_account: &OfficialAccountStatus) -> [Option<u64>; FAMILIES.len()] {
    let mut all = [None; FAMILIES.len()];
    official_account.look(|read| {
        for (family, folded) in FAMILIES.iter().zip(&mut all) {
            let value = family.value.of(read);
            *folded = folded.zip(value).map(|(a, b)| (family.fold)(a, b)).or(*folded).or(value);
        }
    });
    all
}

/// A family with one value for each kf account.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// What a sum per official account is: of most values their sum, of moments the earliest.
    fold: fn(u64, u64) -> u64,
    value: Value,
}

/// Where a value comes from, if there is one.
#[derive(Clone, Copy)]
enum Value {
    Number(Number),
    /// 0 or 1.
    Flag(Flag),
}

type Number = fn(&AccountViewRef<'_>) -> Option<u64>;
type Flag = fn(&AccountViewRef<'_>) -> Option<bool>;

impl Value {
    fn of(self, read: &AccountViewRef<'_>) -> Option<u64> {
        match self {
            Self::Number(number) => number(read),
            Self::Flag(flag) => flag(read).map(u64::from),
        }
    }
}

/// The numbers among the families, in their order. A loop over a list of one kind is one that the compiler unrolls, with the
/// functions within; taking down an account takes half of the time that a loop over the families takes.
pub(super) const NUMBERS: [Number; FAMILIES.len() - count_flags()] = {
    let mut numbers: [Number; _] = [|_| None; FAMILIES.len() - count_flags()];
    let (mut family, mut place) = (0, 0);
    while family < FAMILIES.len() {
        if let Value::Number(number) = FAMILIES[family].value {
            numbers[place] = number;
            place += 1;
        }
        family += 1;
    }
    numbers
};

/// The flags among the families, in their order.
pub(super) const FLAGS: [Flag; count_flags()] = {
    let mut flags: [Flag; _] = [|_| None; count_flags()];
    let (mut family, mut place) = (0, 0);
    while family < FAMILIES.len() {
        if let Value::Flag(flag) = FAMILIES[family].value {
            flags[place] = flag;
            place += 1;
        }
        family += 1;
    }
    flags
};

const fn count_flags() -> usize {
    let (mut family, mut flags) = (0, 0);
    while family < FAMILIES.len() {
        flags += matches!(FAMILIES[family].value, Value::Flag(_)) as usize;
        family += 1;
    }
    flags
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
        value: Value::Number(|account| account.row.sessions.map(u64::from)),
    },
    Family {
        name: "wechat_kf_oldest_session_timestamp_seconds",
        kind: "gauge",
        help: "When the session open longest began, as of the last successful poll; absent without sessions.",
        fold: earliest,
        value: Value::Number(|account| account.row.oldest_createtime.map(|at| seconds(at).unwrap_or(0))),
    },
    Family {
        name: "wechat_kf_account_up",
        kind: "gauge",
        help: "1 if the last poll succeeded and was stored; 0 also while the account is held back.",
        fold: sum,
        value: Value::Flag(|account| Some(account.row.up)),
    },
    Family {
        name: "wechat_kf_account_unbound",
        kind: "gauge",
        help: "1 if the last conclusive answer was errcode 65402, or getkflist alone says so: no WeChat user is bound to \
               the kf account.",
        fold: sum,
        value: Value::Flag(|account| {
            Some(account.row.conclusion.map(Conclusion::state) == Some(AccountState::Unbound))
        }),
    },
    Family {
        name: "wechat_kf_account_invalid",
        kind: "gauge",
        help: "1 if the last conclusive answer was errcode 65401: WeChat does not know the kf account.",
        fold: sum,
        value: Value::Flag(|account| Some(account.row.conclusion == Some(Conclusion::Invalid))),
    },
    Family {
        name: "kfwatch_account_blind",
        kind: "gauge",
        help: "1 if no good or conclusive answer came for poll.blind_after since the first failure in a row: what is \
               told of the kf account is old.",
        fold: sum,
        value: Value::Flag(|account| Some(account.row.state == AccountState::Blind)),
    },
    Family {
        name: "wechat_kf_sessions_started_total",
        kind: "counter",
        help: "Sessions that started, without those found by the first poll.",
        fold: sum,
        value: Value::Number(|account| Some(account.row.started.into())),
    },
    Family {
        name: "wechat_kf_sessions_ended_total",
        kind: "counter",
        help: "Sessions that ended.",
        fold: sum,
        value: Value::Number(|account| Some(account.row.ended.into())),
    },
    Family {
        name: "kfwatch_poll_last_success_timestamp_seconds",
        kind: "gauge",
        help: "When the answer of the last successful poll was received.",
        fold: earliest,
        value: Value::Number(|account| account.row.last_success_at.and_then(seconds)),
    },
    Family {
        name: "kfwatch_poll_overdue",
        kind: "gauge",
        help: "1 if two ticks of its schedule passed without a completed poll.",
        fold: sum,
        value: Value::Flag(|account| Some(account.overdue)),
    },
    Family {
        name: "kfwatch_polls_total",
        kind: "counter",
        help: "Polls made. They follow the schedule of kfwatch; scrapes cause none.",
        fold: sum,
        value: Value::Number(|account| Some(account.row.polls.into())),
    },
    Family {
        name: "kfwatch_poll_failures_total",
        kind: "counter",
        help: "Polls that failed, or whose answer could not be stored.",
        fold: sum,
        value: Value::Number(|account| Some(account.row.failures.into())),
    },
    Family {
        name: "kfwatch_poll_overruns_total",
        kind: "counter",
        help: "Ticks that found the account's previous poll not finished.",
        fold: sum,
        value: Value::Number(|account| Some(account.row.overruns.into())),
    },
    Family {
        name: "wechat_kf_account_online",
        kind: "gauge",
        help: "1 if getonlinekflist last said that the kf account is online.",
        fold: sum,
        value: Value::Flag(|account| account.row.agent.online),
    },
    Family {
        name: "wechat_kf_account_accepted_cases",
        kind: "gauge",
        help: "Sessions that the kf account has accepted, as getonlinekflist last said; absent while it is not listed there.",
        fold: sum,
        value: Value::Number(|account| account.row.agent.accepted_cases.map(u64::from)),
    },
];
