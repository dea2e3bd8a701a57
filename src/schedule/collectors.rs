//! When to collect: each collector of each official account at its interval.
//!
//! Every official account has its own fixed place within an interval, so that a thousand of them are not asked at once.
//! The first turn of all is at the start, getkflist before the others; the second is never sooner than half an interval
//! after the first. One task with a heap serves all turns: ten thousand official accounts are forty thousand entries, not
//! timers. A turn goes back into the heap when its collection is done, so that there is never a second one beside it, and
//! turns that passed meanwhile fall together. A collection that found WeChat busy is repeated soon, but not for ever
//! ([`RETRIES`]).
//!
//! No official account has more than one collection in flight, and none waits in flight for its limit on requests: one
//! that hangs, or may ask little, takes no more than its share from the others.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{agents::Collector, backoff::RetryDelays, clock::Clock, error_class::ErrorClass},
    poll::{Collection, OfficialAccount, Poller},
};

/// How many collections may be in flight, beside the polls: enough for 640 a second when a call takes 100 ms, and ten
/// thousand official accounts need 370.
pub const MAX_COLLECTIONS_IN_FLIGHT: usize = 64;

/// The retries of a collection that found WeChat busy; after them its interval applies again.
const RETRIES: RetryDelays = RetryDelays(&[Duration::from_secs(20), Duration::from_secs(20)]);

/// The shortest time after which a permit is asked for again.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// The longest sleep: the time until the next turn is measured on another clock than the sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How often each collector collects; `None` turns it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// getkflist.
    pub kf_list: Option<Duration>,
    /// getonlinekflist.
    pub online: Option<Duration>,
    /// getwaitcase.
    pub waiting: Option<Duration>,
    /// openapi/quota/get.
    pub quota: Option<Duration>,
}

impl Intervals {
    /// That of one collector.
    pub fn of(&self, collector: Collector) -> Option<Duration> {
        match collector {
            Collector::KfList => self.kf_list,
            Collector::Online => self.online,
            Collector::Waiting => self.waiting,
            Collector::Quota => self.quota,
        }
    }

    /// How many calls a day they make for one official account.
    pub fn calls_a_day(&self) -> u64 {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let intervals = Collector::ALL.into_iter().filter_map(|collector| self.of(collector));
        // Rounded up: an interval of a week makes a call on some day.
        intervals.map(|interval| DAY.as_millis().div_ceil(interval.as_millis().max(1)) as u64).sum()
    }
}

/// Collects for all official accounts.
pub struct Collectors {
    poller: Arc<Poller>,
    clock: Arc<dyn Clock>,
    intervals: Intervals,
    official_accounts: Vec<Arc<OfficialAccount>>,
}

/// When one collector of one official account is due. Ordered by time, then by collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// On the monotonic clock.
    due: Duration,
    collector: Collector,
    /// The index of its official account.
    of: usize,
    /// How many repeats led to it.
    repeats: u8,
}

/// The turns that are not in flight.
#[derive(Default)]
struct Turns {
    waiting: BinaryHeap<Reverse<Turn>>,
    /// By official accounts with a collection in flight: those of their others that came due meanwhile.
    behind: HashMap<usize, Vec<Turn>>,
}

impl Turns {
    fn push(&mut self, turn: Turn) {
        self.waiting.push(Reverse(turn));
    }

    /// Takes a turn that is due, of an official account that has none in flight.
    fn take_due(&mut self, now: Duration) -> Option<Turn> {
        loop {
            self.waiting.peek().filter(|Reverse(turn)| turn.due <= now)?;
            let Reverse(turn) = self.waiting.pop()?;
            match self.behind.get_mut(&turn.of) {
                Some(behind) => behind.push(turn),
                None => {
                    self.behind.insert(turn.of, Vec::new());
                    return Some(turn);
                }
            }
        }
    }

    /// Puts back one that was taken, when it is not in flight any more.
    fn put_back(&mut self, turn: Turn) {
        let behind = self.behind.remove(&turn.of).unwrap_or_default();
        self.waiting.extend(behind.into_iter().chain([turn]).map(Reverse));
    }

