//! Polls that wait for their turn: a queue that is fair between official accounts.
//!
//! Each official account has a lane with its share of the requests in flight; a lane that uses up its share is passed
//! over until one of its polls is done. Thus an official account whose every call hangs holds its share and no more,
//! and the others go on. A lane whose limit on requests lets nothing through at present is left out until it does
//! ([`PollQueue::keep_time`]), so that its polls wait here and not in workers. The queue holds an account at most once
//! (it holds its [`PollGuard`]), which bounds it by the number of accounts.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, time::Instant};

use super::ticker::Sweep;
use crate::{domain::progress::Work, poll::PollGuard};

/// A poll to be made.
pub struct Job {
    /// The account.
    pub guard: PollGuard,
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
    /// A lane was left out for a time, or the queue closed.
    left_out: Notify,
    share: usize,
}

struct Lanes {
    lanes: Vec<Lane>,
    /// Lanes with waiting jobs and room in their share, in turn; each at most once.
    ready: VecDeque<usize>,
    /// Lanes that are left out, with the time until when; each at most once, and not ready meanwhile.
    left_out: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Jobs taken, and those of them that are done.
    taken: u64,
    done: u64,
    closed: bool,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<Run>,
    in_flight: usize,
    place: Place,
}

/// Jobs that wait one behind the other and differ in their claims alone: mostly those of a tick. What waits may be every
/// kf account, so that each is to take little.
struct Run {
    sweep: Arc<Sweep>,
    repeats: usize,
    /// Never none.
    claims: VecDeque<PollGuard>,
}

/// Where a lane stands.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// It has no waiting jobs, or no room for them.
    #[default]
    Aside,
    Ready,
    LeftOut,
}

impl PollQueue {
    /// A queue with so many lanes, each with this share of the requests in flight.
    pub fn new(lanes: usize, share: usize) -> Self {
        let lanes = (0..lanes).map(|_| Lane::default()).collect();
        let (ready, left_out) = (VecDeque::new(), BinaryHeap::new());
        let lanes = Mutex::new(Lanes { lanes, ready, left_out, taken: 0, done: 0, closed: false });
        Self { lanes, work: Notify::new(), left_out: Notify::new(), share: share.max(1) }
    }

    /// Adds jobs. After [`close`](Self::close) they are dropped.
    pub fn push(&self, jobs: impl IntoIterator<Item = Job>) {
        let mut lanes = self.lanes();
        if lanes.closed {
            return;
        }
        for job in jobs {
            let index = job.lane;
            lanes.lanes[index].push(job);
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
                let before = lanes.left_out.len();
                let job = lanes.take(self.share);
                if lanes.left_out.len() > before {
                    self.left_out.notify_one();
                }
                if let Some(job) = job {
                    // Nobody else is on the way to the rest of a lane that was let in again for one job.
                    if job.guard.official_account().rate_limiter().is_some() {
                        self.work.notify_one();
                    }
                    return Some(job);
                }
            }
            work.await;
        }
    }

    /// Lets lanes that are left out in again when their time has come, until the queue is closed. One task does that for
    /// all workers, or each of them would have to wake up for it.
    pub async fn keep_time(&self) {
        loop {
            let left_out = self.left_out.notified();
            tokio::pin!(left_out);
            left_out.as_mut().enable();
            let next = {
                let mut lanes = self.lanes();
                if lanes.closed {
                    return;
                }
                for _ in 0..lanes.let_in(Instant::now(), self.share) {
                    self.work.notify_one();
                }
                lanes.left_out.peek().map(|Reverse((until, _))| *until)
            };
            match next {
                // Whether the time came first or another lane, there is something to look at.
                Some(until) => drop(tokio::time::timeout_at(until, left_out).await),
                None => left_out.await,
            }
        }
    }

    /// Gives the place of a job in its lane back.
    pub fn done(&self, lane: usize) {
        let mut lanes = self.lanes();
        lanes.lanes[lane].in_flight = lanes.lanes[lane].in_flight.saturating_sub(1);
        lanes.done += 1;
        lanes.settle(lane, self.share);
        self.work.notify_one();
    }

    /// How polls get on. There is something to do while a poll is in flight, or could be if a worker took it; a lane whose
    /// limit on requests lets nothing through has nothing to do until its time has come.
    pub fn work(&self) -> Work {
        let lanes = self.lanes();
        let time_has_come = |Reverse((until, _)): &Reverse<(Instant, usize)>| *until <= Instant::now();
        let takeable = !lanes.ready.is_empty() || lanes.left_out.peek().is_some_and(time_has_come);
        Work { finished: lanes.done, waits: !lanes.closed && (lanes.taken != lanes.done || takeable) }
    }

    /// Drops what waits; [`next`](Self::next) gives `None` from now on.
    pub fn close(&self) {
        let mut lanes = self.lanes();
        lanes.closed = true;
        lanes.lanes.iter_mut().for_each(|lane| lane.waiting.clear());
        drop(lanes);
        self.work.notify_waiters();
        self.left_out.notify_one();
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    fn take(&mut self, share: usize) -> Option<Job> {
        while let Some(index) = self.ready.pop_front() {
            let lane = &mut self.lanes[index];
            lane.place = Place::Aside;
            let Some(first) = lane.first() else { continue };
            if let Err(wait) = first.admit() {
                lane.place = Place::LeftOut;
                self.left_out.push(Reverse((Instant::now() + wait, index)));
                continue;
            }
            let job = lane.pop(index);
            lane.in_flight += 1;
            self.taken += 1;
            self.settle(index, share);
            return job;
        }
        None
    }

    /// Lets lanes in again that were left out until now, and says how many.
    fn let_in(&mut self, now: Instant, share: usize) -> usize {
        let before = self.left_out.len();
        while let Some(&Reverse((until, index))) = self.left_out.peek()
            && until <= now
        {
            self.left_out.pop();
            self.lanes[index].place = Place::Aside;
            self.settle(index, share);
        }
        before - self.left_out.len()
    }

    /// Puts the lane in the row of ready ones if it belongs there.
    fn settle(&mut self, index: usize, share: usize) {
        let lane = &mut self.lanes[index];
        if lane.place == Place::Aside && !lane.waiting.is_empty() && lane.in_flight < share {
            lane.place = Place::Ready;
            self.ready.push_back(index);
        }
    }
}

impl Lane {
    fn push(&mut self, job: Job) {
        let Job { guard, sweep, repeats, .. } = job;
        match self.waiting.back_mut() {
            Some(run) if Arc::ptr_eq(&run.sweep, &sweep) && run.repeats == repeats => {
                run.claims.push_back(guard);
            }
            _ => self.waiting.push_back(Run { sweep, repeats, claims: [guard].into() }),
        }
    }

    fn first(&self) -> Option<&PollGuard> {
        self.waiting.front()?.claims.front()
    }

    /// Takes the first job out of the lane, which is the one of this index.
    fn pop(&mut self, lane: usize) -> Option<Job> {
        let run = self.waiting.front_mut()?;
        let guard = run.claims.pop_front()?;
        let (sweep, repeats) = (Arc::clone(&run.sweep), run.repeats);
        if run.claims.is_empty() {
            self.waiting.pop_front();
        }
        Some(Job { guard, lane, sweep, repeats })
    }
}
