//! The events between a sink's cursor and the end of what was read of the log: which of them may be delivered next, and up
//! to where all of them are settled.
//!
//! Of each kf account one delivery is under way at most, so that first deliveries are in order; different kf accounts
//! overtake each other. The cursor stands below the lowest event of the log that is not settled. Dead letters that are to be
//! delivered once more are here as well, and move no cursor. Pure: the time is an argument.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::store::{AccountRow, EventId, StoredEvent};

/// Events that were read and are not settled, and those settled before an earlier one was.
#[derive(Debug)]
pub(super) struct Window {
    unsettled: BTreeMap<EventId, Slot>,
    /// What follows in each kf account behind its first unsettled event. Without an entry none is unsettled.
    lanes: HashMap<AccountRow, VecDeque<EventId>>,
    /// First unsettled events of their kf accounts that may be delivered now.
    ready: BTreeSet<EventId>,
    /// First unsettled events of their kf accounts that have to wait, on the monotonic clock.
    delayed: BTreeSet<(Duration, EventId)>,
    read_to: EventId,
}

#[derive(Debug)]
struct Slot {
    event: Arc<StoredEvent>,
    origin: Origin,
    refusals: u32,
}

/// Where an event was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// In the log behind the cursor.
    Log,
    /// Among the dead letters: the cursor has passed it long ago.
    DeadLetters,
}

impl Window {
    /// Nothing was read behind this cursor.
    pub(super) fn behind(cursor: EventId) -> Self {
        Self {
            unsettled: BTreeMap::new(),
            lanes: HashMap::new(),
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            read_to: cursor,
        }
    }

    /// Up to where the log was read.
    pub(super) fn read_to(&self) -> EventId {
        self.read_to
    }

    /// How many events are not settled.
    pub(super) fn len(&self) -> usize {
        self.unsettled.len()
    }

    /// Up to where all events of the log are settled.
    pub(super) fn cursor(&self) -> EventId {
        let first = self.unsettled.iter().find(|(_, slot)| slot.origin == Origin::Log);
        first.map_or(self.read_to, |(first, _)| EventId(first.0 - 1))
    }

    /// Takes in what was read: the log has no others up to `read_to` that this sink wants.
    pub(super) fn add(&mut self, events: Vec<StoredEvent>, read_to: EventId) {
        for event in events {
            self.append(event, Origin::Log);
        }
        self.read_to = self.read_to.max(read_to);
    }

    /// Takes in dead letters that are to be delivered once more, behind what is there of their kf accounts. Those that the
    /// log will still come to, or that are there already, are passed over.
    pub(super) fn add_dead_letters(&mut self, letters: Vec<StoredEvent>) {
        for letter in letters {
            if letter.id <= self.read_to && !self.unsettled.contains_key(&letter.id) {
                self.append(letter, Origin::DeadLetters);
            }
        }
    }

    fn append(&mut self, event: StoredEvent, origin: Origin) {
        let id = event.id;
        match self.lanes.get_mut(&event.account) {
            Some(lane) => lane.push_back(id),
            None => {
                self.lanes.insert(event.account, VecDeque::new());
                self.ready.insert(id);
            }
        }
        self.unsettled.insert(id, Slot { event: Arc::new(event), origin, refusals: 0 });
    }

    /// Whether it was a dead letter before.
    pub(super) fn is_dead_letter(&self, event: &StoredEvent) -> bool {
        self.unsettled.get(&event.id).is_some_and(|slot| slot.origin == Origin::DeadLetters)
    }

    /// The next event to be delivered by itself; none if all are under way, or wait.
    pub(super) fn take_one(&mut self) -> Option<Arc<StoredEvent>> {
        let id = self.ready.pop_first()?;
        self.unsettled.get(&id).map(|slot| Arc::clone(&slot.event))
    }

    /// The next events to be delivered together, at most so many. Only while nothing is under way, so that whatever
    /// comes before one of them goes with it.
    pub(super) fn take_together(&mut self, most: usize) -> Vec<Arc<StoredEvent>> {
        let slots = self.unsettled.values().take(most);
        let taken: Vec<_> = slots.map(|slot| Arc::clone(&slot.event)).collect();
        for event in &taken {
            self.ready.remove(&event.id);
        }
        taken
    }

    /// These are confirmed, or will never be: in the order in which they were taken.
    pub(super) fn settle(&mut self, events: &[Arc<StoredEvent>]) {
        for event in events {
            self.unsettled.remove(&event.id);
            // It may have become ready when the one before it in its kf account was settled, a moment ago.
            self.ready.remove(&event.id);
            if let Some(next) = self.lanes.get_mut(&event.account).and_then(VecDeque::pop_front) {
                self.ready.insert(next);
            } else {
                self.lanes.remove(&event.account);
            }
        }
    }

    /// These are not confirmed, and may be taken again at any time.
    pub(super) fn put_back(&mut self, events: &[Arc<StoredEvent>]) {
        let mut accounts = HashSet::new();
        // Those behind the first of a kf account become ready when it is settled.
        let first = events.iter().filter(|event| accounts.insert(event.account));
        self.ready.extend(first.map(|event| event.id));
    }

