//! The queue of polls that wait for a worker: fair between official accounts.
//!
//! Each official account has a lane, a FIFO with a limit on its polls in flight. Lanes take turns; a lane at its limit is
//! skipped until one of its polls finishes. So an official account whose calls all hang occupies its limit and no more
//! workers. Polls of a lane may not start while its rate limit has no permit, or, just after a restart, while no token may be
//! fetched. Such a lane is skipped until then ([`PollQueue::run_timer`]), so its polls wait here and not in workers. An account is
//! in the queue at most once, because its entry owns its [`PollGuard`]; the number of accounts therefore bounds the queue.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, time::Instant};

use super::sweep::Sweep;
use crate::{domain::progress::WorkProgress, poll::PollGuard};

/// A poll to be made. 32 bytes, because every kf account may wait at once.
pub struct QueuedPoll {
    /// The account.
    pub guard: PollGuard,
    /// The sweep it belongs to.
    pub sweep: Arc<Sweep>,
    /// The lane of its official account.
    pub lane: u32,
    /// How often it has been retried because WeChat was busy.
    pub retries: u8,
}

/// The queue, shared by tickers and workers.
pub struct PollQueue {
    state: Mutex<QueueState>,
    /// A poll may be available.
    available: Notify,
    /// Wakes the timer: a lane became delayed, or the queue was closed.
    timer_changed: Notify,
    max_in_flight_per_lane: usize,
}

struct QueueState {
    lanes: Vec<Lane>,
    /// The lanes in [`LaneState::Ready`], in turn.
    ready: VecDeque<u32>,
    /// The lanes in [`LaneState::Delayed`], each with the time at which to try again.
    delayed: BinaryHeap<Reverse<(Instant, u32)>>,
    started: u64,
    finished: u64,
    closed: bool,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<QueuedPoll>,
    in_flight: usize,
    state: LaneState,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum LaneState {
    /// Nothing waits, or the limit on polls in flight is reached.
    #[default]
    Idle,
    Ready,
    /// Its polls may not start yet.
    Delayed,
}

impl PollQueue {
    /// A queue with this number of lanes.
    pub fn new(lanes: usize, max_in_flight_per_lane: usize) -> Self {
        let state = QueueState {
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            ready: VecDeque::new(),
            delayed: BinaryHeap::new(),
            started: 0,
            finished: 0,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            available: Notify::new(),
            timer_changed: Notify::new(),
            max_in_flight_per_lane: max_in_flight_per_lane.max(1),
        }
    }

    /// Adds polls. A closed queue drops them.
    pub fn push(&self, polls: impl IntoIterator<Item = QueuedPoll>) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        for poll in polls {
            let lane = poll.lane;
            state.lanes[lane as usize].waiting.push_back(poll);
            state.make_ready(lane, self.max_in_flight_per_lane);
            self.available.notify_one();
        }
    }

    /// Waits for the next poll that may start; `None` when the queue is closed. Each poll must be
    /// [finished](Self::finish).
    pub async fn next(&self) -> Option<QueuedPoll> {
        loop {
            // Enabled before looking, so that a poll that is pushed in between wakes this worker.
            let available = self.available.notified();
            tokio::pin!(available);
            available.as_mut().enable();
            {
                let mut state = self.state();
                if state.closed {
                    return None;
                }
                let delayed = state.delayed.len();
                let poll = state.pop(self.max_in_flight_per_lane);
                if state.delayed.len() > delayed {
                    self.timer_changed.notify_one();
                }
                if let Some(poll) = poll {
                    // A lane that is no longer delayed wakes only one worker; the rest of the lane needs another.
                    if state.lanes[poll.lane as usize].state == LaneState::Ready {
                        self.available.notify_one();
                    }
                    return Some(poll);
                }
            }
            available.await;
        }
    }

    /// Makes delayed lanes ready when their time has come, until the queue is closed. One task does this for all workers, so
    /// that they need not all wake up.
    pub async fn run_timer(&self) {
        loop {
            let timer_changed = self.timer_changed.notified();
            tokio::pin!(timer_changed);
            timer_changed.as_mut().enable();
            let next = {
                let mut state = self.state();
                if state.closed {
                    return;
                }
                for _ in 0..state.end_delays(Instant::now(), self.max_in_flight_per_lane) {
                    self.available.notify_one();
                }
                state.delayed.peek().map(|Reverse((until, _))| *until)
            };
            match next {
                Some(until) => drop(tokio::time::timeout_at(until, timer_changed).await),
                None => timer_changed.await,
            }
        }
    }

    /// Records that a poll of this lane has finished.
    pub fn finish(&self, lane: u32) {
        let mut state = self.state();
        let in_flight = &mut state.lanes[lane as usize].in_flight;
        *in_flight = in_flight.saturating_sub(1);
        state.finished += 1;
        state.make_ready(lane, self.max_in_flight_per_lane);
        self.available.notify_one();
    }

    /// The progress of polls. Work is pending while a poll is in flight or could start; a delayed lane has no pending work
    /// until its time has come.
    pub fn progress(&self) -> WorkProgress {
        let state = self.state();
        let is_due = |Reverse((until, _)): &Reverse<(Instant, u32)>| *until <= Instant::now();
        let could_start = !state.ready.is_empty() || state.delayed.peek().is_some_and(is_due);
        let pending = !state.closed && (state.started != state.finished || could_start);
        WorkProgress { finished: state.finished, pending }
    }

    /// Drops the waiting polls; from now on [`next`](Self::next) returns `None`.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.lanes.iter_mut().for_each(|lane| lane.waiting.clear());
        drop(state);
        self.available.notify_waiters();
        self.timer_changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn pop(&mut self, max_in_flight_per_lane: usize) -> Option<QueuedPoll> {
        while let Some(index) = self.ready.pop_front() {
            let lane = &mut self.lanes[index as usize];
            lane.state = LaneState::Idle;
            let Some(first) = lane.waiting.front() else { continue };
            if let Err(wait) = first.guard.official_account().try_acquire_poll_permit(first.guard.account()) {
                lane.state = LaneState::Delayed;
                self.delayed.push(Reverse((Instant::now() + wait, index)));
                continue;
            }
            let poll = lane.waiting.pop_front();
            lane.in_flight += 1;
            self.started += 1;
            self.make_ready(index, max_in_flight_per_lane);
            return poll;
        }
        None
    }

    /// Ends the delays that are over and returns their number.
    fn end_delays(&mut self, now: Instant, max_in_flight_per_lane: usize) -> usize {
        let before = self.delayed.len();
        while let Some(&Reverse((until, index))) = self.delayed.peek()
            && until <= now
        {
            self.delayed.pop();
            self.lanes[index as usize].state = LaneState::Idle;
            self.make_ready(index, max_in_flight_per_lane);
        }
        before - self.delayed.len()
    }

    /// Makes an idle lane ready if one of its polls can start.
    fn make_ready(&mut self, index: u32, max_in_flight_per_lane: usize) {
        let lane = &mut self.lanes[index as usize];
        let can_start = !lane.waiting.is_empty() && lane.in_flight < max_in_flight_per_lane;
        if lane.state == LaneState::Idle && can_start {
            lane.state = LaneState::Ready;
            self.ready.push_back(index);
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
