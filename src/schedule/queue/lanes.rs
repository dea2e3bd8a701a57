//! The lanes of the queue: which polls wait, which may start, and which of them is next. It neither locks nor waits.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use crate::{
    poll::{PollGuard, Poller},
    schedule::sweep::Sweep,
};

/// The lane of an official account in the queue. It is used again only after four billion other lanes, so a late poll of a
/// removed lane does not get into another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(u32);

/// A poll to be made. 32 bytes, because every kf account may wait at once.
pub struct QueuedPoll {
    /// The account.
    pub guard: PollGuard,
    /// The sweep it belongs to.
    pub sweep: Arc<Sweep>,
    /// The lane of its official account.
    pub lane: LaneId,
    /// How often it has been retried because WeChat was busy.
    pub retries: u8,
}

/// All lanes, and what waits in them.
pub(super) struct Lanes {
    lanes: BTreeMap<LaneId, Lane>,
    last_id: u32,
    max_in_flight: usize,
    /// The lanes in [`LaneState::Ready`], in turn.
    ready: VecDeque<LaneId>,
    /// The lanes in [`LaneState::Delayed`], each with the time at which to try again. Removed lanes may still be here.
    delayed: BinaryHeap<Reverse<(Instant, LaneId)>>,
    /// The polls that are retried later, by the time and a number that makes the key unique.
    retries: BTreeMap<(Instant, u64), QueuedPoll>,
    last_retry: u64,
    started: u64,
    finished: u64,
}

struct Lane {
    poller: Arc<Poller>,
    waiting: VecDeque<QueuedPoll>,
    in_flight: usize,
    state: LaneState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LaneState {
    /// Nothing waits, or the limit on polls in flight is reached.
    Idle,
    Ready,
    /// Its polls may not start yet.
    Delayed,
}

impl Lanes {
    /// No lanes. Each will have at most this number of polls in flight, and at least one.
    pub(super) fn new(max_in_flight: usize) -> Self {
        Self {
            lanes: BTreeMap::new(),
            last_id: 0,
            max_in_flight: max_in_flight.max(1),
            ready: VecDeque::new(),
            delayed: BinaryHeap::new(),
            retries: BTreeMap::new(),
            last_retry: 0,
            started: 0,
            finished: 0,
        }
    }

    /// Adds a lane whose polls this poller makes.
    pub(super) fn add(&mut self, poller: Arc<Poller>) -> LaneId {
        let mut next = self.last_id.wrapping_add(1);
        while self.lanes.contains_key(&LaneId(next)) {
            next = next.wrapping_add(1);
        }
        self.last_id = next;
        let lane = Lane { poller, waiting: VecDeque::new(), in_flight: 0, state: LaneState::Idle };
        self.lanes.insert(LaneId(next), lane);
        LaneId(next)
    }

    /// Removes a lane, and returns the polls that wait in it.
    pub(super) fn remove(&mut self, id: LaneId) -> Vec<QueuedPoll> {
        let dropped = self.drop_waiting(id, |_| true);
        self.lanes.remove(&id);
        dropped
    }

    /// Removes waiting polls of a lane, and returns them.
    pub(super) fn drop_waiting(
        &mut self,
        id: LaneId,
        mut is_dropped: impl FnMut(&QueuedPoll) -> bool,
    ) -> Vec<QueuedPoll> {
        let Some(lane) = self.lanes.get_mut(&id) else { return Vec::new() };
        let retries = self.retries.extract_if(.., |_, poll| poll.lane == id && is_dropped(poll));
        let mut dropped: Vec<QueuedPoll> = retries.map(|(_, poll)| poll).collect();
        let (removed, kept): (VecDeque<_>, _) =
            std::mem::take(&mut lane.waiting).into_iter().partition(is_dropped);
        lane.waiting = kept;
        if lane.waiting.is_empty() && lane.state == LaneState::Ready {
            // Otherwise it would count as work that could start.
            lane.state = LaneState::Idle;
            self.ready.retain(|ready| *ready != id);
        }
        dropped.extend(removed);
        dropped
    }

    /// Removes all waiting polls, and returns them.
    pub(super) fn drop_all_waiting(&mut self) -> Vec<QueuedPoll> {
        let retries = std::mem::take(&mut self.retries).into_values();
        retries.chain(self.lanes.values_mut().flat_map(|lane| std::mem::take(&mut lane.waiting))).collect()
    }

