//! Runs the collectors of all official accounts, each at its interval.
//!
//! The collections of an official account have a fixed offset within the interval ([`SpreadOffset`]), so that a thousand
//! official accounts do not call at once. All collect once at the start, getkflist first; the second collection comes at
//! least half an interval later. One task with a heap serves all of them: ten thousand official accounts are forty thousand
//! entries, not timers. A collection returns to the heap when it is done, so it never overlaps with itself, and times
//! that passed meanwhile coalesce. A collection that found WeChat busy is retried soon, at most twice ([`RETRIES`]).
//!
//! Each official account has at most one collection in flight, and none waits in flight for a rate limit. So an official
//! account whose calls hang, or whose limit is low, does not delay the others.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{
        agents::Collector,
        backoff::RetryDelays,
        clock::Clock,
        collector_intervals::{CollectorIntervals, next_due},
        error_class::ErrorClass,
        spread::SpreadOffset,
    },
    poll::{OfficialAccount, PollOutcome, Poller},
};

/// How many collections may be in flight, in addition to the polls: enough for 640 a second when a call takes 100 ms, and
/// ten thousand official accounts need 370.
pub const MAX_COLLECTIONS_IN_FLIGHT: usize = 64;

/// The retries of a collection that found WeChat busy; after them its interval applies again.
const RETRIES: RetryDelays = RetryDelays(&[Duration::from_secs(20), Duration::from_secs(20)]);

/// The shortest wait for a permit of the rate limit. Not zero, so that the loop that starts collections ends.
const MIN_PERMIT_WAIT: Duration = Duration::from_millis(1);

/// The longest sleep: due times are on another clock than the sleep.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// Runs the collectors of all official accounts.
pub struct Collectors {
    poller: Arc<Poller>,
    clock: Arc<dyn Clock>,
    intervals: CollectorIntervals,
    official_accounts: Vec<Arc<OfficialAccount>>,
}

/// The next collection of one collector of one official account. Ordered by time, then by collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DueCollection {
    /// On the monotonic clock.
    due: Duration,
    collector: Collector,
    /// The index of the official account.
    official_account: usize,
    /// How many retries led to it.
    retries: u8,
}

/// The collections that are not in flight.
#[derive(Default)]
struct CollectionQueue {
    heap: BinaryHeap<Reverse<DueCollection>>,
    /// For each official account with a collection in flight: its other collections that became due meanwhile.
    blocked: HashMap<usize, Vec<DueCollection>>,
}

impl Collectors {
    /// Collectors for these official accounts.
    pub fn new(
        poller: Arc<Poller>,
        clock: Arc<dyn Clock>,
        intervals: CollectorIntervals,
        official_accounts: Vec<Arc<OfficialAccount>>,
    ) -> Self {
        Self { poller, clock, intervals, official_accounts }
    }

    /// Collects until the drain begins, then finishes what is in flight.
    pub async fn run(self, drain: CancellationToken) {
        let mut queue = self.first_collections();
        let mut in_flight = FuturesUnordered::new();
        loop {
            let now = self.clock.now();
            while in_flight.len() < MAX_COLLECTIONS_IN_FLIGHT
                && let Some(next) = queue.pop_due(now.monotonic)
            {
                let official_account = &self.official_accounts[next.official_account];
                match self.poller.try_acquire_collection_permit(official_account, next.collector, now) {
                    Ok(()) => in_flight.push(self.collect(next)),
                    Err(wait) => {
                        let due = now.monotonic + wait.max(MIN_PERMIT_WAIT);
                        queue.put_back(DueCollection { due, ..next });
                    }
                }
            }
            let sleep = queue.next_due().map_or(MAX_SLEEP, |due| due.saturating_sub(now.monotonic));
            tokio::select! {
                () = drain.cancelled() => break,
                Some(next) = in_flight.next(), if !in_flight.is_empty() => queue.put_back(next),
                () = tokio::time::sleep(sleep.min(MAX_SLEEP)), if in_flight.len() < MAX_COLLECTIONS_IN_FLIGHT => {}
            }
        }
        while in_flight.next().await.is_some() {}
    }

    fn first_collections(&self) -> CollectionQueue {
        let due = self.clock.now().monotonic;
        let mut queue = CollectionQueue::default();
        let enabled = Collector::ALL.into_iter().filter(|collector| self.intervals.get(*collector).is_some());
        for collector in enabled {
            for official_account in 0..self.official_accounts.len() {
                queue.push(DueCollection { due, collector, official_account, retries: 0 });
            }
        }
        queue
    }