    /// This one was refused, and may be taken again from then on; says how often it was refused by now.
    pub(super) fn delay(&mut self, event: &StoredEvent, until: Duration) -> u32 {
        self.delayed.insert((until, event.id));
        let slot = self.unsettled.get_mut(&event.id);
        slot.map_or(0, |slot| {
            slot.refusals += 1;
            slot.refusals
        })
    }

    /// How often this one was refused.
    pub(super) fn refusals(&self, event: &StoredEvent) -> u32 {
        self.unsettled.get(&event.id).map_or(0, |slot| slot.refusals)
    }

    /// Lets those be taken again whose wait is over, and says when the next one's is.
    pub(super) fn let_in(&mut self, now: Duration) -> Option<Duration> {
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
    use crate::domain::event::EventType;

    fn event(id: i64, account: i64) -> StoredEvent {
        StoredEvent {
            id: EventId(id),
            account: AccountRow(account),
            sequence: 1,
            event_type: EventType::SessionStarted,
            observed_at: jiff::Timestamp::UNIX_EPOCH,
            json: String::new(),
        }
    }

    fn window(accounts: &[i64]) -> Window {
        let mut window = Window::behind(EventId(0));
        let events = (1..).zip(accounts).map(|(id, account)| event(id, *account)).collect();
        window.add(events, EventId(accounts.len() as i64));
        window
    }

    fn ids(events: &[Arc<StoredEvent>]) -> Vec<i64> {
        events.iter().map(|event| event.id.0).collect()
    }

    #[test]
    fn other_kf_accounts_overtake_one_that_is_under_way_and_the_cursor_does_not() {
        let mut window = window(&[1, 1, 2]);
        let first = window.take_one().unwrap();
        let other = window.take_one().unwrap();
        assert_eq!((first.id.0, other.id.0), (1, 3));
        assert!(window.take_one().is_none(), "the second of a kf account waits for the first");
        window.settle(&[other]);
        assert_eq!(window.cursor(), EventId(0));
        window.settle(&[first]);
        assert_eq!(window.cursor(), EventId(1));
        let second = window.take_one().unwrap();
        window.settle(&[second]);
        assert_eq!((window.cursor(), window.len()), (EventId(3), 0));
    }

    #[test]
    fn what_is_taken_together_stands_in_the_order_of_the_log() {
        let mut window = window(&[1, 2, 1, 1, 2]);
        let taken = window.take_together(4);
        assert_eq!(ids(&taken), [1, 2, 3, 4]);
        window.put_back(&taken);
        let taken = window.take_together(4);
        assert_eq!(ids(&taken), [1, 2, 3, 4]);
        window.settle(&taken);
        assert_eq!(window.cursor(), EventId(4));
        assert_eq!(ids(&window.take_together(4)), [5]);
    }

    #[test]
    fn what_was_refused_holds_back_its_own_kf_account_alone() {
        let mut window = window(&[1, 1, 2]);
        let refused = window.take_one().unwrap();
        assert_eq!(window.delay(&refused, Duration::from_secs(5)), 1);
        assert_eq!(window.take_one().map(|event| event.id.0), Some(3));
        assert!(window.take_one().is_none());
        assert_eq!(window.let_in(Duration::from_secs(4)), Some(Duration::from_secs(5)));
        assert_eq!(window.let_in(Duration::from_secs(5)), None);
        assert_eq!(window.take_one().map(|event| event.id.0), Some(1));
        assert_eq!(window.refusals(&refused), 1);
    }

    proptest! {
        /// Whatever fails in whatever order: each kf account's events are first taken in order, one at a time, and the
        /// cursor passes nothing that is not settled.
        #[test]
        fn order_and_cursor_hold_whatever_happens(
            accounts in prop::collection::vec(0_i64..4, 1..40),
            choices in prop::collection::vec((0_u8..4, any::<prop::sample::Index>()), 0..200),
        ) {
            let mut window = window(&accounts);
            let mut under_way: Vec<Arc<StoredEvent>> = Vec::new();
            let mut settled = BTreeSet::new();
            for (choice, index) in choices {
                match choice {
                    0 | 1 => {
                        if let Some(event) = window.take_one() {
                            let before = (1..event.id.0).filter(|id| accounts[*id as usize - 1] == event.account.0);
                            prop_assert!(before.into_iter().all(|id| settled.contains(&id)));
                            prop_assert!(under_way.iter().all(|other| other.account != event.account));
                            under_way.push(event);
                        }
                    }
                    _ if under_way.is_empty() => {}
                    2 => {
                        let event = under_way.swap_remove(index.index(under_way.len()));
                        settled.insert(event.id.0);
                        window.settle(&[event]);
                    }
                    _ => {
                        let event = under_way.swap_remove(index.index(under_way.len()));
                        window.put_back(&[event]);
                    }
                }
                let lowest = (1..=accounts.len() as i64).find(|id| !settled.contains(id));
                let expected = lowest.map_or(accounts.len() as i64, |id| id - 1);
                prop_assert_eq!(window.cursor(), EventId(expected));
                prop_assert_eq!(window.len(), accounts.len() - settled.len());
            }
        }
    }
}
