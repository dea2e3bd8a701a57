//! What one page says of each kf account, taken down in one visit.
//!
//! A page says everything of one family before it begins with the next, so it would visit every account once for each
//! family; and at 100,000 accounts, whose rows and names lie scattered over more memory than a processor's caches hold,
//! waiting for that memory would take most of a page's time. So the accounts are visited once and taken down in a
//! [`Columns`], where each family finds its values in one piece and in order. What is taken down is kept small, because
//! memory that was not there before is what a page waits for next: four bytes for a number, two for all flags, and of the
//! label sets only the name.

use std::{collections::BTreeMap, ops::Range};

use super::{
    accounts::{FLAGS, NUMBERS},
    lines::{NAME_BLOCK, Padded},
};
use crate::status::{AccountViewRef, OfficialAccountStatus, Table, push_escaped};

/// The values of one page: a line for each kf account, a column for each family.
pub(super) struct Columns<'a> {
    /// The names of kf accounts as label values.
    pub(super) names: Texts,
    /// The nicknames as label values, empty where none is known.
    pub(super) nicknames: Texts,
    /// The official accounts, each with the lines of its kf accounts.
    official_accounts: Vec<(&'a OfficialAccountStatus, Range<usize>)>,
    numbers: [Numbers; NUMBERS.len()],
    flags: Flags,
}

impl<'a> Columns<'a> {
    /// Visits all kf accounts.
    pub(super) fn take_down(table: &'a Table) -> Self {
        let official_accounts = table.official_accounts();
        let lines = official_accounts.iter().map(|of| of.kf_accounts().count()).sum();
        let mut columns = Self {
            official_accounts: Vec::with_capacity(official_accounts.len()),
            names: Texts::of_lines(lines),
            nicknames: Texts::of_lines(lines),
            numbers: std::array::from_fn(|_| Numbers::of_lines(lines)),
            flags: Flags(Vec::with_capacity(lines)),
        };
        for official_account in official_accounts {
            let begin = columns.names.ends.len();
            official_account.look(|read| columns.add(read));
            columns.official_accounts.push((official_account, begin..columns.names.ends.len()));
        }
        columns.names.pad();
        columns.nicknames.pad();
        columns
    }

    fn add(&mut self, read: &AccountViewRef<'_>) {
        for (number, column) in NUMBERS.iter().zip(&mut self.numbers) {
            column.add(number(read));
        }
        self.flags.add(FLAGS.iter().map(|flag| flag(read)));
        self.names.add(&read.account.kf_account);
        self.nicknames.add(read.row.agent.nickname.as_deref().unwrap_or_default());
    }

    /// The official accounts, each with the lines of its kf accounts.
    pub(super) fn official_accounts(&self) -> impl Iterator<Item = (&OfficialAccountStatus, Range<usize>)> {
        self.official_accounts.iter().map(|(official_account, lines)| (*official_account, lines.clone()))
    }

    /// Some lines of a column of numbers; its place is that in [`NUMBERS`].
    pub(super) fn numbers(&self, place: usize, lines: Range<usize>) -> impl Iterator<Item = Option<u64>> {
        self.numbers[place].of(lines)
    }

    /// Some lines of a column of flags; its place is that in [`FLAGS`].
    pub(super) fn flags(&self, place: usize, lines: Range<usize>) -> impl Iterator<Item = Option<u64>> {
        self.flags.of(place, lines)
    }
}

/// A column of numbers, of which nearly all are small.
struct Numbers {
    /// The numbers, [`ABSENT`](Self::ABSENT), or [`LARGE`](Self::LARGE).
    small: Vec<u32>,
    /// Those that are too large, by their line.
    large: BTreeMap<usize, u64>,
}

impl Numbers {
    const ABSENT: u32 = u32::MAX;
    /// Stands for one of the large numbers.
    const LARGE: u32 = u32::MAX - 1;

    fn of_lines(lines: usize) -> Self {
        Self { small: Vec::with_capacity(lines), large: BTreeMap::new() }
    }