    fn next_due(&self) -> Option<Duration> {
        self.waiting.peek().map(|Reverse(turn)| turn.due)
    }
}

impl Collectors {
    /// Collectors that are not at work yet.
    pub fn new(
        poller: Arc<Poller>,
        clock: Arc<dyn Clock>,
        intervals: Intervals,
        official_accounts: Vec<Arc<OfficialAccount>>,
    ) -> Self {
        Self { poller, clock, intervals, official_accounts }
    }

    /// Collects until the drain begins, and then until nothing is in flight.
    pub async fn run(self, drain: CancellationToken) {
        let mut turns = self.first_turns();
        let mut in_flight = FuturesUnordered::new();
        loop {
            let now = self.clock.now().monotonic;
            while in_flight.len() < MAX_COLLECTIONS_IN_FLIGHT
                && let Some(turn) = turns.take_due(now)
            {
                match self.poller.admit_collection(&self.official_accounts[turn.of], turn.collector) {
                    Ok(()) => in_flight.push(self.collect(turn)),
                    // Later than now: whoever is due is taken once in this loop.
                    Err(wait) => turns.put_back(Turn { due: now + wait.max(SHORTEST_WAIT), ..turn }),
                }
            }
            let sleep = turns.next_due().map_or(LONGEST_SLEEP, |due| due.saturating_sub(now));
            tokio::select! {
                () = drain.cancelled() => break,
                Some(next) = in_flight.next(), if !in_flight.is_empty() => turns.put_back(next),
                () = tokio::time::sleep(sleep.min(LONGEST_SLEEP)), if in_flight.len() < MAX_COLLECTIONS_IN_FLIGHT => {}
            }
        }
        while in_flight.next().await.is_some() {}
    }

    fn first_turns(&self) -> Turns {
        let due = self.clock.now().monotonic;
        let mut turns = Turns::default();
        for collector in
            Collector::ALL.into_iter().filter(|collector| self.intervals.of(*collector).is_some())
        {
            (0..self.official_accounts.len())
                .for_each(|of| turns.push(Turn { due, collector, of, repeats: 0 }));
        }
        turns
    }

    /// One collection, and the turn after it; a panic in it is one failed collection.
    async fn collect(&self, turn: Turn) -> Turn {
        let official_account = &self.official_accounts[turn.of];
        let collection = self.poller.collect(official_account, turn.collector);
        let repeat = match AssertUnwindSafe(collection).catch_unwind().await {
            Ok(Collection::Failed(failure)) => failure.class == ErrorClass::Busy,
            // `Retry-After` asked for more time than this repeat left: the next one may come.
            Ok(Collection::BackedOff) => turn.repeats > 0,
            Ok(Collection::Succeeded | Collection::NotStored(_)) => false,
            Err(_) => {
                self.poller.collection_panicked(official_account, turn.collector);
                false
            }
        };
        self.next(turn, repeat)
    }

    /// The turn after one that is done now.
    fn next(&self, done: Turn, repeat: bool) -> Turn {
        let Turn { collector, of, .. } = done;
        // Only collectors that are on have turns.
        let interval = self.intervals.of(collector).unwrap_or(LONGEST_SLEEP);
        let place = place(&self.official_accounts[of].status.name, collector);
        let now = self.clock.now().monotonic;
        let due = next_after(now, interval, interval.mul_f64(place));
        let repeated = repeat
            .then(|| RETRIES.next(done.repeats.into(), fastrand::f64()))
            .flatten()
            .map(|delay| now + delay);
        match repeated.filter(|repeated| *repeated < due) {
            Some(due) => Turn { due, repeats: done.repeats + 1, ..done },
            None => Turn { due, repeats: 0, ..done },
        }
    }
}

/// The first moment at this offset within an interval that is no sooner than half an interval from now.
fn next_after(now: Duration, interval: Duration, offset: Duration) -> Duration {
    let earliest = now + interval / 2;
    let passed = earliest.saturating_sub(offset).as_nanos().div_ceil(interval.as_nanos().max(1));
    offset + interval.saturating_mul(u32::try_from(passed).unwrap_or(u32::MAX))
}

