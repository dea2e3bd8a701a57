//! The order and the offsets in which the kf accounts of a schedule are polled after a tick.

use std::{collections::HashMap, ops::Range, sync::Arc, time::Duration};

use super::queue::LaneId;
use crate::{domain::spread::SpreadOffset, poll::OfficialAccount, status::WatchedAccount};

/// An official account in a schedule. The kf accounts that it has at a tick are polled.
#[derive(Clone)]
pub struct ScheduledAccount {
    /// The official account.
    pub official_account: Arc<OfficialAccount>,
    /// Its lane in the queue.
    pub lane: LaneId,
}

/// The kf accounts of a schedule, sorted by their offset in the spread.
pub(super) struct SpreadPlan {
    spread: Duration,
    official_accounts: Arc<Vec<ScheduledAccount>>,
    /// The kf accounts of each official account.
    lists: Vec<AccountList>,
    in_order: Vec<SpreadEntry>,
}

type AccountList = Arc<Vec<Arc<WatchedAccount>>>;

/// Where to find a kf account, and its offset. Twelve bytes, because there is one per kf account.
#[derive(Clone, Copy)]
struct SpreadEntry {
    offset: SpreadOffset,
    /// An index into `official_accounts` and `lists`.
    official_account: u32,
    /// An index into the list.
    kf_account: u32,
}

impl SpreadPlan {
    /// An empty plan. [`update`](Self::update) fills it.
    pub(super) fn new(spread: Duration) -> Self {
        Self { spread, official_accounts: Arc::default(), lists: Vec::new(), in_order: Vec::new() }
    }

    /// Takes these official accounts and their current kf accounts.
    pub(super) fn update(&mut self, official_accounts: &Arc<Vec<ScheduledAccount>>) {
        self.official_accounts = Arc::clone(official_accounts);
        self.set_lists(official_accounts.iter().map(|of| of.official_account.accounts()).collect());
    }

    fn set_lists(&mut self, lists: Vec<AccountList>) {
        let is_same = |(known, list): (&AccountList, &AccountList)| Arc::ptr_eq(known, list);
        if self.lists.len() != lists.len() || !self.lists.iter().zip(&lists).all(is_same) {
            self.in_order = self.entries_of(&lists);
            self.lists = lists;
        }
    }

    /// The entries of these lists. Those of lists that stay are taken from the present plan: hashing the names of 100,000 kf
    /// accounts would delay polls.
    fn entries_of(&self, lists: &[AccountList]) -> Vec<SpreadEntry> {
        let indices: HashMap<*const _, u32> = lists.iter().map(Arc::as_ptr).zip(0..).collect();
        let moved: Vec<Option<u32>> =
            self.lists.iter().map(|list| indices.get(&Arc::as_ptr(list)).copied()).collect();
        let mut is_new = vec![true; lists.len()];
        moved.iter().flatten().for_each(|index| is_new[*index as usize] = false);
        // Exactly the capacity that is needed.
        let mut entries = Vec::with_capacity(lists.iter().map(|list| list.len()).sum());
        entries.extend(self.in_order.iter().filter_map(|entry| {
            let official_account = moved[entry.official_account as usize]?;
            Some(SpreadEntry { official_account, ..*entry })
        }));
        for ((official_account, list), _) in (0..).zip(lists).zip(&is_new).filter(|(_, is_new)| **is_new) {
            entries.extend((0..).zip(list.iter()).map(|(kf_account, account)| SpreadEntry {
                offset: offset_of(account),
                official_account,
                kf_account,
            }));
        }
        if self.spread.is_zero() {
            // All accounts have the offset zero, and stay in the order of the configuration.
            entries.sort_by_key(|entry| (entry.official_account, entry.kf_account));
        } else {
            // Fast, because what stayed is sorted.
            entries.sort_by_key(|entry| entry.offset);
        }
        entries
    }

    pub(super) fn len(&self) -> usize {
        self.in_order.len()
    }

    /// The official accounts.
    pub(super) fn official_accounts(&self) -> impl Iterator<Item = &Arc<OfficialAccount>> {
        self.official_accounts.iter().map(|scheduled| &scheduled.official_account)
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
    use proptest::prelude::*;

    use super::*;
    use crate::status::unpolled;

    #[test]
    fn entry_takes_twelve_bytes() {
        assert_eq!(size_of::<SpreadEntry>(), 12);
    }

    fn list(official_account: usize, kf_accounts: usize) -> AccountList {
        let appid = format!("wx{official_account}");
        Arc::new((0..kf_accounts).map(|n| unpolled(&appid, &format!("kf{n}@shop"))).collect())
    }

    proptest! {
        /// Each plan is a selection of official accounts, each with one of two lists of kf accounts.
        #[test]
        fn updated_plan_equals_new_plan(
            spread in prop::sample::select(vec![0, 10]),
            plans in proptest::collection::vec(
                proptest::sample::subsequence((0..8_usize).collect::<Vec<_>>(), 0..=8).prop_shuffle(), 1..6),
            sizes in proptest::array::uniform8(0..5_usize),
        ) {
            let lists: Vec<AccountList> = (0..8).map(|n| list(n / 2, sizes[n])).collect();
            let plan = || SpreadPlan::new(Duration::from_secs(spread));
            let mut updated = plan();
            for selected in plans {
                let current = || selected.iter().map(|n| Arc::clone(&lists[*n])).collect();
                updated.set_lists(current());
                let mut new = plan();
                new.set_lists(current());
                let offsets = |plan: &SpreadPlan| -> Vec<_> {
                    plan.in_order.iter().map(|entry| (entry.offset, entry.official_account, entry.kf_account)).collect()
                };
                let (mut updated_offsets, mut new_offsets) = (offsets(&updated), offsets(&new));
                if spread > 0 {
                    prop_assert!(updated.in_order.is_sorted_by_key(|entry| entry.offset));
                    // Both lists of an official account may be in the plan, with the same offsets.
                    updated_offsets.sort_unstable();
                    new_offsets.sort_unstable();
                }
                prop_assert_eq!(updated_offsets, new_offsets);
            }
        }
    }
}
