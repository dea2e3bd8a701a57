//! The events between a sink's cursor and the end of what was read of the log: which of them may be delivered next, and
//! where the cursor stands.
//!
//! An event is settled when it was acknowledged or became a dead letter. The cursor stands before the lowest event of the log
//! that is not settled. At most one delivery of each kf account is in flight, so that first deliveries are in order;
//! different kf accounts overtake each other. Dead letters that are to be delivered again are here as well, and move no
//! cursor.
//!
//! Events that wait for earlier ones of their kf account may be evicted ([`evict_waiting`](Window::evict_waiting)) to make
//! room for other kf accounts. Only their ids are kept, until their turn comes and they are reloaded. Pure: the time is an
//! argument.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::settled::SettledEvents;
use crate::store::{AccountId, LogPosition, StoredEvent};

/// How many events of a kf account are reloaded together at most.
const MAX_RELOADED_TOGETHER: usize = 50;

/// How often an event may be refused in a batch with other kf accounts. After that, the events of its kf account are delivered by
/// themselves, so that an event that is refused for good costs no other kf account its events.
const MAX_REFUSALS_TOGETHER: u32 = 2;

/// Events that were read and are not settled.
#[derive(Debug)]
pub(super) struct Window {
    loaded: BTreeMap<LogPosition, LoadedEvent>,
    /// Events of the log that are not settled and not loaded.
    evicted: BTreeSet<LogPosition>,
    /// Evicted events that are the first of their kf accounts.
    to_reload: BTreeMap<LogPosition, AccountId>,
    /// The unsettled events of each kf account in their order, loaded or evicted. Without an entry there are none.
    queues: HashMap<AccountId, VecDeque<LogPosition>>,
    /// First events of their kf accounts that may be delivered now.
    ready: BTreeSet<LogPosition>,
    /// First events of their kf accounts that back off, until a time on the monotonic clock.
    delayed: BTreeSet<(Duration, LogPosition)>,
    read_to: LogPosition,
    settled: SettledEvents,
}

#[derive(Debug)]
struct LoadedEvent {
    event: Arc<StoredEvent>,
    origin: Origin,
    refusals: u32,
}

impl LoadedEvent {
    /// Whether the events of its kf account are a batch by themselves. A retried dead letter was refused before.
    fn is_delivered_alone(&self) -> bool {
        self.refusals >= MAX_REFUSALS_TOGETHER || self.origin == Origin::DeadLetters
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Read from the log, after the cursor.
    Log,
    /// Read from the dead letters; the cursor has passed it.
    DeadLetters,
}

impl Window {
    /// An empty window after this cursor.
    pub(super) fn after(cursor: LogPosition) -> Self {
        Self {
            loaded: BTreeMap::new(),
            evicted: BTreeSet::new(),
            to_reload: BTreeMap::new(),
            queues: HashMap::new(),
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            read_to: cursor,
            settled: SettledEvents::default(),
        }
    }

    /// Forgets what was read after the cursor, so that it is read again. Settled events are then skipped. Only while none is in
    /// flight.
    pub(super) fn restart(&mut self) {
        let settled = std::mem::take(&mut self.settled);
        *self = Self { settled, ..Self::after(self.cursor()) };
    }

    /// The position up to which the log was read.
    pub(super) fn read_to(&self) -> LogPosition {
        self.read_to
    }

    /// The number of loaded events.
    pub(super) fn len(&self) -> usize {
        self.loaded.len()
    }

    /// The number of evicted events.
    pub(super) fn evicted(&self) -> usize {
        self.evicted.len()
    }

    /// The number of kf accounts with loaded or evicted events.
    pub(super) fn kf_accounts(&self) -> usize {
        self.queues.len()
    }

    /// The position up to which all events of the log are settled.
    pub(super) fn cursor(&self) -> LogPosition {
        let loaded = self.loaded.iter().find(|(_, loaded)| loaded.origin == Origin::Log).map(|(id, _)| id);
        let first = loaded.into_iter().chain(self.evicted.first()).min();
        first.map_or(self.read_to, |first| LogPosition(first.0 - 1))
    }

