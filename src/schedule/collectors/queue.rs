//! When each collection is due, and what changes when official accounts or intervals do. It makes no calls and reads no clock;
//! all times are on the monotonic one.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
    time::Duration,
};

use crate::domain::{
    agents::Collector,
    collector_intervals::{CollectorIntervals, first_due, next_due},
    spread::SpreadOffset,
};

/// An official account, numbered in the order in which they were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AccountKey(u64);

/// The next collection of one collector of one official account. Ordered by time, then by collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DueCollection {
    pub(super) due: Duration,
    pub(super) collector: Collector,
    pub(super) account: AccountKey,
    /// How many retries led to it.
    pub(super) retries: u8,
}

/// The collections that are not in flight.
pub(super) struct CollectionQueue {
    intervals: CollectorIntervals,
    heap: BinaryHeap<Reverse<DueCollection>>,
    accounts: BTreeMap<AccountKey, Account>,
    last_key: u64,
}

struct Account {
    name: Arc<str>,
    in_flight: Option<Collector>,
    /// Its collections that became due while another one was in flight.
    blocked: Vec<DueCollection>,
}

impl Account {
    fn offset(&self, collector: Collector, interval: Duration) -> Duration {
        SpreadOffset::new((&*self.name, collector)).within(interval)
    }
}

impl CollectionQueue {
    /// A queue without official accounts, with all collectors turned off.
    pub(super) fn new() -> Self {
        Self {
            intervals: CollectorIntervals::OFF,
            heap: BinaryHeap::new(),
            accounts: BTreeMap::new(),
            last_key: 0,
        }
    }

    /// Adds an official account, whose collections are due at once.
    pub(super) fn add(&mut self, name: Arc<str>, now: Duration) -> AccountKey {
        self.last_key += 1;
        let account = AccountKey(self.last_key);
        self.accounts.insert(account, Account { name, in_flight: None, blocked: Vec::new() });
        let enabled = Collector::ALL.into_iter().filter(|collector| self.intervals.get(*collector).is_some());
        self.heap.extend(
            enabled.map(|collector| Reverse(DueCollection { due: now, collector, account, retries: 0 })),
        );
        account
    }

    /// Removes the other official accounts. A collection in flight is dropped when it is put back.
    pub(super) fn retain(&mut self, is_kept: impl Fn(AccountKey) -> bool) {
        self.accounts.retain(|account, _| is_kept(*account));
        self.heap.retain(|Reverse(collection)| self.accounts.contains_key(&collection.account));
    }

    /// Changes the intervals. A collector that is turned on collects at once. One whose interval changed collects at its
    /// offset in the new interval, so that not all official accounts call at once.
    pub(super) fn set_intervals(&mut self, intervals: CollectorIntervals, now: Duration) {
        let before = std::mem::replace(&mut self.intervals, intervals);
        if before == intervals {
            return;
        }
        let mut waiting: Vec<DueCollection> =
            std::mem::take(&mut self.heap).into_iter().map(|Reverse(waiting)| waiting).collect();
        waiting.extend(self.accounts.values_mut().flat_map(|account| std::mem::take(&mut account.blocked)));
        waiting.retain_mut(|waiting| {
            let (collector, Some(account)) = (waiting.collector, self.accounts.get(&waiting.account)) else {
                return false;
            };
            let Some(interval) = intervals.get(collector) else { return false };
            let follows_interval = waiting.due > now && waiting.retries == 0;
            if follows_interval && before.get(collector) != Some(interval) {
                waiting.due = first_due(now, interval, account.offset(collector, interval));
            }
            true
        });
        let is_turned_on =
            |collector: &Collector| before.get(*collector).is_none() && intervals.get(*collector).is_some();
        for collector in Collector::ALL.into_iter().filter(is_turned_on) {
            // One that is still in flight puts itself back.
            let idle = self.accounts.iter().filter(|(_, account)| account.in_flight != Some(collector));
            let first =
                |(key, _): (&AccountKey, _)| DueCollection { due: now, collector, account: *key, retries: 0 };
            waiting.extend(idle.map(first));
        }
        self.heap = waiting.into_iter().map(Reverse).collect();
    }

