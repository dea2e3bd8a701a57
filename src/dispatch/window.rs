//! The events between a sink's cursor and the end of what was read of the log: which of them may be delivered next, and up
//! to where all of them are settled.
//!
//! Of each kf account one delivery is under way at most, so that first deliveries are in order; different kf accounts
//! overtake each other. The cursor stands below the lowest event of the log that is not settled. Dead letters that are to be
//! delivered once more are here as well, and move no cursor.
//!
//! What waits behind others of its kf account may be put aside ([`put_waiting_aside`](Window::put_waiting_aside)), so that there
//! is room for other kf accounts: of it only the id is kept, until its turn is near and it is read again. Pure: the time is an
//! argument.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::store::{AccountId, LogPosition, StoredEvent};

/// How many events of a kf account are read again together, at most.
const READ_TOGETHER: usize = 50;

/// Events that were read and are not settled, and those settled before an earlier one was.
#[derive(Debug)]
pub(super) struct Window {
    unsettled: BTreeMap<LogPosition, Slot>,
    /// Those of the log that are not settled either, and of which no more is kept than this.
    aside: BTreeSet<LogPosition>,
    /// First unsettled events of their kf accounts that have to be read again.
    missing: BTreeMap<LogPosition, AccountId>,
    /// The unsettled events of each kf account in their order, also those put aside. Without an entry there are none.
    lanes: HashMap<AccountId, VecDeque<LogPosition>>,
    /// First unsettled events of their kf accounts that may be delivered now.
    ready: BTreeSet<LogPosition>,
    /// First unsettled events of their kf accounts that have to wait, on the monotonic clock.
    delayed: BTreeSet<(Duration, LogPosition)>,
    read_to: LogPosition,
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
    pub(super) fn behind(cursor: LogPosition) -> Self {
        Self {
            unsettled: BTreeMap::new(),
            aside: BTreeSet::new(),
            missing: BTreeMap::new(),
            lanes: HashMap::new(),
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            read_to: cursor,
        }
    }

    /// Up to where the log was read.
    pub(super) fn read_to(&self) -> LogPosition {
        self.read_to
    }

    /// How many events are here whole.
    pub(super) fn len(&self) -> usize {
        self.unsettled.len()
    }

    /// How many are put aside.
    pub(super) fn aside(&self) -> usize {
        self.aside.len()
    }

    /// How many kf accounts they are of, with those put aside.
    pub(super) fn kf_accounts(&self) -> usize {
        self.lanes.len()
    }

    /// Up to where all events of the log are settled.
    pub(super) fn cursor(&self) -> LogPosition {
        let whole = self.unsettled.iter().find(|(_, slot)| slot.origin == Origin::Log).map(|(id, _)| id);
        let first = whole.into_iter().chain(self.aside.first()).min();
        first.map_or(self.read_to, |first| LogPosition(first.0 - 1))
    }

    /// Takes in what was read: the log has no others up to `read_to` that this sink wants.
    pub(super) fn add(&mut self, events: Vec<StoredEvent>, read_to: LogPosition) {
        for event in events {
            self.append(event, Origin::Log);
        }
        self.read_to = self.read_to.max(read_to);
    }

    /// Takes in dead letters that are to be delivered once more, behind what is there of their kf accounts. Those that the
    /// log will still come to, or that are there already, are passed over.
    pub(super) fn add_dead_letters(&mut self, letters: Vec<StoredEvent>) {
        for letter in letters {
            let is_here = self.unsettled.contains_key(&letter.id) || self.aside.contains(&letter.id);
            if letter.id <= self.read_to && !is_here {
                self.append(letter, Origin::DeadLetters);
            }
        }
    }