    pub(super) fn set_max_in_flight(&mut self, max_in_flight: usize) {
        self.max_in_flight = max_in_flight.max(1);
        let ids: Vec<LaneId> = self.lanes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.make_ready(id));
    }

    /// Adds a poll, or returns it if its lane was removed.
    pub(super) fn push(&mut self, poll: QueuedPoll) -> Result<(), QueuedPoll> {
        let id = poll.lane;
        let Some(lane) = self.lanes.get_mut(&id) else { return Err(poll) };
        lane.waiting.push_back(poll);
        self.make_ready(id);
        Ok(())
    }

    /// Adds a poll at a later time, or returns it if its lane was removed or its kf account has left.
    pub(super) fn retry(&mut self, poll: QueuedPoll, at: Instant) -> Result<(), QueuedPoll> {
        if !self.lanes.contains_key(&poll.lane) || poll.guard.account().has_left() {
            return Err(poll);
        }
        self.last_retry += 1;
        self.retries.insert((at, self.last_retry), poll);
        Ok(())
    }

    /// Removes the next poll that may start. It counts as in flight until it is [finished](Self::finish).
    pub(super) fn pop(&mut self) -> Option<(QueuedPoll, Arc<Poller>)> {
        while let Some(id) = self.ready.pop_front() {
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            lane.state = LaneState::Idle;
            // The limit may have been lowered meanwhile.
            let Some(first) = lane.waiting.front().filter(|_| lane.in_flight < self.max_in_flight) else {
                continue;
            };
            if let Err(wait) = first.guard.official_account().try_acquire_poll_permit(first.guard.account()) {
                lane.state = LaneState::Delayed;
                self.delayed.push(Reverse((Instant::now() + wait, id)));
                continue;
            }
            let poll = lane.waiting.pop_front()?;
            let poller = Arc::clone(&lane.poller);
            lane.in_flight += 1;
            self.started += 1;
            self.make_ready(id);
            return Some((poll, poller));
        }
        None
    }

    /// Records that a poll of this lane has finished. The lane may have been removed meanwhile.
    pub(super) fn finish(&mut self, id: LaneId) {
        self.finished += 1;
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.in_flight = lane.in_flight.saturating_sub(1);
            self.make_ready(id);
        }
    }

    /// Ends the delays that are over, adds the polls whose retry is due, and returns the number of both.
    pub(super) fn wake(&mut self, now: Instant) -> usize {
        let mut woken = 0;
        while let Some(&Reverse((until, id))) = self.delayed.peek()
            && until <= now
        {
            self.delayed.pop();
            woken += 1;
            if let Some(lane) = self.lanes.get_mut(&id) {
                lane.state = LaneState::Idle;
                self.make_ready(id);
            }
        }
        while let Some(retry) = self.retries.first_entry()
            && retry.key().0 <= now
        {
            let poll = retry.remove();
            // Its lane exists: the retries of a lane are removed with it.
            let _ = self.push(poll);
            woken += 1;
        }
        woken
    }

    /// When to [wake](Self::wake) next.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let delayed = self.delayed.peek().map(|Reverse((until, _))| *until);
        let retry = self.retries.first_key_value().map(|((at, _), _)| *at);
        delayed.into_iter().chain(retry).min()
    }

    /// Whether the next poll of this lane may be able to start.
    pub(super) fn is_ready(&self, id: LaneId) -> bool {
        self.lanes.get(&id).is_some_and(|lane| lane.state == LaneState::Ready)
    }

    /// Whether a poll is in flight or could start, as long as delays and retries that are due are woken.
    pub(super) fn has_work(&self, now: Instant) -> bool {
        let is_due = self.next_wake().is_some_and(|at| at <= now);
        self.started != self.finished || !self.ready.is_empty() || is_due
    }

    /// How many polls have finished.
    pub(super) fn finished(&self) -> u64 {
        self.finished
    }

    /// Makes an idle lane ready if one of its polls can start.
    fn make_ready(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let can_start = !lane.waiting.is_empty() && lane.in_flight < self.max_in_flight;
        if lane.state == LaneState::Idle && can_start {
            lane.state = LaneState::Ready;
            self.ready.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queued_poll_takes_32_bytes() {
        assert_eq!(size_of::<QueuedPoll>(), 32);
    }
}
