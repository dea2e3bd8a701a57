//! The order and the offsets in which the kf accounts of a schedule are polled after a tick.

use std::{ops::Range, sync::Arc, time::Duration};

use super::sweep::ScheduledAccount;
use crate::{domain::spread::SpreadOffset, status::WatchedAccount};

/// The kf accounts of a schedule, sorted by their offset in the spread.
pub(super) struct SpreadPlan {
    spread: Duration,
    official_accounts: Vec<ScheduledAccount>,
    /// The kf accounts of each official account. The order is computed again when one of these lists was replaced.
    lists: Vec<Arc<Vec<Arc<WatchedAccount>>>>,
    in_order: Vec<SpreadEntry>,
}

/// Where to find a kf account, and its offset. Twelve bytes, because there is one per kf account.
struct SpreadEntry {
    offset: SpreadOffset,
    /// An index into `official_accounts` and `lists`.
    official_account: u32,
    /// An index into the list.
    kf_account: u32,
}

impl SpreadPlan {
    /// An empty plan. [`update`](Self::update) fills it.
    pub(super) fn new(spread: Duration, official_accounts: Vec<ScheduledAccount>) -> Self {
        Self { spread, official_accounts, lists: Vec::new(), in_order: Vec::new() }
    }

    /// Takes the current kf accounts of the official accounts.
    pub(super) fn update(&mut self) {
        let current = || self.official_accounts.iter().map(|scheduled| scheduled.official_account.accounts());
        let same = self.lists.len() == self.official_accounts.len()
            && self.lists.iter().zip(current()).all(|(known, list)| Arc::ptr_eq(known, &list));
        if same {
            return;
        }
        self.lists = current().collect();
        // Exactly the capacity that is needed.
        self.in_order = Vec::with_capacity(self.lists.iter().map(|list| list.len()).sum());
        for (official_account, list) in (0..).zip(&self.lists) {
            self.in_order.extend((0..).zip(list.iter()).map(|(kf_account, account)| SpreadEntry {
                offset: offset_of(account),
                official_account,
                kf_account,
            }));
        }
        // Without a spread all accounts have the offset zero and stay in the order of the configuration.
        if !self.spread.is_zero() {
            self.in_order.sort_by_key(|entry| entry.offset);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.in_order.len()
    }

    /// The offset of the account at this index, if there is one.
    pub(super) fn offset(&self, index: usize) -> Option<Duration> {
        Some(self.in_order.get(index)?.offset.within(self.spread))
    }

    /// The end of the range of accounts, from `first` on, whose offset has passed.
    pub(super) fn due_until(&self, first: usize, elapsed: Duration) -> usize {
        let is_due = |entry: &SpreadEntry| entry.offset.within(self.spread) <= elapsed;
        first + self.in_order[first..].partition_point(is_due)
    }

    /// The kf accounts at these indices, each with its official account.
    pub(super) fn accounts(
        &self,
        indices: Range<usize>,
    ) -> impl Iterator<Item = (&ScheduledAccount, &Arc<WatchedAccount>)> {
        self.in_order[indices].iter().map(|entry| {
            let index = entry.official_account as usize;
            (&self.official_accounts[index], &self.lists[index][entry.kf_account as usize])
        })
    }
}

fn offset_of(account: &WatchedAccount) -> SpreadOffset {
    let account = account.account();
    SpreadOffset::new((&account.appid, &account.kf_account))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_takes_twelve_bytes() {
        assert_eq!(size_of::<SpreadEntry>(), 12);
    }
}