    /// Puts events of the log aside that wait behind others of their kf accounts, if there is nothing else to be done: nothing
    /// may be delivered, and nothing more was to be read for want of room. Only where kf accounts overtake each other: what is
    /// under way is first of its kf account then.
    pub(super) fn put_waiting_aside(&mut self) {
        if !self.ready.is_empty() {
            return;
        }
        let Self { unsettled, aside, lanes, .. } = self;
        unsettled.retain(|id, slot| {
            let is_first = lanes.get(&slot.event.account).and_then(VecDeque::front) == Some(id);
            let stays = is_first || slot.origin == Origin::DeadLetters;
            if !stays {
                aside.insert(*id);
            }
            stays
        });
    }

    /// Whether anything has to be read again.
    pub(super) fn misses_some(&self) -> bool {
        !self.missing.is_empty()
    }

    /// What has to be read again: with room for so many, some together of each kf account, and one of each in any case, or it
    /// would wait for ever.
    pub(super) fn missing(&self, room: usize) -> Vec<(AccountId, LogPosition)> {
        let each = (room / self.missing.len().max(1)).clamp(1, READ_TOGETHER);
        let next_ones = |account: &AccountId| {
            let account = *account;
            let lane = self.lanes.get(&account).into_iter().flatten();
            let put_aside = lane.copied().filter(|id| self.aside.contains(id));
            put_aside.take(each).map(move |id| (account, id))
        };
        self.missing.values().flat_map(next_ones).collect()
    }

    /// Takes in what was read again of what was missing. What the log has no longer counts as settled: the sink was suspended, and
    /// it is noted that it misses these.
    pub(super) fn add_again(&mut self, missing: &[(AccountId, LogPosition)], events: Vec<StoredEvent>) {
        for event in events {
            self.aside.remove(&event.id);
            if self.missing.remove(&event.id).is_some() {
                self.ready.insert(event.id);
            }
            let slot = Slot { event: Arc::new(event), origin: Origin::Log, refusals: 0 };
            self.unsettled.insert(slot.event.id, slot);
        }
        for (account, id) in missing {
            if self.aside.remove(id) {
                self.missing.remove(id);
                self.leave_lane(*account, *id);
            }
        }
    }

