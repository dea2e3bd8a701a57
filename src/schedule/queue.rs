//! Polls that wait for their turn: a queue that is fair between official accounts.
//!
//! Each official account has a lane with its share of the requests in flight; a lane that uses up its share is passed
//! over until one of its polls is done. Thus an official account whose every call hangs holds its share and no more,
//! and the others go on. The queue holds an account at most once (it holds its [`Claim`]), which bounds it by the
//! number of accounts.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::ticker::Sweep;
use crate::poll::Claim;

/// A poll to be made.
pub struct Job {
    /// The account.
    pub claim: Claim,
    /// The lane of its official account.
    pub lane: usize,
    /// The sweep it belongs to, which is over when its last job is dropped.
    pub sweep: Arc<Sweep>,
    /// How often it has been repeated because WeChat was busy.
    pub repeats: usize,
}

/// The queue, shared by tickers and workers.
pub struct PollQueue {
    lanes: Mutex<Lanes>,
    work: Notify,
    share: usize,
}

struct Lanes {
    lanes: Vec<Lane>,
    /// Lanes with waiting jobs and room in their share, in turn; each at most once.
    ready: VecDeque<usize>,
    closed: bool,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<Job>,
    in_flight: usize,
    is_ready: bool,
}

impl PollQueue {
    /// A queue with so many lanes, each with this share of the requests in flight.
    pub fn new(lanes: usize, share: usize) -> Self {
        let lanes = (0..lanes).map(|_| Lane::default()).collect();
        let lanes = Mutex::new(Lanes { lanes, ready: VecDeque::new(), closed: false });
        Self { lanes, work: Notify::new(), share: share.max(1) }
    }

    /// Adds jobs. After [`close`](Self::close) they are dropped.
    pub fn push(&self, jobs: impl IntoIterator<Item = Job>) {
        let mut lanes = self.lanes();
        if lanes.closed {
            return;
        }
        for job in jobs {
            let index = job.lane;
            lanes.lanes[index].waiting.push_back(job);
            lanes.settle(index, self.share);
            self.work.notify_one();
        }
    }

    /// The next job whose lane has room, when there is one; `None` after the queue was closed.
    pub async fn next(&self) -> Option<Job> {
        loop {
            // Interest is registered before looking, so that a job pushed in between is not slept through.
            let work = self.work.notified();
            tokio::pin!(work);
            work.as_mut().enable();
            {
                let mut lanes = self.lanes();
                if lanes.closed {
                    return None;
                }
                if let Some(job) = lanes.take(self.share) {
                    return Some(job);
                }
            }
            work.await;
        }
    }

    /// Gives the place of a job in its lane back.
    pub fn done(&self, lane: usize) {
        let mut lanes = self.lanes();
        lanes.lanes[lane].in_flight = lanes.lanes[lane].in_flight.saturating_sub(1);
        lanes.settle(lane, self.share);
        self.work.notify_one();
    }

    /// Drops what waits; [`next`](Self::next) gives `None` from now on.
    pub fn close(&self) {
        let mut lanes = self.lanes();
        lanes.closed = true;
        lanes.lanes.iter_mut().for_each(|lane| lane.waiting.clear());
        drop(lanes);
        self.work.notify_waiters();
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    fn take(&mut self, share: usize) -> Option<Job> {
        let index = self.ready.pop_front()?;
        let lane = &mut self.lanes[index];
        lane.is_ready = false;
        let job = lane.waiting.pop_front()?;
        lane.in_flight += 1;
        self.settle(index, share);
        Some(job)
    }

    /// Puts the lane in the row of ready ones if it belongs there.
    fn settle(&mut self, index: usize, share: usize) {
        let lane = &mut self.lanes[index];
        if !lane.is_ready && !lane.waiting.is_empty() && lane.in_flight < share {
            lane.is_ready = true;
            self.ready.push_back(index);
        }
    }
}
