//! Runs the collectors of all official accounts, each at its interval.
//!
//! The collections of an official account have a fixed offset within the interval, so that a thousand official accounts do
//! not call at once. All collect once at the start, getkflist first, and so does an official account that is added later; the
//! second collection comes at least half an interval later. One task with a heap serves all of them: ten thousand official
//! accounts are forty thousand entries, not timers. A collection returns to the heap when it is done, so it never overlaps with
//! itself, and times that passed meanwhile coalesce. A collection that found WeChat busy is retried soon, at most twice
//! ([`RETRIES`]).
//!
//! Each official account has at most one collection in flight, and none waits in flight for a rate limit. So an official
//! account whose calls hang, or whose limit is low, does not delay the others.
//!
//! Official accounts and intervals change while the collectors run ([`CollectorSet`]). What stays keeps its times.

mod queue;

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::queue::{AccountKey, CollectionQueue, DueCollection};
use crate::{
    domain::{
        agents::Collector,
        backoff::RetryDelays,
        clock::{Clock, Moment},
        collector_intervals::CollectorIntervals,
        error_class::ErrorClass,
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

/// What is collected, and how often.
#[derive(Clone)]
pub struct CollectorSet {
    /// How often each collector collects.
    pub intervals: CollectorIntervals,
    /// In the order of their first collections.
    pub official_accounts: Arc<Vec<CollectedAccount>>,
}

/// An official account whose agents and customers are reported. Another object for the same official account counts as
/// another official account.
#[derive(Clone)]
pub struct CollectedAccount {
    /// The official account.
    pub official_account: Arc<OfficialAccount>,
    /// Makes the calls and stores what they report.
    pub poller: Arc<Poller>,
}

/// Runs the collectors of all official accounts.
pub struct Collectors {
    clock: Arc<dyn Clock>,
    set: watch::Receiver<CollectorSet>,
    accounts: HashMap<AccountKey, CollectedAccount>,
    queue: CollectionQueue,
}

impl Collectors {
    /// Collectors that follow this set.
    pub fn new(clock: Arc<dyn Clock>, set: watch::Receiver<CollectorSet>) -> Self {
        Self { clock, set, accounts: HashMap::new(), queue: CollectionQueue::new() }
    }

    /// Collects until the drain begins, then finishes what is in flight.
    pub async fn run(mut self, drain: CancellationToken) {
        self.follow_set();
        let mut in_flight = FuturesUnordered::new();
        loop {
            let now = self.clock.now();
            while in_flight.len() < MAX_COLLECTIONS_IN_FLIGHT
                && let Some(next) = self.queue.pop_due(now.monotonic)
            {
                // The queue and the map have the same official accounts.
                let Some(account) = self.accounts.get(&next.account) else { continue };
                match account.try_acquire_permit(next.collector, now) {
                    Ok(()) => in_flight.push(collect(account.clone(), next)),
                    Err(wait) => {
                        let due = now.monotonic + wait.max(MIN_PERMIT_WAIT);
                        self.queue.put_back(DueCollection { due, ..next });
                    }
                }
            }
            let sleep = self.queue.next_due().map_or(MAX_SLEEP, |due| due.saturating_sub(now.monotonic));
            tokio::select! {
                () = drain.cancelled() => break,
                Ok(()) = self.set.changed() => self.follow_set(),
                Some((done, retry_delay)) = in_flight.next(), if !in_flight.is_empty() => {
                    self.queue.finish(done, retry_delay, self.clock.now().monotonic);
                }
                () = tokio::time::sleep(sleep.min(MAX_SLEEP)), if in_flight.len() < MAX_COLLECTIONS_IN_FLIGHT => {}
            }
        }
        while in_flight.next().await.is_some() {}
    }

    /// Takes the current intervals and official accounts.
    fn follow_set(&mut self) {
        let set = self.set.borrow_and_update().clone();
        let now = self.clock.now().monotonic;
        let pointer = |account: &CollectedAccount| Arc::as_ptr(&account.official_account);
        let mut added: HashMap<_, _> =
            set.official_accounts.iter().map(|account| (pointer(account), account)).collect();
        self.accounts.retain(|_, known| match added.remove(&pointer(known)) {
            Some(stays) => {
                known.poller = Arc::clone(&stays.poller);
                true
            }
            None => false,
        });
        self.queue.retain(|account| self.accounts.contains_key(&account));
        self.queue.set_intervals(set.intervals, now);
        for account in set.official_accounts.iter().filter(|account| added.contains_key(&pointer(account))) {
            let name = Arc::clone(&account.official_account.status.name);
            self.accounts.insert(self.queue.add(name, now), account.clone());
        }
    }
}

impl CollectedAccount {
    fn try_acquire_permit(&self, collector: Collector, now: Moment) -> Result<(), Duration> {
        self.poller.try_acquire_collection_permit(&self.official_account, collector, now)
    }
}

/// Collects once, and returns after which delay to retry it, if at all. A panic is one failed collection.
async fn collect(account: CollectedAccount, current: DueCollection) -> (DueCollection, Option<Duration>) {
    let CollectedAccount { official_account, poller } = account;
    let collection = poller.collect(&official_account, current.collector);
    let is_retried = match AssertUnwindSafe(collection).catch_unwind().await {
        Ok(PollOutcome::Failed(failure)) => failure.class == ErrorClass::Busy,
        // `Retry-After` asked for a longer wait than this retry left: another retry may follow.
        Ok(PollOutcome::BackedOff) => current.retries > 0,
        Ok(PollOutcome::Succeeded | PollOutcome::NotStored(_) | PollOutcome::Untrusted) => false,
        Err(_) => {
            poller.record_collection_panic(&official_account, current.collector);
            false
        }
    };
    let delay = RETRIES.next(current.retries.into(), fastrand::f64());
    (current, delay.filter(|_| is_retried))
}