    fn append(&mut self, event: StoredEvent, origin: Origin) {
        let id = event.id;
        let lane = self.lanes.entry(event.account).or_default();
        if lane.is_empty() {
            self.ready.insert(id);
        }
        lane.push_back(id);
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
            self.leave_lane(event.account, event.id);
        }
    }

    /// The next one has its turn, if this one was the first of its kf account.
    fn leave_lane(&mut self, account: AccountId, id: LogPosition) {
        let Some(lane) = self.lanes.get_mut(&account) else { return };
        // The first, unless a dead letter stands behind a younger event and both were delivered together.
        let place = lane.iter().position(|other| *other == id);
        if let Some(place) = place {
            lane.remove(place);
        }
        match lane.front() {
            None => {
                self.lanes.remove(&account);
            }
            Some(next) if self.aside.contains(next) => {
                self.missing.insert(*next, account);
            }
            Some(next) if place == Some(0) => {
                self.ready.insert(*next);
            }
            Some(_) => {}
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
            id: LogPosition(id),
            account: AccountId(account),
            sequence: 1,
            event_type: EventType::SessionStarted,
            observed_at: jiff::Timestamp::UNIX_EPOCH,
            json: String::new(),
        }
    }

    fn window(accounts: &[i64]) -> Window {
        let mut window = Window::behind(LogPosition(0));
        let events = (1..).zip(accounts).map(|(id, account)| event(id, *account)).collect();
        window.add(events, LogPosition(accounts.len() as i64));
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
        assert_eq!(window.cursor(), LogPosition(0));
        window.settle(&[first]);
        assert_eq!(window.cursor(), LogPosition(1));
        let second = window.take_one().unwrap();
        window.settle(&[second]);
        assert_eq!((window.cursor(), window.len()), (LogPosition(3), 0));
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
        assert_eq!(window.cursor(), LogPosition(4));
        assert_eq!(ids(&window.take_together(4)), [5]);
    }

    /// Reads of what is missing one event, as a small page would have it.
    fn read_again(window: &mut Window, accounts: &[i64]) {
        let missing = window.missing(1);
        let events = missing.iter().map(|(_, id)| event(id.0, accounts[id.0 as usize - 1])).collect();
        window.add_again(&missing, events);
    }

    #[test]
    fn what_waits_is_put_aside_while_nothing_can_be_delivered_and_read_again_in_its_turn() {
        let accounts = [1, 1, 1, 2];
        let mut window = window(&accounts);
        let first = window.take_one().unwrap();
        window.put_waiting_aside();
        assert_eq!(window.len(), 4, "the other kf account's may be delivered");
        let other = window.take_one().unwrap();
        window.put_waiting_aside();
        assert_eq!((window.len(), window.aside()), (2, 2), "what is under way stays");
        assert!(window.missing(9).is_empty(), "their turn has not come");
        window.settle(&[other]);
        window.settle(&[first]);
        assert_eq!((window.cursor(), window.take_one()), (LogPosition(1), None));
        assert_eq!(window.missing(9), [(AccountId(1), LogPosition(2)), (AccountId(1), LogPosition(3))]);
        read_again(&mut window, &accounts);
        assert_eq!(window.take_one().map(|event| event.id.0), Some(2));
        assert_eq!((window.cursor(), window.aside()), (LogPosition(1), 1));
    }

    #[test]
    fn however_many_kf_accounts_have_their_turn_no_more_is_read_again_than_there_is_room_for() {
        let accounts: Vec<i64> = (0..400).map(|n| n % 40).collect();
        let mut window = window(&accounts);
        let first_ones: Vec<_> = std::iter::from_fn(|| window.take_one()).collect();
        window.put_waiting_aside();
        window.settle(&first_ones);
        assert_eq!((window.len(), window.aside()), (0, 360));
        for (room, missing) in [(1000, 360), (100, 80), (3, 40), (0, 40)] {
            assert_eq!(window.missing(room).len(), missing, "{room}");
        }
    }

    #[test]
    fn what_the_log_has_no_longer_is_passed_over() {
        let accounts = [1, 1, 1, 1];
        let mut window = window(&accounts);
        let first = window.take_one().unwrap();
        window.put_waiting_aside();
        window.settle(&[first]);
        let missing = window.missing(9);
        assert_eq!(missing.len(), 3);
        window.add_again(&missing, vec![event(3, 1)]);
        let third = window.take_one().unwrap();
        assert_eq!((third.id.0, window.cursor()), (3, LogPosition(2)));
        window.settle(&[third]);
        assert_eq!((window.cursor(), window.len(), window.aside()), (LogPosition(4), 0, 0));
    }

    #[test]
    fn a_dead_letter_that_the_log_brings_as_well_is_not_there_twice() {
        let mut window = window(&[1, 1, 2]);
        let under_way = [window.take_one().unwrap(), window.take_one().unwrap()];
        window.put_waiting_aside();
        window.add_dead_letters(vec![event(2, 1)]);
        window.settle(&under_way);
        read_again(&mut window, &[1, 1, 2]);
        let again = window.take_one().unwrap();
        assert!(!window.is_dead_letter(&again));
        window.settle(&[again]);
        assert_eq!((window.cursor(), window.take_one()), (LogPosition(3), None));
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
            choices in prop::collection::vec((0_u8..6, any::<prop::sample::Index>()), 0..200),
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
                    2 => window.put_waiting_aside(),
                    3 => read_again(&mut window, &accounts),
                    _ if under_way.is_empty() => {}
                    4 => {
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
                prop_assert_eq!(window.cursor(), LogPosition(expected));
                prop_assert_eq!(window.len() + window.aside(), accounts.len() - settled.len());
            }
            window.put_back(&under_way);
            while settled.len() < accounts.len() {
                read_again(&mut window, &accounts);
                let event = window.take_one();
                prop_assert!(event.is_some(), "something waits for ever");
                window.settle(&[event.clone().unwrap()]);
                prop_assert!(settled.insert(event.unwrap().id.0), "twice");
            }
        }
    }
}
