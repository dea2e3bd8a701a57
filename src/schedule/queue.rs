//! The queue of polls that wait for a worker: fair between official accounts.
//!
//! Each official account has a lane, a FIFO with a limit on its polls in flight. Lanes take turns; a lane at its limit is
//! skipped until one of its polls finishes. So an official account whose calls all hang occupies its limit and no more
//! workers. Polls of a lane may not start while its rate limit has no permit, or, just after a restart, while no token may be
//! fetched. Such a lane is skipped until then ([`PollQueue::run_timer`]), so its polls wait here and not in workers. An account is
//! in the queue at most once, because its entry owns its [`PollGuard`](crate::poll::PollGuard); the number of accounts therefore
//! bounds the queue.
//!
//! Lanes come and go while polls run, and so do workers. Lanes of several pollers share the workers: a poll leaves the queue
//! with the poller of its lane.

mod lanes;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use self::lanes::Lanes;
pub use self::lanes::{LaneId, QueuedPoll};
use crate::{domain::progress::WorkProgress, poll::Poller};

/// The queue, shared by tickers and workers.
pub struct PollQueue {
    state: Mutex<QueueState>,
    /// A poll may be available.
    available: Notify,
    /// Wakes the timer: a lane became delayed, a poll will be retried, or the queue was closed.
    timer_changed: Notify,
}

struct QueueState {
    lanes: Lanes,
    /// The workers that run, or are about to.
    workers: usize,
    wanted_workers: usize,
    closed: bool,
}

impl PollQueue {
    /// A queue without lanes.
    pub fn new(max_in_flight_per_lane: usize) -> Self {
        let lanes = Lanes::new(max_in_flight_per_lane);
        Self {
            state: Mutex::new(QueueState { lanes, workers: 0, wanted_workers: 0, closed: false }),
            available: Notify::new(),
            timer_changed: Notify::new(),
        }
    }

    /// Adds the lane of an official account whose polls this poller makes.
    pub fn add_lane(&self, poller: Arc<Poller>) -> LaneId {
        self.state().lanes.add(poller)
    }

    /// Removes a lane and drops its waiting polls. Polls in flight finish; polls that come later are dropped.
    pub fn remove_lane(&self, lane: LaneId) {
        // Bound to a variable, so that the polls are dropped after the lock: the last one ends its sweep, which is logged.
        let _dropped = self.state().lanes.remove(lane);
    }

    /// Drops the waiting polls of the kf accounts that have left, so that these accounts retire without another poll.
    pub fn drop_left(&self, lane: LaneId) {
        let _dropped = self.state().lanes.drop_waiting(lane, |poll| poll.guard.account().has_left());
    }

    /// Changes how many polls of a lane may be in flight. Those that are too many finish.
    pub fn set_max_in_flight_per_lane(&self, max_in_flight: usize) {
        self.state().lanes.set_max_in_flight(max_in_flight);
        self.available.notify_waiters();
    }

    /// Changes the number of workers, and returns how many the caller must start. If there are too many, the next ones that
    /// call [`next`](Self::next) end.
    #[must_use]
    pub fn set_workers(&self, wanted: usize) -> usize {
        let mut state = self.state();
        let missing = wanted.saturating_sub(state.workers);
        state.wanted_workers = wanted;
        state.workers += missing;
        drop(state);
        self.available.notify_waiters();
        missing
    }

    /// Adds polls. A closed queue drops them.
    pub fn push(&self, polls: impl IntoIterator<Item = QueuedPoll>) {
        // Declared before the lock, so that they are dropped after it.
        let mut of_removed_lanes = Vec::new();
        let mut state = self.state();
        if state.closed {
            return;
        }
        for poll in polls {
            match state.lanes.push(poll) {
                Ok(()) => self.available.notify_one(),
                Err(poll) => of_removed_lanes.push(poll),
            }
        }
    }

    /// Adds a poll that is retried after a delay. A closed queue drops it, and so does a removed lane. The poll of a kf account
    /// that has left is dropped, too: [`drop_left`](Self::drop_left) may already have been called.
    pub fn retry(&self, poll: QueuedPoll, delay: Duration) {
        let poll = QueuedPoll { retries: poll.retries.saturating_add(1), ..poll };
        let mut state = self.state();
        let refused = match state.closed {
            true => Err(poll),
            false => state.lanes.retry(poll, Instant::now() + delay),
        };
        drop(state);
        if refused.is_ok() {
            self.timer_changed.notify_one();
        }
    }

    /// Waits for the next poll that may start, and returns it with its poller. Returns `None` when the queue is closed, or when
    /// there are more workers than wanted. Each poll must be [finished](Self::finish).
    pub async fn next(&self) -> Option<(QueuedPoll, Arc<Poller>)> {
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
                if state.workers > state.wanted_workers {
                    state.workers -= 1;
                    // This worker may have been woken for a poll, which needs another one now.
                    self.available.notify_one();
                    return None;
                }
                let wake_before = state.lanes.next_wake();
                let next = state.lanes.pop();
                if state.lanes.next_wake() != wake_before {
                    self.timer_changed.notify_one();
                }
                if let Some((poll, poller)) = next {
                    // A lane that is no longer delayed wakes only one worker; the rest of the lane needs another.
                    if state.lanes.is_ready(poll.lane) {
                        self.available.notify_one();
                    }
                    return Some((poll, poller));
                }
            }
            available.await;
        }
    }

    /// Makes delayed lanes ready and adds retried polls when their time has come, until the queue is closed. One task does this
    /// for all workers, so that they need not all wake up.
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
                for _ in 0..state.lanes.wake(Instant::now()) {
                    self.available.notify_one();
                }
                state.lanes.next_wake()
            };
            match next {
                Some(at) => drop(tokio::time::timeout_at(at, timer_changed).await),
                None => timer_changed.await,
            }
        }
    }

    /// Records that a poll of this lane has finished.
    pub fn finish(&self, lane: LaneId) {
        self.state().lanes.finish(lane);
        self.available.notify_one();
    }

    /// The progress of polls. Work is pending while a poll is in flight or could start; a delayed lane has no pending work
    /// until its time has come.
    pub fn progress(&self) -> WorkProgress {
        let state = self.state();
        let pending = !state.closed && state.lanes.has_work(Instant::now());
        WorkProgress { finished: state.lanes.finished(), pending }
    }

    /// Drops the waiting polls; from now on [`next`](Self::next) returns `None`.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let dropped = state.lanes.drop_all_waiting();
        drop(state);
        self.available.notify_waiters();
        self.timer_changed.notify_one();
        drop(dropped);
    }

    /// Whether the daemon drains: no poll starts any more.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