    /// Adds what was read: all events up to `read_to` that pass the sink's filter.
    pub(super) fn add(&mut self, events: Vec<StoredEvent>, read_to: LogPosition) {
        for event in events {
            if !self.settled.contains(&event) {
                self.append(event, Origin::Log);
            }
        }
        self.read_to = self.read_to.max(read_to);
    }

    /// Adds dead letters that are to be delivered again, after the present events of their kf accounts. Skips those that are
    /// already here, or that the log will bring later.
    pub(super) fn add_dead_letters(&mut self, letters: Vec<StoredEvent>) {
        for letter in letters {
            let is_here = self.loaded.contains_key(&letter.id) || self.evicted.contains(&letter.id);
            if letter.id <= self.read_to && !is_here {
                self.append(letter, Origin::DeadLetters);
            }
        }
    }

    /// Evicts events of the log that wait for earlier ones of their kf accounts, unless an event is ready. Only for sinks
    /// that get events one by one: events in flight are then the first of their kf accounts, and stay.
    pub(super) fn evict_waiting(&mut self) {
        if !self.ready.is_empty() {
            return;
        }
        let Self { loaded, evicted, queues, .. } = self;
        loaded.retain(|id, LoadedEvent { event, origin, .. }| {
            let is_first = queues.get(&event.account).and_then(VecDeque::front) == Some(id);
            let stays = is_first || *origin == Origin::DeadLetters;
            if !stays {
                evicted.insert(*id);
            }
            stays
        });
    }

    /// Whether there are events to reload.
    pub(super) fn has_to_reload(&self) -> bool {
        !self.to_reload.is_empty()
    }

    /// The events to reload if there is room for so many: some of each kf account together, and at least one of each, or it
    /// would wait forever.
    pub(super) fn to_reload(&self, room: usize) -> Vec<(AccountId, LogPosition)> {
        let each = (room / self.to_reload.len().max(1)).clamp(1, MAX_RELOADED_TOGETHER);
        let next_evicted = |account: &AccountId| {
            let account = *account;
            let queue = self.queues.get(&account).into_iter().flatten();
            let evicted = queue.copied().filter(|id| self.evicted.contains(id));
            evicted.take(each).map(move |id| (account, id))
        };
        self.to_reload.values().flat_map(next_evicted).collect()
    }

    /// Adds what was reloaded of what was requested. The log no longer has the rest, which counts as settled: the sink was
    /// suspended, and the store has recorded that it missed them.
    pub(super) fn add_reloaded(&mut self, requested: &[(AccountId, LogPosition)], events: Vec<StoredEvent>) {
        for event in events {
            self.evicted.remove(&event.id);
            if self.to_reload.remove(&event.id).is_some() {
                self.ready.insert(event.id);
            }
            self.load(event, Origin::Log);
        }
        for (account, id) in requested {
            if self.evicted.remove(id) {
                self.to_reload.remove(id);
                self.leave_queue(*account, *id);
            }
        }
    }

    fn append(&mut self, event: StoredEvent, origin: Origin) {
        let queue = self.queues.entry(event.account).or_default();
        queue.push_back(event.id);
        let first = queue.front().copied().unwrap_or(event.id);
        // The sink decides anew about events that it postponed: this one may be urgent.
        if first == event.id || self.is_postponed(first) {
            self.ready.insert(first);
        }
        self.load(event, origin);
    }

    /// Whether the event waits because the sink postponed it, not because it was refused.
    fn is_postponed(&self, id: LogPosition) -> bool {
        self.loaded.get(&id).is_some_and(|loaded| loaded.refusals == 0)
            && self.delayed.iter().any(|(_, delayed)| *delayed == id)
    }

    fn load(&mut self, event: StoredEvent, origin: Origin) {
        self.loaded.insert(event.id, LoadedEvent { event: Arc::new(event), origin, refusals: 0 });
    }

    /// Whether the event was read from the dead letters.
    pub(super) fn is_dead_letter(&self, event: &StoredEvent) -> bool {
        self.loaded.get(&event.id).is_some_and(|loaded| loaded.origin == Origin::DeadLetters)
    }

    /// Takes the next event to be delivered by itself; `None` if all are in flight or wait.
    pub(super) fn next_event(&mut self) -> Option<Arc<StoredEvent>> {
        let id = self.ready.pop_first()?;
        self.loaded.get(&id).map(|loaded| Arc::clone(&loaded.event))
    }