    fn add(&mut self, number: Option<u64>) {
        let small = match number {
            None => Self::ABSENT,
            Some(number) if number < Self::LARGE.into() => number as u32,
            Some(number) => self.add_large(number),
        };
        self.small.push(small);
    }

    #[cold]
    fn add_large(&mut self, number: u64) -> u32 {
        self.large.insert(self.small.len(), number);
        Self::LARGE
    }

    #[cold]
    fn large(&self, line: usize) -> Option<u64> {
        self.large.get(&line).copied()
    }

    fn of(&self, lines: Range<usize>) -> impl Iterator<Item = Option<u64>> {
        self.small[lines.clone()].iter().zip(lines).map(|(&small, line)| match small {
            Self::ABSENT => None,
            Self::LARGE => self.large(line),
            small => Some(small.into()),
        })
    }
}

/// All columns of flags: of each line two bits for each, the second one for a flag that is absent.
struct Flags(Vec<u16>);

const _: () = assert!(2 * FLAGS.len() <= u16::BITS as usize);

impl Flags {
    fn add(&mut self, flags: impl Iterator<Item = Option<bool>>) {
        self.0.push(flags.fold(0, |before, flag| (before << 2) | flag.map_or(0b10, u16::from)));
    }

    fn of(&self, place: usize, lines: Range<usize>) -> impl Iterator<Item = Option<u64>> {
        let behind = FLAGS.len() - 1 - place;
        self.0[lines].iter().map(move |all| {
            let bits = (all >> (2 * behind)) & 0b11;
            (bits < 0b10).then_some(bits.into())
        })
    }
}

/// A short text for each line, all in one piece.
pub(super) struct Texts {
    text: String,
    /// Where each ends. A page of 4 GiB of names is far beyond every limit on the number of accounts.
    ends: Vec<u32>,
}

impl Texts {
    fn of_lines(lines: usize) -> Self {
        Self { text: String::new(), ends: Vec::with_capacity(lines) }
    }

    fn add(&mut self, value: &str) {
        push_escaped(&mut self.text, value);
        self.ends.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
    }

    /// Lets the last text be read like those before it; no text comes behind.
    fn pad(&mut self) {
        self.text.push_str(&" ".repeat(NAME_BLOCK));
    }

    /// The texts of some lines.
    pub(super) fn of(&self, lines: Range<usize>) -> impl Iterator<Item = &str> {
        self.bounds(lines).map(|text| &self.text[text])
    }

    /// The same, each with what stands behind it.
    pub(super) fn padded(&self, lines: Range<usize>) -> impl Iterator<Item = Padded<'_, NAME_BLOCK>> {
        self.bounds(lines).map(|text| Padded::new(&self.text.as_bytes()[text.start..], text.len()))
    }

    fn bounds(&self, lines: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut begin = lines.start.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        self.ends[lines].iter().map(move |&end| std::mem::replace(&mut begin, end as usize)..end as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_come_back_in_order() {
        let numbers =
            [0, 7, u64::from(u32::MAX) - 2, u64::from(u32::MAX) - 1, u32::MAX.into(), 1 << 40, u64::MAX];
        let all: Vec<_> = numbers.iter().flat_map(|&number| [Some(number), None, Some(1)]).collect();
        let mut column = Numbers::of_lines(0);
        all.iter().for_each(|&number| column.add(number));
        for begin in 0..all.len() {
            assert_eq!(column.of(begin..all.len()).collect::<Vec<_>>(), all[begin..]);
        }
    }

    #[test]
    fn each_flag_is_apart_from_the_others() {
        let kinds = [None, Some(false), Some(true)];
        let line = |n: usize| (0..FLAGS.len()).map(move |place| kinds[(n + place) % 3]);
        let mut flags = Flags(Vec::new());
        (0..3).for_each(|n| flags.add(line(n)));
        for place in 0..FLAGS.len() {
            let column: Vec<_> = (0..3).map(|n| line(n).nth(place).flatten().map(u64::from)).collect();
            assert_eq!(flags.of(place, 0..3).collect::<Vec<_>>(), column, "{place}");
        }
    }
}