    /// Collects once and returns the next collection. A panic is one failed collection.
    async fn collect(&self, current: DueCollection) -> DueCollection {
        let official_account = &self.official_accounts[current.official_account];
        let collection = self.poller.collect(official_account, current.collector);
        let retry = match AssertUnwindSafe(collection).catch_unwind().await {
            Ok(PollOutcome::Failed(failure)) => failure.class == ErrorClass::Busy,
            // `Retry-After` asked for a longer wait than this retry left: another retry may follow.
            Ok(PollOutcome::BackedOff) => current.retries > 0,
            Ok(PollOutcome::Succeeded | PollOutcome::NotStored(_)) => false,
            Err(_) => {
                self.poller.record_collection_panic(official_account, current.collector);
                false
            }
        };
        self.next(current, retry)
    }

    /// The collection after one that is done now.
    fn next(&self, done: DueCollection, retry: bool) -> DueCollection {
        // Only enabled collectors are in the queue.
        let interval = self.intervals.get(done.collector).unwrap_or(MAX_SLEEP);
        let name = &self.official_accounts[done.official_account].status.name;
        let offset = SpreadOffset::new((&**name, done.collector)).within(interval);
        let now = self.clock.now().monotonic;
        let due = next_due(now, interval, offset);
        let delay = if retry { RETRIES.next(done.retries.into(), fastrand::f64()) } else { None };
        match delay.map(|delay| now + delay).filter(|retry_at| *retry_at < due) {
            Some(retry_at) => DueCollection { due: retry_at, retries: done.retries + 1, ..done },
            None => DueCollection { due, retries: 0, ..done },
        }
    }
}

impl CollectionQueue {
    fn push(&mut self, collection: DueCollection) {
        self.heap.push(Reverse(collection));
    }

    /// Removes a collection that is due, of an official account that has none in flight, and marks that account.
    fn pop_due(&mut self, now: Duration) -> Option<DueCollection> {
        loop {
            self.heap.peek().filter(|Reverse(collection)| collection.due <= now)?;
            let Reverse(collection) = self.heap.pop()?;
            match self.blocked.get_mut(&collection.official_account) {
                Some(blocked) => blocked.push(collection),
                None => {
                    self.blocked.insert(collection.official_account, Vec::new());
                    return Some(collection);
                }
            }
        }
    }

    /// Puts the next collection of an official account back when it has none in flight any more.
    fn put_back(&mut self, collection: DueCollection) {
        let blocked = self.blocked.remove(&collection.official_account).unwrap_or_default();
        self.heap.extend(blocked.into_iter().chain([collection]).map(Reverse));
    }

    fn next_due(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse(collection)| collection.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collection(collector: Collector, official_account: usize) -> DueCollection {
        DueCollection { due: Duration::ZERO, collector, official_account, retries: 0 }
    }

    #[test]
    fn kf_lists_are_collected_first() {
        let mut queue = CollectionQueue::default();
        for official_account in 0..3 {
            for collector in Collector::ALL {
                queue.push(collection(collector, official_account));
            }
        }
        let lists: Vec<_> = (0..3).map(|_| queue.pop_due(Duration::ZERO).unwrap()).collect();
        assert!(lists.iter().all(|list| list.collector == Collector::KfList), "{lists:?}");
        for list in lists {
            queue.put_back(DueCollection { due: Duration::MAX, ..list });
        }
        assert_eq!(queue.pop_due(Duration::ZERO), Some(collection(Collector::Online, 0)));
    }

    #[test]
    fn official_account_has_one_collection_in_flight_and_loses_none() {
        let mut queue = CollectionQueue::default();
        queue.push(collection(Collector::KfList, 0));
        queue.push(collection(Collector::Online, 0));
        queue.push(collection(Collector::Quota, 0));
        queue.push(collection(Collector::Quota, 1));
        let list = queue.pop_due(Duration::ZERO).unwrap();
        assert_eq!(queue.pop_due(Duration::ZERO), Some(collection(Collector::Quota, 1)));
        assert_eq!((queue.pop_due(Duration::ZERO), queue.next_due()), (None, None));
        queue.put_back(DueCollection { due: Duration::MAX, ..list });
        for collector in [Collector::Online, Collector::Quota] {
            let next = queue.pop_due(Duration::ZERO).unwrap();
            assert_eq!(next, collection(collector, 0));
            assert_eq!(queue.pop_due(Duration::ZERO), None);
            queue.put_back(DueCollection { due: Duration::MAX, ..next });
        }
    }
}
