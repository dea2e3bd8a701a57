//! The values of all kf accounts for one scrape, in columns.
//!
//! The text format wants all series of a family together, but visiting 100,000 accounts once per family would spend most of a
//! scrape on waiting for memory. So each account is visited once, and its values are copied into one column per family.
//! Columns are narrow (four bytes a number, one a flag), because fresh memory is what a scrape waits for next.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use crate::{
    domain::account::Account,
    status::{AccountView, OfficialAccountStatus, push_escaped},
};

/// How the value of a family is read from a kf account; `None` while it is unknown.
#[derive(Clone, Copy)]
pub(super) enum Value {
    Number(fn(&AccountView) -> Option<u64>),
    /// 0 or 1.
    Flag(fn(&AccountView) -> Option<bool>),
}

impl Value {
    pub(super) fn read(self, view: &AccountView) -> Option<u64> {
        match self {
            Self::Number(number) => number(view),
            Self::Flag(flag) => flag(view).map(u64::from),
        }
    }
}

/// Ends the labels of a series whose last label value is the name of a kf account.
pub(super) const LABELS_END: &str = "\"} ";

/// One row per kf account, one column per value.
pub(super) struct Columns<'a> {
    /// Names of kf accounts, escaped as label values, each followed by [`LABELS_END`]: that makes one copy less for each
    /// of a million lines.
    names: Texts,
    /// Nicknames, escaped as label values; empty where unknown.
    nicknames: Texts,
    /// The official accounts, each with the rows of its kf accounts.
    pub(super) official_accounts: Vec<(&'a OfficialAccountStatus, Range<usize>)>,
    values: Vec<Column>,
}

impl<'a> Columns<'a> {
    /// Visits all kf accounts once.
    pub(super) fn collect(official_accounts: &'a [Arc<OfficialAccountStatus>], values: &[Value]) -> Self {
        let accounts = official_accounts.iter().map(|of| of.kf_accounts().len()).sum();
        let mut columns = Self {
            names: Texts::with_capacity(accounts),
            nicknames: Texts::with_capacity(accounts),
            official_accounts: Vec::with_capacity(official_accounts.len()),
            values: values.iter().map(|value| Column::with_capacity(*value, accounts)).collect(),
        };
        for official_account in official_accounts {
            let first = columns.names.len();
            official_account.for_each_view(|account, view| columns.push(account, view, values));
            columns.official_accounts.push((official_account, first..columns.names.len()));
        }
        columns
    }

    fn push(&mut self, account: &Account, view: &AccountView, values: &[Value]) {
        for (value, column) in values.iter().zip(&mut self.values) {
            column.push(value.read(view));
        }
        self.names.push(&account.kf_account, LABELS_END);
        self.nicknames.push(view.agent.nickname.as_deref().unwrap_or_default(), "");
    }

    /// Returns some rows of a column: the name of the kf account and [`LABELS_END`], with its value, where that is known.
    pub(super) fn known(&self, column: usize, rows: Range<usize>) -> impl Iterator<Item = (&str, u64)> {
        let column = &self.values[column];
        rows.filter_map(move |row| Some((self.names.get(row), column.get(row)?)))
    }

    /// Returns some rows: the name of the kf account with its nickname, where that is known.
    pub(super) fn nicknames(&self, rows: Range<usize>) -> impl Iterator<Item = (&str, &str)> {
        rows.map(|row| (self.names.get(row), self.nicknames.get(row)))
            .filter(|(_, nickname)| !nickname.is_empty())
            .map(|(name, nickname)| (name.strip_suffix(LABELS_END).unwrap_or(name), nickname))
    }
}

enum Column {
    Numbers {
        /// The numbers, [`ABSENT`](Self::ABSENT), or [`LARGE`](Self::LARGE).
        small: Vec<u32>,
        /// Numbers that do not fit, by row.
        large: BTreeMap<usize, u64>,
    },
    /// 0, 1, or [`NO_FLAG`](Self::NO_FLAG).
    Flags(Vec<u8>),
}

impl Column {
    const ABSENT: u32 = u32::MAX;
    /// Stands for a number in `large`.
    const LARGE: u32 = u32::MAX - 1;
    const NO_FLAG: u8 = u8::MAX;

    fn with_capacity(value: Value, rows: usize) -> Self {
        match value {
            Value::Number(_) => Self::Numbers { small: Vec::with_capacity(rows), large: BTreeMap::new() },
            Value::Flag(_) => Self::Flags(Vec::with_capacity(rows)),
        }
    }

    fn push(&mut self, value: Option<u64>) {
        match (self, value) {
            (Self::Flags(flags), value) => flags.push(value.map_or(Self::NO_FLAG, |flag| flag as u8)),
            (Self::Numbers { small, .. }, None) => small.push(Self::ABSENT),
            (Self::Numbers { small, .. }, Some(number)) if number < Self::LARGE.into() => {
                small.push(number as u32)
            }
            (Self::Numbers { small, large }, Some(number)) => {
                large.insert(small.len(), number);
                small.push(Self::LARGE);
            }
        }
    }

    fn get(&self, row: usize) -> Option<u64> {
        match self {
            Self::Flags(flags) => Some(flags[row]).filter(|flag| *flag != Self::NO_FLAG).map(u64::from),
            Self::Numbers { small, large } => match small[row] {
                Self::ABSENT => None,
                Self::LARGE => large.get(&row).copied(),
                number => Some(number.into()),
            },
        }
    }
}

/// Short texts, one per row, in one allocation.
pub(super) struct Texts {
    text: String,
    /// Where each text ends. Four bytes suffice: 4 GiB of names is far beyond the limit on the number of accounts.
    ends: Vec<u32>,
}

impl Texts {
    fn with_capacity(rows: usize) -> Self {
        Self { text: String::new(), ends: Vec::with_capacity(rows) }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn push(&mut self, value: &str, end: &str) {
        push_escaped(&mut self.text, value);
        self.text.push_str(end);
        self.ends.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
    }

    fn get(&self, row: usize) -> &str {
        let start = row.checked_sub(1).map_or(0, |previous| self.ends[previous] as usize);
        &self.text[start..self.ends[row] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_are_returned_unchanged() {
        let numbers =
            [0, 7, u64::from(u32::MAX) - 2, u64::from(u32::MAX) - 1, u32::MAX.into(), 1 << 40, u64::MAX];
        let all: Vec<_> = numbers.iter().flat_map(|&number| [Some(number), None, Some(1)]).collect();
        let mut column = Column::with_capacity(Value::Number(|_| None), 0);
        all.iter().for_each(|&number| column.push(number));
        assert_eq!((0..all.len()).map(|row| column.get(row)).collect::<Vec<_>>(), all);
    }

    #[test]
    fn flags_are_returned_unchanged() {
        let all = [Some(1), None, Some(0), None];
        let mut column = Column::with_capacity(Value::Flag(|_| None), 0);
        all.iter().for_each(|&flag| column.push(flag));
        assert_eq!((0..all.len()).map(|row| column.get(row)).collect::<Vec<_>>(), all);
    }
}