/// Where within its interval a collector of an official account has its turns, as a fraction: by a hash of the names, the
/// same in every interval.
fn place(official_account: &str, collector: Collector) -> f64 {
    let mut hasher = DefaultHasher::new();
    (official_account, collector).hash(&mut hasher);
    (hasher.finish() >> 32) as f64 / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ON: Intervals = Intervals {
        kf_list: Some(Duration::from_secs(300)),
        online: Some(Duration::from_secs(60)),
        waiting: Some(Duration::from_secs(60)),
        quota: Some(Duration::from_secs(3600)),
    };

    #[test]
    fn what_collectors_cost_a_day_is_known_beforehand() {
        assert_eq!(ON.calls_a_day(), 288 + 1440 + 1440 + 24);
        let off = Intervals { kf_list: None, online: None, waiting: None, quota: None };
        assert_eq!(off.calls_a_day(), 0);
        assert_eq!(Intervals { quota: Some(Duration::from_secs(7 * 86_400)), ..off }.calls_a_day(), 1);
    }

    #[test]
    fn official_accounts_are_spread_over_the_interval() {
        let mut in_each_tenth = [0; 10];
        for n in 0..10_000 {
            let place = place(&format!("shop{n}"), Collector::Online);
            in_each_tenth[((place * 10.0) as usize).min(9)] += 1;
        }
        assert!(in_each_tenth.iter().all(|count| (800..1200).contains(count)), "{in_each_tenth:?}");
    }

    fn turn(collector: Collector, of: usize) -> Turn {
        Turn { due: Duration::ZERO, collector, of, repeats: 0 }
    }

    #[test]
    fn the_lists_of_kf_accounts_come_before_all_else() {
        let mut turns = Turns::default();
        (0..3)
            .for_each(|of| Collector::ALL.into_iter().for_each(|collector| turns.push(turn(collector, of))));
        let lists: Vec<Turn> = (0..3).map(|_| turns.take_due(Duration::ZERO).unwrap()).collect();
        assert!(lists.iter().all(|turn| turn.collector == Collector::KfList), "{lists:?}");
        for list in lists {
            turns.put_back(Turn { due: Duration::MAX, ..list });
        }
        assert_eq!(turns.take_due(Duration::ZERO), Some(turn(Collector::Online, 0)));
    }

    #[test]
    fn an_official_account_has_one_collection_in_flight_and_loses_no_turn() {
        let mut turns = Turns::default();
        [
            turn(Collector::KfList, 0),
            turn(Collector::Online, 0),
            turn(Collector::Quota, 0),
            turn(Collector::Quota, 1),
        ]
        .into_iter()
        .for_each(|turn| turns.push(turn));
        let list = turns.take_due(Duration::ZERO).unwrap();
        assert_eq!(turns.take_due(Duration::ZERO), Some(turn(Collector::Quota, 1)));
        assert_eq!((turns.take_due(Duration::ZERO), turns.next_due()), (None, None));
        turns.put_back(Turn { due: Duration::MAX, ..list });
        for collector in [Collector::Online, Collector::Quota] {
            let taken = turns.take_due(Duration::ZERO).unwrap();
            assert_eq!(taken, turn(collector, 0));
            assert_eq!(turns.take_due(Duration::ZERO), None);
            turns.put_back(Turn { due: Duration::MAX, ..taken });
        }
    }

    proptest! {
        #[test]
        fn turns_keep_their_place_and_are_neither_rushed_nor_lost(
            now_ms in 0..10_000_000_000u64, interval_s in 10..604_800u64, place in 0.0..=1.0f64,
        ) {
            let (now, interval) = (Duration::from_millis(now_ms), Duration::from_secs(interval_s));
            let offset = interval.mul_f64(place);
            let next = next_after(now, interval, offset);
            prop_assert!(next >= now + interval / 2);
            prop_assert!(next < now + interval / 2 + interval + offset.saturating_sub(now));
            prop_assert_eq!((next - offset).as_nanos() % interval.as_nanos(), 0);
            // From one turn on time to the next it is one interval.
            prop_assert_eq!(next_after(next, interval, offset), next + interval);
        }
    }
}