    /// Takes the next events to be delivered together, at most `limit`; none unless one is ready. A batch also has the events
    /// that wait, so that the sink sees all of them, except those of kf accounts whose events are delivered by themselves. Only
    /// while none is in flight, so that an event is in the same batch as the earlier ones of its kf account.
    pub(super) fn next_batch(&mut self, limit: usize) -> Vec<Arc<StoredEvent>> {
        let Some(first) = self.ready.first().and_then(|id| self.loaded.get(id)) else { return Vec::new() };
        let first = first.event.account;
        let alone = self.loaded.values().filter(|loaded| loaded.is_delivered_alone());
        let alone: HashSet<AccountId> = alone.map(|loaded| loaded.event.account).collect();
        let is_in_batch = |account: &AccountId| {
            if alone.contains(&first) { *account == first } else { !alone.contains(account) }
        };
        let events = self.loaded.values().map(|loaded| &loaded.event);
        let batch: Vec<_> =
            events.filter(|event| is_in_batch(&event.account)).take(limit).map(Arc::clone).collect();
        let taken: HashSet<LogPosition> = batch.iter().map(|event| event.id).collect();
        self.ready.retain(|id| !taken.contains(id));
        self.delayed.retain(|(_, id)| !taken.contains(id));
        batch
    }

    /// Removes settled events, in the order in which they were taken.
    pub(super) fn settle(&mut self, events: &[Arc<StoredEvent>]) {
        for event in events {
            self.loaded.remove(&event.id);
            // It became ready a moment ago if the one before it in its kf account is in the same batch.
            self.ready.remove(&event.id);
            self.leave_queue(event.account, event.id);
            let first = self.queues.get(&event.account).and_then(VecDeque::front);
            if first.is_none_or(|first| *first > event.id) {
                self.settled.record(event);
            }
        }
        self.settled.cursor_advanced(self.cursor());
    }

    /// Removes an event from its queue. If it was the first, the next one becomes ready or is reloaded.
    fn leave_queue(&mut self, account: AccountId, id: LogPosition) {
        let Some(queue) = self.queues.get_mut(&account) else { return };
        // The first, unless a dead letter follows a younger event and both were delivered together.
        let index = queue.iter().position(|other| *other == id);
        if let Some(index) = index {
            queue.remove(index);
        }
        match queue.front() {
            None => {
                self.queues.remove(&account);
            }
            Some(next) if self.evicted.contains(next) => {
                self.to_reload.insert(*next, account);
            }
            Some(next) if index == Some(0) => {
                self.ready.insert(*next);
            }
            Some(_) => {}
        }
    }

    /// Returns events that were not acknowledged. They may be taken again at once.
    pub(super) fn put_back(&mut self, events: &[Arc<StoredEvent>]) {
        let mut accounts = HashSet::new();
        // Later ones of a kf account become ready when the first is settled.
        let first = events.iter().filter(|event| accounts.insert(event.account));
        self.ready.extend(first.map(|event| event.id));
    }

    /// Returns an event that the sink does not want yet. It makes a batch ready at `until`, or when another one of its kf account
    /// comes, unless an earlier one of its kf account waits.
    pub(super) fn postpone(&mut self, event: &StoredEvent, until: Duration) {
        if self.queues.get(&event.account).and_then(VecDeque::front) == Some(&event.id) {
            // It became ready a moment ago if the one before it became a dead letter.
            self.ready.remove(&event.id);
            self.delayed.insert((until, event.id));
        }
    }

    /// Returns an event that was refused. It may be taken again at `until`.
    pub(super) fn delay(&mut self, event: &StoredEvent, until: Duration) {
        self.postpone(event, until);
        if let Some(loaded) = self.loaded.get_mut(&event.id) {
            loaded.refusals += 1;
        }
    }

    /// How often the event was refused.
    pub(super) fn refusals(&self, event: &StoredEvent) -> u32 {
        self.loaded.get(&event.id).map_or(0, |loaded| loaded.refusals)
    }

