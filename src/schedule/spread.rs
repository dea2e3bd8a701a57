//! Where in the spread of a tick each kf account is polled.

use std::{ops::Range, sync::Arc, time::Duration};

use super::ticker::Scheduled;
use crate::{domain::spread::SpreadOffset, poll::WatchedAccount};

/// The kf accounts of a schedule in the order of their places in the spread.
pub(super) struct SpreadPlan {
    spread: Duration,
    official_accounts: Vec<Scheduled>,
    /// The kf accounts of each: the order is made anew when one of these lists was swapped.
    lists: Vec<Arc<Vec<Arc<WatchedAccount>>>>,
    in_order: Vec<Place>,
}

/// Where a kf account is found, and when it is let go after a tick. In four bytes each, because there is one of every kf
/// account.
struct Place {
    offset: SpreadOffset,
    /// The index of its official account.
    of: u32,
    /// Its index among the kf accounts of that one.
    nth: u32,
}

impl SpreadPlan {
    /// Of nobody, until they [follow](Self::follow).
    pub(super) fn new(spread: Duration, official_accounts: Vec<Scheduled>) -> Self {
        Self { spread, official_accounts, lists: Vec::new(), in_order: Vec::new() }
    }

    /// Takes over the kf accounts that came, and drops those that went.
    pub(super) fn follow(&mut self) {
        let lists = || self.official_accounts.iter().map(|scheduled| scheduled.official_account.accounts());
        let same = self.lists.len() == self.official_accounts.len()
            && self.lists.iter().zip(lists()).all(|(known, list)| Arc::ptr_eq(known, &list));
        if same {
            return;
        }
        self.lists = lists().collect();
        // With no more room than they need.
        self.in_order = Vec::with_capacity(self.lists.iter().map(|list| list.len()).sum());
        for (list, of) in self.lists.iter().zip(0..) {
            let places = list.iter().zip(0..);
            self.in_order.extend(places.map(|(account, nth)| Place { offset: offset_of(account), of, nth }));
        }
        // Without a spread all have one place, and stay as they are configured.
        if !self.spread.is_zero() {
            self.in_order.sort_by_key(|place| place.offset);
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.in_order.len()
    }

    /// How long after a tick the one of this index is let go, if there is one.
    pub(super) fn after(&self, index: usize) -> Option<Duration> {
        Some(self.in_order.get(index)?.offset.within(self.spread))
    }

    /// The index up to which those from `first` on are let go until so long after a tick.
    pub(super) fn end(&self, first: usize, elapsed: Duration) -> usize {
        let has_come = |place: &Place| place.offset.within(self.spread) <= elapsed;
        first + self.in_order[first..].partition_point(has_come)
    }

    /// The kf accounts of these indices, each with its official account.
    pub(super) fn accounts(
        &self,
        indices: Range<usize>,
    ) -> impl Iterator<Item = (&Scheduled, &Arc<WatchedAccount>)> {
        self.in_order[indices].iter().map(|place| {
            let of = place.of as usize;
            (&self.official_accounts[of], &self.lists[of][place.nth as usize])
        })
    }
}

fn offset_of(account: &WatchedAccount) -> SpreadOffset {
    let account = &account.status.account;
    SpreadOffset::new((&account.appid, &account.kf_account))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_takes_twelve_bytes() {
        assert_eq!(size_of::<Place>(), 12);
    }
}