    /// Removes a collection that is due, of an official account that has none in flight. It counts as in flight until it is
    /// put back or finished.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<DueCollection> {
        loop {
            self.heap.peek().filter(|Reverse(collection)| collection.due <= now)?;
            let Reverse(collection) = self.heap.pop()?;
            let Some(account) = self.accounts.get_mut(&collection.account) else { continue };
            if account.in_flight.is_none() {
                account.in_flight = Some(collection.collector);
                return Some(collection);
            }
            account.blocked.push(collection);
        }
    }

    /// Puts a collection back that was not started, or the next one after it. Drops it if the official account was removed or the
    /// collector turned off meanwhile.
    pub(super) fn put_back(&mut self, collection: DueCollection) {
        let Some(account) = self.accounts.get_mut(&collection.account) else { return };
        account.in_flight = None;
        let is_on = self.intervals.get(collection.collector).is_some();
        let blocked = std::mem::take(&mut account.blocked);
        self.heap.extend(blocked.into_iter().chain(is_on.then_some(collection)).map(Reverse));
    }

    /// Puts the collection back that follows one that is done now. It comes after `retry_delay`, if that is earlier than the
    /// interval asks for.
    pub(super) fn finish(&mut self, done: DueCollection, retry_delay: Option<Duration>, now: Duration) {
        let (Some(account), Some(interval)) =
            (self.accounts.get(&done.account), self.intervals.get(done.collector))
        else {
            return self.put_back(done);
        };
        let due = next_due(now, interval, account.offset(done.collector, interval));
        self.put_back(match retry_delay.map(|delay| now + delay).filter(|retry_at| *retry_at < due) {
            Some(retry_at) => DueCollection { due: retry_at, retries: done.retries + 1, ..done },
            None => DueCollection { due, retries: 0, ..done },
        });
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse(collection)| collection.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);

    const ALL: CollectorIntervals = CollectorIntervals {
        kf_list: Some(HOUR),
        online: Some(HOUR),
        waiting: Some(HOUR),
        quota: Some(HOUR),
    };
    const OFF: CollectorIntervals =
        CollectorIntervals { kf_list: None, online: None, waiting: None, quota: None };

    fn queue(intervals: CollectorIntervals) -> CollectionQueue {
        let mut queue = CollectionQueue::new();
        queue.set_intervals(intervals, Duration::ZERO);
        queue
    }

    /// Adds official accounts at time zero.
    fn add<const N: usize>(queue: &mut CollectionQueue) -> [AccountKey; N] {
        std::array::from_fn(|n| queue.add(format!("shop{n}").into(), Duration::ZERO))
    }

    fn first(collector: Collector, account: AccountKey) -> DueCollection {
        DueCollection { due: Duration::ZERO, collector, account, retries: 0 }
    }

    /// Starts and finishes all collections that are due, and returns them.
    fn collect_all(queue: &mut CollectionQueue, now: Duration) -> Vec<DueCollection> {
        let next = || queue.pop_due(now).inspect(|done| queue.finish(*done, None, now));
        std::iter::from_fn(next).collect()
    }

    /// The collections that are not in flight, in order.
    fn waiting(queue: &CollectionQueue) -> Vec<DueCollection> {
        let mut waiting: Vec<_> = queue.heap.iter().map(|Reverse(waiting)| *waiting).collect();
        waiting.extend(queue.accounts.values().flat_map(|account| &account.blocked));
        waiting.sort();
        waiting
    }

    #[test]
    fn kf_lists_are_collected_first() {
        let mut queue = queue(ALL);
        let accounts: [_; 3] = add(&mut queue);
        let lists: Vec<_> = (0..3).map(|_| queue.pop_due(Duration::ZERO).unwrap()).collect();
        assert_eq!(lists, accounts.map(|account| first(Collector::KfList, account)));
        for list in lists {
            queue.finish(list, None, Duration::ZERO);
        }
        assert_eq!(queue.pop_due(Duration::ZERO), Some(first(Collector::Online, accounts[0])));
    }

    #[test]
    fn official_account_has_one_collection_in_flight_and_loses_none() {
        let mut queue = queue(CollectorIntervals { waiting: None, ..ALL });
        let [account, other] = add(&mut queue);
        for collector in [Collector::KfList, Collector::Online, Collector::Quota] {
            assert_eq!(queue.pop_due(Duration::ZERO), Some(first(collector, account)));
            assert_eq!(queue.pop_due(Duration::ZERO), Some(first(collector, other)));
            assert_eq!(queue.pop_due(Duration::ZERO), None);
            assert!(queue.next_due().is_none_or(|due| due > Duration::ZERO), "the loop would not wait");
            queue.finish(first(collector, account), None, Duration::ZERO);
            queue.finish(first(collector, other), None, Duration::ZERO);
        }
        assert_eq!(queue.pop_due(Duration::ZERO), None);
        assert_eq!(queue.heap.len(), 6);
    }

    #[test]
    fn retry_comes_before_interval_unless_that_is_sooner() {
        let mut queue = queue(CollectorIntervals { quota: Some(HOUR), ..OFF });
        let [account] = add(&mut queue);
        let current = queue.pop_due(Duration::ZERO).unwrap();
        queue.finish(current, Some(MINUTE), HOUR);
        let retry = DueCollection { due: HOUR + MINUTE, retries: 1, ..first(Collector::Quota, account) };
        assert_eq!(waiting(&queue), [retry]);
        let current = queue.pop_due(HOUR + MINUTE).unwrap();
        queue.finish(current, Some(10 * HOUR), HOUR + MINUTE);
        let [next] = waiting(&queue)[..] else { panic!("one collection") };
        assert!(next.retries == 0 && next.due < 3 * HOUR, "{next:?}");
    }

    #[test]
    fn added_account_collects_at_once_and_others_keep_their_times() {
        let mut queue = queue(ALL);
        let _: [_; 2] = add(&mut queue);
        collect_all(&mut queue, Duration::ZERO);
        let before = waiting(&queue);
        let added = queue.add("new".into(), MINUTE);
        let due = |collector| DueCollection { due: MINUTE, ..first(collector, added) };
        assert_eq!(collect_all(&mut queue, MINUTE), Collector::ALL.map(due));
        let mut after = waiting(&queue);
        after.retain(|waiting| waiting.account != added);
        assert_eq!(after, before);
    }

    #[test]
    fn removed_account_is_not_collected_again() {
        let mut queue = queue(ALL);
        let [removed, stays] = add(&mut queue);
        let in_flight = queue.pop_due(Duration::ZERO).unwrap();
        assert_eq!(in_flight.account, removed);
        // The others are blocked.
        assert_eq!(queue.pop_due(Duration::ZERO), Some(first(Collector::KfList, stays)));
        assert_eq!(queue.pop_due(Duration::ZERO), None);
        queue.retain(|account| account == stays);
        queue.finish(in_flight, Some(Duration::ZERO), Duration::ZERO);
        queue.finish(first(Collector::KfList, stays), None, Duration::ZERO);
        let all: Vec<_> = collect_all(&mut queue, 100 * HOUR);
        assert!(all.len() >= 4 && all.iter().all(|collection| collection.account == stays), "{all:?}");
    }

    #[test]
    fn collector_that_is_turned_off_stops() {
        let mut queue = queue(ALL);
        let _: [_; 2] = add(&mut queue);
        let in_flight = queue.pop_due(Duration::ZERO).unwrap();
        assert_eq!(in_flight.collector, Collector::KfList);
        queue.set_intervals(CollectorIntervals { kf_list: None, ..ALL }, Duration::ZERO);
        queue.finish(in_flight, Some(MINUTE), Duration::ZERO);
        let all = collect_all(&mut queue, Duration::ZERO);
        assert_eq!(all.len(), 6);
        assert!(all.iter().all(|collection| collection.collector != Collector::KfList), "{all:?}");
        assert!(waiting(&queue).iter().all(|waiting| waiting.collector != Collector::KfList));
    }

    #[test]
    fn collector_that_is_turned_on_collects_at_once() {
        let mut queue = queue(CollectorIntervals { quota: None, ..ALL });
        let accounts: [_; 2] = add(&mut queue);
        collect_all(&mut queue, Duration::ZERO);
        let before = waiting(&queue);
        queue.set_intervals(ALL, MINUTE);
        let due = |account| DueCollection { due: MINUTE, ..first(Collector::Quota, account) };
        assert_eq!(collect_all(&mut queue, MINUTE), accounts.map(due));
        let mut after = waiting(&queue);
        after.retain(|waiting| waiting.collector != Collector::Quota);
        assert_eq!(after, before);
    }

    #[test]
    fn collector_turned_off_and_on_in_flight_collects_once() {
        let mut queue = queue(CollectorIntervals { quota: Some(HOUR), ..OFF });
        let [account] = add(&mut queue);
        let in_flight = queue.pop_due(Duration::ZERO).unwrap();
        queue.set_intervals(OFF, Duration::ZERO);
        queue.set_intervals(ALL, Duration::ZERO);
        queue.finish(in_flight, None, Duration::ZERO);
        let quotas = waiting(&queue).into_iter().filter(|waiting| waiting.collector == Collector::Quota);
        let quotas: Vec<_> = quotas.collect();
        assert!(quotas.len() == 1 && quotas[0].due > Duration::ZERO, "{quotas:?}");
        assert_eq!(quotas[0].account, account);
    }

    #[test]
    fn changed_interval_moves_next_collection_within_it() {
        for (from, to) in [(HOUR, 10 * MINUTE), (10 * MINUTE, HOUR)] {
            let mut queue = queue(CollectorIntervals { online: Some(from), ..ALL });
            let _: [_; 100] = add(&mut queue);
            collect_all(&mut queue, Duration::ZERO);
            let others = |queue: &CollectionQueue| -> Vec<_> {
                waiting(queue).into_iter().filter(|w| w.collector != Collector::Online).collect()
            };
            let before = others(&queue);
            queue.set_intervals(CollectorIntervals { online: Some(to), ..ALL }, MINUTE);
            assert_eq!(others(&queue), before);
            let changed: Vec<_> =
                waiting(&queue).into_iter().filter(|w| w.collector == Collector::Online).collect();
            assert_eq!(changed.len(), 100);
            assert!(changed.iter().all(|w| (MINUTE..=MINUTE + to).contains(&w.due)), "{changed:?}");
            let in_first_half = changed.iter().filter(|w| w.due < MINUTE + to / 2).count();
            assert!((30..=70).contains(&in_first_half), "{in_first_half} of 100");
        }
    }

    #[test]
    fn changed_interval_does_not_delay_what_is_due() {
        let mut queue = queue(CollectorIntervals { online: Some(HOUR), ..OFF });
        let [account] = add(&mut queue);
        queue.set_intervals(CollectorIntervals { online: Some(MINUTE), ..OFF }, MINUTE);
        assert_eq!(queue.pop_due(MINUTE), Some(first(Collector::Online, account)));
    }
}