    /// Makes events ready whose delay is over, and returns when the next delay ends.
    pub(super) fn release_delayed(&mut self, now: Duration) -> Option<Duration> {
        while let Some(&(until, id)) = self.delayed.first() {
            if until > now {
                return Some(until);
            }
            self.delayed.pop_first();
            self.ready.insert(id);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(id: i64, account: i64) -> StoredEvent {
        StoredEvent { id: LogPosition(id), account: AccountId(account), ..StoredEvent::sample("") }
    }

    fn window(accounts: &[i64]) -> Window {
        let mut window = Window::after(LogPosition(0));
        let events = (1..).zip(accounts).map(|(id, account)| event(id, *account)).collect();
        window.add(events, LogPosition(accounts.len() as i64));
        window
    }

    fn ids(events: &[Arc<StoredEvent>]) -> Vec<i64> {
        events.iter().map(|event| event.id.0).collect()
    }

    #[test]
    fn other_kf_accounts_overtake_but_cursor_waits() {
        let mut window = window(&[1, 1, 2]);
        let first = window.next_event().unwrap();
        let other = window.next_event().unwrap();
        assert_eq!((first.id.0, other.id.0), (1, 3));
        assert!(window.next_event().is_none(), "the second of a kf account waits for the first");
        window.settle(&[other]);
        assert_eq!(window.cursor(), LogPosition(0));
        window.settle(&[first]);
        assert_eq!(window.cursor(), LogPosition(1));
        let second = window.next_event().unwrap();
        window.settle(&[second]);
        assert_eq!((window.cursor(), window.len()), (LogPosition(3), 0));
    }

    #[test]
    fn batch_has_order_of_log() {
        let mut window = window(&[1, 2, 1, 1, 2]);
        let taken = window.next_batch(4);
        assert_eq!(ids(&taken), [1, 2, 3, 4]);
        window.put_back(&taken);
        let taken = window.next_batch(4);
        assert_eq!(ids(&taken), [1, 2, 3, 4]);
        window.settle(&taken);
        assert_eq!(window.cursor(), LogPosition(4));
        assert_eq!(ids(&window.next_batch(4)), [5]);
    }

    #[test]
    fn postponed_events_join_next_batch_and_wait_alone() {
        let mut window = window(&[1, 2, 1]);
        let all = window.next_batch(9);
        window.settle(&all[1..2]);
        window.postpone(&all[0], Duration::from_secs(9));
        window.postpone(&all[2], Duration::from_secs(1));
        assert_eq!(window.release_delayed(Duration::from_secs(8)), Some(Duration::from_secs(9)));
        assert_eq!((window.next_batch(9).len(), window.cursor()), (0, LogPosition(0)));
        window.add(vec![event(4, 2)], LogPosition(4));
        let all = window.next_batch(9);
        assert_eq!(ids(&all), [1, 3, 4]);
        window.settle(&all);
        assert_eq!(window.release_delayed(Duration::from_secs(10)), None);
        assert_eq!((window.next_batch(9).len(), window.cursor()), (0, LogPosition(4)));
    }

    #[test]
    fn new_event_makes_postponed_one_of_its_kf_account_ready() {
        let mut window = window(&[1]);
        let first = window.next_batch(9);
        window.postpone(&first[0], Duration::from_secs(600));
        window.add(vec![event(2, 1)], LogPosition(2));
        assert_eq!(ids(&window.next_batch(9)), [1, 2]);
        assert_eq!(window.release_delayed(Duration::ZERO), None);
    }

    #[test]
    fn kf_account_is_delivered_alone_after_refusals() {
        let mut window = window(&[1, 2, 1]);
        for refusals in 1..=MAX_REFUSALS_TOGETHER {
            let batch = window.next_batch(9);
            assert_eq!(ids(&batch), [1, 2, 3]);
            let until = Duration::from_secs(refusals.into());
            batch.iter().for_each(|event| window.delay(event, until));
            window.release_delayed(until);
        }
        let refused = window.next_batch(9);
        assert_eq!(ids(&refused), [1, 3]);
        refused.iter().for_each(|event| window.delay(event, Duration::from_secs(9)));
        let accepted = window.next_batch(9);
        assert_eq!(ids(&accepted), [2]);
        window.settle(&accepted);
        window.add(vec![event(4, 1), event(5, 3)], LogPosition(5));
        assert_eq!(ids(&window.next_batch(9)), [5], "the others back off");
        window.release_delayed(Duration::from_secs(9));
        assert_eq!(ids(&window.next_batch(9)), [1, 3, 4]);
    }

    /// Reloads one event of each kf account.
    fn reload(window: &mut Window, accounts: &[i64]) {
        let requested = window.to_reload(1);
        let events = requested.iter().map(|(_, id)| event(id.0, accounts[id.0 as usize - 1])).collect();
        window.add_reloaded(&requested, events);
    }

    #[test]
    fn waiting_events_are_evicted_and_reloaded_in_turn() {
        let accounts = [1, 1, 1, 2];
        let mut window = window(&accounts);
        let first = window.next_event().unwrap();
        window.evict_waiting();
        assert_eq!(window.len(), 4, "an event of the other kf account is ready");
        let other = window.next_event().unwrap();
        window.evict_waiting();
        assert_eq!((window.len(), window.evicted()), (2, 2), "events in flight stay");
        assert!(window.to_reload(9).is_empty(), "their turn has not come");
        window.settle(&[other]);
        window.settle(&[first]);
        assert_eq!((window.cursor(), window.next_event()), (LogPosition(1), None));
        assert_eq!(window.to_reload(9), [(AccountId(1), LogPosition(2)), (AccountId(1), LogPosition(3))]);
        reload(&mut window, &accounts);
        assert_eq!(window.next_event().map(|event| event.id.0), Some(2));
        assert_eq!((window.cursor(), window.evicted()), (LogPosition(1), 1));
    }

    #[test]
    fn reloads_are_limited_by_room() {
        let accounts: Vec<i64> = (0..400).map(|n| n % 40).collect();
        let mut window = window(&accounts);
        let first_ones: Vec<_> = std::iter::from_fn(|| window.next_event()).collect();
        window.evict_waiting();
        window.settle(&first_ones);
        assert_eq!((window.len(), window.evicted()), (0, 360));
        for (room, reloaded) in [(1000, 360), (100, 80), (3, 40), (0, 40)] {
            assert_eq!(window.to_reload(room).len(), reloaded, "{room}");
        }
    }

    #[test]
    fn events_missing_from_log_are_skipped() {
        let accounts = [1, 1, 1, 1];
        let mut window = window(&accounts);
        let first = window.next_event().unwrap();
        window.evict_waiting();
        window.settle(&[first]);
        let requested = window.to_reload(9);
        assert_eq!(requested.len(), 3);
        window.add_reloaded(&requested, vec![event(3, 1)]);
        let third = window.next_event().unwrap();
        assert_eq!((third.id.0, window.cursor()), (3, LogPosition(2)));
        window.settle(&[third]);
        assert_eq!((window.cursor(), window.len(), window.evicted()), (LogPosition(4), 0, 0));
    }

    #[test]
    fn dead_letter_in_log_is_delivered_once() {
        let mut window = window(&[1, 1, 2]);
        let in_flight = [window.next_event().unwrap(), window.next_event().unwrap()];
        window.evict_waiting();
        window.add_dead_letters(vec![event(2, 1)]);
        window.settle(&in_flight);
        reload(&mut window, &[1, 1, 2]);
        let again = window.next_event().unwrap();
        assert!(!window.is_dead_letter(&again));
        window.settle(&[again]);
        assert_eq!((window.cursor(), window.next_event()), (LogPosition(3), None));
    }

    #[test]
    fn refused_event_delays_only_its_kf_account() {
        let mut window = window(&[1, 1, 2]);
        let refused = window.next_event().unwrap();
        window.delay(&refused, Duration::from_secs(5));
        assert_eq!(window.next_event().map(|event| event.id.0), Some(3));
        assert!(window.next_event().is_none());
        assert_eq!(window.release_delayed(Duration::from_secs(4)), Some(Duration::from_secs(5)));
        assert_eq!(window.release_delayed(Duration::from_secs(5)), None);
        assert_eq!(window.next_event().map(|event| event.id.0), Some(1));
        assert_eq!(window.refusals(&refused), 1);
    }

    #[test]
    fn restart_skips_settled_events_and_ends_delays() {
        let mut window = window(&[1, 1, 2, 2, 3]);
        let refused = window.next_event().unwrap();
        window.delay(&refused, Duration::from_secs(60));
        for expected in [3, 4, 5] {
            let event = window.next_event().unwrap();
            assert_eq!(event.id.0, expected);
            window.settle(std::slice::from_ref(&event));
        }
        for _ in 0..2 {
            window.restart();
            assert_eq!(
                (window.cursor(), window.read_to(), window.len()),
                (LogPosition(0), LogPosition(0), 0)
            );
        }
        window.add(vec![event(1, 1), event(2, 1), event(3, 2)], LogPosition(3));
        let refused = window.next_event().unwrap();
        assert_eq!((refused.id.0, window.refusals(&refused)), (1, 0));
        assert_eq!(window.next_event(), None, "3 is settled");
        window.settle(&[refused]);
        let second = window.next_event().unwrap();
        window.settle(&[second]);
        assert_eq!((window.len(), window.cursor()), (0, LogPosition(3)));
        window.add(vec![event(4, 2), event(5, 3), event(6, 2)], LogPosition(6));
        assert_eq!(window.next_event().map(|event| event.id.0), Some(6), "4 and 5 are settled");
    }

    #[test]
    fn restart_keeps_event_that_waits_although_later_one_is_dead_letter() {
        let mut window = window(&[1, 1]);
        let both = window.next_batch(2);
        // The store failed for the first, and took the second as a dead letter.
        window.settle(&both[1..]);
        window.delay(&both[0], Duration::from_secs(1));
        window.restart();
        window.add(vec![event(1, 1), event(2, 1)], LogPosition(2));
        assert_eq!(window.next_event().map(|event| event.id.0), Some(1));
    }

    proptest! {
        /// Whatever fails in whatever order: the events of a kf account are taken in order, one at a time, none is taken after it
        /// was settled, and the cursor passes only settled events.
        #[test]
        fn order_and_cursor_survive_failures_and_restarts(
            accounts in prop::collection::vec(0_i64..4, 1..40),
            choices in prop::collection::vec((0_u8..7, any::<prop::sample::Index>()), 0..200),
        ) {
            let mut window = window(&accounts);
            let mut in_flight: Vec<Arc<StoredEvent>> = Vec::new();
            let mut settled = BTreeSet::new();
            for (choice, index) in choices {
                match choice {
                    0 | 1 => {
                        if let Some(event) = window.next_event() {
                            let before = (1..event.id.0).filter(|id| accounts[*id as usize - 1] == event.account.0);
                            prop_assert!(before.into_iter().all(|id| settled.contains(&id)));
                            prop_assert!(in_flight.iter().all(|other| other.account != event.account));
                            prop_assert!(!settled.contains(&event.id.0), "taken again");
                            in_flight.push(event);
                        }
                    }
                    2 => window.evict_waiting(),
                    3 => reload(&mut window, &accounts),
                    6 if in_flight.is_empty() => {
                        window.restart();
                        let after = window.cursor().0 + 1;
                        let events = (after..=accounts.len() as i64).map(|id| event(id, accounts[id as usize - 1]));
                        window.add(events.collect(), LogPosition(accounts.len() as i64));
                    }
                    _ if in_flight.is_empty() => {}
                    4 => {
                        let event = in_flight.swap_remove(index.index(in_flight.len()));
                        settled.insert(event.id.0);
                        window.settle(&[event]);
                    }
                    _ => {
                        let event = in_flight.swap_remove(index.index(in_flight.len()));
                        window.put_back(&[event]);
                    }
                }
                let lowest = (1..=accounts.len() as i64).find(|id| !settled.contains(id));
                let expected = lowest.map_or(accounts.len() as i64, |id| id - 1);
                prop_assert_eq!(window.cursor(), LogPosition(expected));
                prop_assert_eq!(window.len() + window.evicted(), accounts.len() - settled.len());
            }
            window.put_back(&in_flight);
            while settled.len() < accounts.len() {
                reload(&mut window, &accounts);
                let event = window.next_event();
                prop_assert!(event.is_some(), "an event waits forever");
                window.settle(&[event.clone().unwrap()]);
                prop_assert!(settled.insert(event.unwrap().id.0), "twice");
            }
        }
    }
}
