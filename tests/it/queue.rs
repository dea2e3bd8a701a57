//! The queue of polls: turns and limits of official accounts, whatever lanes and workers come and go.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::Arc,
    time::Duration,
};

use crate::support::{
    process::appid,
    wait::{PATIENCE, eventually},
};
use futures_util::FutureExt;
use kfwatch::{
    app::{self, OfficialAccountFactory, clock::SystemClock},
    config::{Config, Environment},
    domain::{backoff::BackoffPolicy, clock::Clock, progress::WorkProgress, tracker::AccountTracker},
    metrics::Metrics,
    poll::{OfficialAccount, PollGuard, PollLimits, Poller},
    schedule::{
        queue::{LaneId, PollQueue, QueuedPoll},
        sweep::Sweep,
    },
    status::WatchedAccount,
    store::{AccountId, Store},
};
use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestCaseResult, TestRunner},
};
use tokio::task::JoinSet;

/// A poll queue whose jobs are taken but never polled.
struct Queued {
    queue: Arc<PollQueue>,
    poller: Arc<Poller>,
    official_accounts: Vec<Arc<OfficialAccount>>,
    lanes: Vec<LaneId>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    _directory: tempfile::TempDir,
}

impl Queued {
    /// Creates a lane for each limit, with `kf_accounts` kf accounts each.
    fn new(limits: &[Option<u32>], kf_accounts: usize, share: usize) -> Self {
        let configured = |(lane, limit): (usize, &Option<u32>)| {
            let accounts: Vec<String> =
                (0..kf_accounts).map(|n| format!("\"kf{n:02}@lane{lane}\"")).collect();
            let limit = limit.map(|limit| format!("max_requests_per_minute = {limit}\n")).unwrap_or_default();
            format!(
                "[[official_accounts]]\nname = \"lane{lane}\"\nappid = \"{}\"\nkf_accounts = [{}]\n{limit}token.secret = \"s\"\n",
                appid(lane),
                accounts.join(", ")
            )
        };
        let text: String = limits.iter().enumerate().map(configured).collect();
        let config = Config::from_toml(&text, Path::new("/nowhere"), &Environment::default()).unwrap().config;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let metrics = Arc::new(Metrics::new().unwrap());
        let factory = OfficialAccountFactory::without_store(&config, Arc::clone(&clock)).unwrap();
        let official_account = |configured| {
            let official_account =
                factory.official_account(&factory.client(), configured, Arc::default(), &metrics);
            let accounts = app::accounts(configured).map(|account| {
                Arc::new(WatchedAccount::new(account, AccountId(0), AccountTracker::default()))
            });
            official_account.status.add_kf_accounts(accounts.collect());
            official_account
        };
        let official_accounts: Vec<_> = config.official_accounts.iter().map(official_account).collect();
        let queue = Arc::new(PollQueue::new(share));
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("kfwatch.db")).unwrap();
        let limits = PollLimits {
            deadline: Duration::from_secs(1),
            blind_after: Duration::from_secs(300),
            backoff_policy: BackoffPolicy::default(),
        };
        let poller = Arc::new(Poller::new(store, Arc::clone(&metrics), Arc::clone(&clock), limits));
        let lanes = official_accounts.iter().map(|_| queue.add_lane(Arc::clone(&poller))).collect();
        Self { queue, poller, official_accounts, lanes, metrics, clock, _directory: directory }
    }

    /// Queues all kf accounts.
    fn tick(&self) {
        let sweep = Sweep::start(&self.metrics, &self.clock, None);
        for (lane, official_account) in self.lanes.iter().zip(&self.official_accounts) {
            let accounts = official_account.accounts();
            let polls = accounts.iter().filter_map(|account| poll(official_account, account, *lane, &sweep));
            self.queue.push(polls);
        }
    }

    /// A poll of this kf account, if its guard is free.
    fn poll(&self, (lane, kf_account): (usize, usize)) -> Option<QueuedPoll> {
        let official_account = &self.official_accounts[lane];
        let sweep = Sweep::start(&self.metrics, &self.clock, None);
        poll(official_account, &official_account.accounts()[kf_account], self.lanes[lane], &sweep)
    }

    /// The index of a job's lane.
    fn lane_of(&self, job: &QueuedPoll) -> usize {
        self.lanes.iter().position(|lane| *lane == job.lane).unwrap()
    }

    /// Takes the job that a worker would get now.
    fn next_job(&self) -> Option<QueuedPoll> {
        self.queue.next().now_or_never().flatten().map(|(job, _)| job)
    }

    /// Takes all jobs that workers would get now, and returns the indices of their lanes.
    fn take_all(&self) -> Vec<usize> {
        std::iter::from_fn(|| self.next_job()).map(|job| self.lane_of(&job)).collect()
    }
}

fn poll(
    official_account: &Arc<OfficialAccount>,
    account: &Arc<WatchedAccount>,
    lane: LaneId,
    sweep: &Arc<Sweep>,
) -> Option<QueuedPoll> {
    let guard = PollGuard::try_acquire(official_account, account).ok()?;
    Some(QueuedPoll { guard, lane, sweep: Arc::clone(sweep), retries: 0 })
}

#[tokio::test]
async fn waiting_lane_occupies_no_worker() {
    let queued = Queued::new(&[Some(1), None, Some(1)], 3, 16);
    queued.tick();
    let taken: Vec<QueuedPoll> = std::iter::from_fn(|| queued.next_job()).collect();
    let lanes: Vec<usize> = taken.iter().map(|job| queued.lane_of(job)).collect();
    assert_eq!(lanes, [0, 1, 2, 1, 1], "one job of each limited lane, all jobs of the other lane");
    for job in taken {
        queued.queue.finish(job.lane);
    }
    assert!(queued.next_job().is_none());
    queued.tick();
    assert_eq!(queued.take_all(), [1, 1, 1]);
}

#[tokio::test]
async fn progress_is_expected_only_while_polls_can_run() {
    let queued = Queued::new(&[Some(60)], 2, 16);
    let progress = |finished, pending| {
        assert_eq!(queued.queue.progress(), WorkProgress { finished, pending });
    };
    progress(0, false);
    queued.tick();
    progress(0, true);
    let first = queued.next_job().unwrap();
    progress(0, true);
    assert!(queued.next_job().is_none(), "the limit permits one job at a time");
    queued.queue.finish(first.lane);
    progress(1, false);
    // The lane's next permit is due, but nothing admits the lane to the queue again: the work waits.
    eventually("the next permit of the lane", || queued.queue.progress().pending.then_some(()));
    queued.queue.close();
    progress(1, false);
}

#[tokio::test]
async fn hanging_workers_leave_remaining_jobs_to_others() {
    let queued = Queued::new(&[Some(6_000)], 15, 16);
    queued.tick();
    let workers = (0..15).map(|_| queued.queue.next());
    let hanging = async {
        let jobs: Vec<_> = futures_util::future::join_all(workers).await;
        queued.queue.close();
        jobs
    };
    let both = async { tokio::join!(hanging, queued.queue.run_timer()) };
    let (jobs, ()) = tokio::time::timeout(PATIENCE, both).await.expect("a worker received no job");
    assert!(jobs.iter().all(Option::is_some));
}

#[tokio::test]
async fn rate_limited_jobs_run_in_order() {
    let queued = Queued::new(&[Some(6_000), Some(3_000)], 15, 16);
    queued.tick();
    let mut taken = BTreeMap::<usize, Vec<String>>::new();
    let taking = async {
        // `done` is not called, so each job continues to count as in flight.
        while taken.values().map(Vec::len).sum::<usize>() < 30 {
            let (job, _) = queued.queue.next().await.unwrap();
            taken
                .entry(queued.lane_of(&job))
                .or_default()
                .push(job.guard.account().account().kf_account.to_string());
        }
        queued.queue.close();
    };
    let ((), ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(taking, queued.queue.run_timer()) })
        .await
        .expect("a lane was not admitted again");
    for (lane, accounts) in taken {
        let all: Vec<String> = (0..15).map(|n| format!("kf{n:02}@lane{lane}")).collect();
        assert_eq!(accounts, all);
    }
}

#[tokio::test]
async fn removed_lane_drops_waiting_polls_and_finishes_those_in_flight() {
    let queued = Queued::new(&[None, None], 3, 1);
    queued.tick();
    let in_flight = queued.next_job().unwrap();
    assert_eq!(queued.lane_of(&in_flight), 0);
    queued.queue.remove_lane(queued.lanes[0]);
    assert!(queued.poll((0, 0)).is_none(), "in flight");
    assert!(queued.poll((0, 1)).is_some() && queued.poll((0, 2)).is_some(), "the guards are released");
    queued.queue.push(queued.poll((0, 1)));
    queued.queue.retry(queued.poll((0, 2)).unwrap(), Duration::ZERO);
    assert!(queued.poll((0, 1)).is_some() && queued.poll((0, 2)).is_some(), "later polls are dropped");
    assert_eq!(queued.take_all(), [1]);
    queued.queue.finish(in_flight.lane);
    assert_eq!(queued.take_all(), [0; 0], "the other lane is at its limit");
    assert!(queued.queue.progress().pending);
    queued.queue.finish(queued.lanes[1]);
    assert_eq!(queued.take_all(), [1]);
}

#[tokio::test]
async fn removed_lane_is_no_pending_work() {
    // One lane is ready, the other waits for its rate limit.
    let queued = Queued::new(&[Some(1), None], 2, 16);
    queued.tick();
    let (limited, free) = (queued.next_job().unwrap(), queued.next_job().unwrap());
    queued.queue.finish(limited.lane);
    queued.queue.finish(free.lane);
    assert!(queued.queue.progress().pending);
    queued.queue.remove_lane(free.lane);
    assert!(queued.next_job().is_none());
    queued.queue.remove_lane(limited.lane);
    assert_eq!(queued.queue.progress(), WorkProgress { finished: 2, pending: false });
}

#[tokio::test]
async fn each_poll_leaves_the_queue_with_the_poller_of_its_lane() {
    let (one, other) = (Queued::new(&[None], 2, 16), Queued::new(&[None], 2, 16));
    let lane = one.queue.add_lane(Arc::clone(&other.poller));
    one.tick();
    let sweep = Sweep::start(&one.metrics, &one.clock, None);
    let (official_account, accounts) = (&other.official_accounts[0], other.official_accounts[0].accounts());
    one.queue.push(accounts.iter().filter_map(|account| poll(official_account, account, lane, &sweep)));
    for _ in 0..4 {
        let (job, poller) = one.queue.next().await.unwrap();
        let expected = if job.lane == lane { &other.poller } else { &one.poller };
        assert!(Arc::ptr_eq(&poller, expected));
    }
}

#[tokio::test]
async fn account_that_left_retires_without_another_poll() {
    let queued = Queued::new(&[None], 3, 1);
    let accounts = queued.official_accounts[0].accounts();
    queued.tick();
    let in_flight = queued.next_job().unwrap();
    accounts[..2].iter().for_each(|account| account.leave());
    queued.queue.drop_left(in_flight.lane);
    let retired = || accounts.iter().map(|account| account.is_retired()).collect::<Vec<_>>();
    assert_eq!(retired(), [false, true, false], "one is in flight, the last one stays");
    queued.queue.finish(in_flight.lane);
    queued.queue.retry(in_flight, Duration::ZERO);
    assert_eq!(retired(), [true, true, false]);
    let last = queued.next_job().unwrap();
    assert_eq!(&*last.guard.account().account().kf_account, "kf02@lane0");
    queued.queue.finish(last.lane);
    assert!(queued.next_job().is_none());
}

#[tokio::test]
async fn dropped_polls_are_no_pending_work() {
    let queued = Queued::new(&[None], 3, 16);
    queued.tick();
    queued.official_accounts[0].accounts().iter().for_each(|account| account.leave());
    assert!(queued.queue.progress().pending);
    queued.queue.drop_left(queued.lanes[0]);
    assert_eq!(queued.queue.progress(), WorkProgress { finished: 0, pending: false });
}

#[tokio::test]
async fn changed_limit_applies_to_lanes_that_are_full_or_ready() {
    let queued = Queued::new(&[None], 6, 1);
    queued.tick();
    assert_eq!(queued.take_all().len(), 1);
    queued.queue.set_max_in_flight_per_lane(3);
    assert_eq!(queued.take_all().len(), 2);
    queued.queue.finish(queued.lanes[0]);
    queued.queue.set_max_in_flight_per_lane(2);
    assert_eq!(queued.take_all().len(), 0);
    queued.queue.finish(queued.lanes[0]);
    assert_eq!(queued.take_all().len(), 1);
}

#[tokio::test]
async fn retry_waits_for_its_delay() {
    let queued = Queued::new(&[None], 1, 1);
    queued.tick();
    let job = queued.next_job().unwrap();
    queued.queue.finish(job.lane);
    queued.queue.retry(job, Duration::from_millis(20));
    assert!(queued.poll((0, 0)).is_none(), "the retry keeps its guard");
    assert!(!queued.queue.progress().pending, "before its time");
    assert!(queued.next_job().is_none());
    let next = async {
        let (job, _) = queued.queue.next().await.unwrap();
        queued.queue.close();
        job
    };
    let both = async { tokio::join!(next, queued.queue.run_timer()) };
    let (job, ()) = tokio::time::timeout(PATIENCE, both).await.unwrap();
    assert_eq!(job.retries, 1);
}

#[tokio::test]
async fn closed_queue_drops_what_waits() {
    let queued = Queued::new(&[None], 3, 1);
    queued.tick();
    let job = queued.next_job().unwrap();
    queued.queue.finish(job.lane);
    queued.queue.retry(job, Duration::from_secs(3600));
    queued.queue.close();
    assert!((0..3).all(|kf_account| queued.poll((0, kf_account)).is_some()), "all guards are released");
    queued.tick();
    assert!(queued.next_job().is_none());
    assert!((0..3).all(|kf_account| queued.poll((0, kf_account)).is_some()));
}

#[tokio::test]
async fn number_of_workers_follows_what_is_wanted() {
    let queued = Queued::new(&[None], 3, 16);
    let mut workers = JoinSet::new();
    let spawn = |workers: &mut JoinSet<_>, wanted| {
        for _ in 0..queued.queue.set_workers(wanted) {
            let queue = Arc::clone(&queued.queue);
            workers.spawn(async move { queue.next().await.map(|(job, _)| job.retries) });
        }
    };
    spawn(&mut workers, 4);
    assert_eq!(workers.len(), 4);
    tokio::task::yield_now().await;
    spawn(&mut workers, 1);
    let ended = async {
        for _ in 0..3 {
            assert_eq!(workers.join_next().await.unwrap().unwrap(), None, "there were too many");
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    spawn(&mut workers, 3);
    assert_eq!(workers.len(), 3, "one was left");
    queued.tick();
    let took = async {
        while let Some(took) = workers.join_next().await {
            assert_eq!(took.unwrap(), Some(0));
        }
    };
    tokio::time::timeout(PATIENCE, took).await.unwrap();
}

#[tokio::test]
async fn worker_that_ends_leaves_its_poll_to_another() {
    let queued = Queued::new(&[None], 1, 16);
    assert_eq!(queued.queue.set_workers(2), 2);
    let mut first = Box::pin(queued.queue.next());
    let mut second = Box::pin(queued.queue.next());
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    // The poll wakes the first worker, which is one too many.
    queued.tick();
    assert_eq!(queued.queue.set_workers(1), 0);
    assert!(first.await.is_none());
    let took = tokio::time::timeout(PATIENCE, second).await.unwrap();
    assert!(took.is_some());
}

/// One step of a random test. Numbers select an official account, a kf account, or a poll in flight.
#[derive(Clone, Copy, Debug)]
enum Step {
    AddLane(usize),
    RemoveLane(usize),
    Push(usize, usize),
    Next,
    Finish(usize),
    Retry(usize),
    SetLimit(usize),
}

const OFFICIAL_ACCOUNTS: usize = 3;
const KF_ACCOUNTS: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..OFFICIAL_ACCOUNTS).prop_map(Step::AddLane),
        1 => (0..OFFICIAL_ACCOUNTS).prop_map(Step::RemoveLane),
        6 => (0..OFFICIAL_ACCOUNTS, 0..KF_ACCOUNTS).prop_map(|(of, kf)| Step::Push(of, kf)),
        5 => Just(Step::Next),
        3 => any::<usize>().prop_map(Step::Finish),
        1 => any::<usize>().prop_map(Step::Retry),
        1 => (1..4_usize).prop_map(Step::SetLimit),
    ]
}

/// A queue with what it should contain.
struct Model<'a> {
    queued: &'a Queued,
    queue: PollQueue,
    limit: usize,
    lanes: [Option<LaneId>; OFFICIAL_ACCOUNTS],
    /// The lanes of before, which were removed.
    removed: [Option<LaneId>; OFFICIAL_ACCOUNTS],
    /// The kf accounts that wait in each lane.
    waiting: [VecDeque<Arc<str>>; OFFICIAL_ACCOUNTS],
    in_flight: Vec<QueuedPoll>,
}

impl Model<'_> {
    fn apply(&mut self, step: Step) -> TestCaseResult {
        match step {
            Step::AddLane(of) if self.lanes[of].is_none() => {
                self.lanes[of] = Some(self.queue.add_lane(Arc::clone(&self.queued.poller)));
                prop_assert_ne!(self.lanes[of], self.removed[of]);
            }
            Step::RemoveLane(of) => {
                if let Some(lane) = self.lanes[of].take() {
                    self.queue.remove_lane(lane);
                    self.removed[of] = Some(lane);
                    self.waiting[of].clear();
                }
            }
            Step::Push(of, kf_account) => {
                let Some(lane) = self.lanes[of].or(self.removed[of]) else { return Ok(()) };
                if let Some(poll) = self.queued.poll((of, kf_account)) {
                    let poll = QueuedPoll { lane, ..poll };
                    self.expect_waiting(of, &poll);
                    self.queue.push([poll]);
                }
            }
            Step::Finish(which) if !self.in_flight.is_empty() => {
                let poll = self.in_flight.remove(which % self.in_flight.len());
                self.queue.finish(poll.lane);
            }
            Step::Retry(which) if !self.in_flight.is_empty() => {
                let poll = self.in_flight.remove(which % self.in_flight.len());
                self.queue.finish(poll.lane);
                if let Some(of) = self.lanes.iter().position(|lane| *lane == Some(poll.lane)) {
                    self.expect_waiting(of, &poll);
                }
                self.queue.retry(poll, Duration::ZERO);
                let _ = self.queue.run_timer().now_or_never();
            }
            Step::SetLimit(limit) => {
                self.limit = limit;
                self.queue.set_max_in_flight_per_lane(limit);
            }
            Step::Next => return self.next().map(|_| ()),
            Step::AddLane(_) | Step::Finish(_) | Step::Retry(_) => {}
        }
        Ok(())
    }

    fn expect_waiting(&mut self, of: usize, poll: &QueuedPoll) {
        if self.lanes[of] == Some(poll.lane) {
            self.waiting[of].push_back(kf_account(poll));
        }
    }

    /// Takes the next poll, and returns whether there was one.
    fn next(&mut self) -> Result<bool, TestCaseError> {
        let in_flight = |lane| self.in_flight.iter().filter(|poll| Some(poll.lane) == lane).count();
        let Some((poll, _)) = self.queue.next().now_or_never().flatten() else {
            for (lane, waiting) in self.lanes.iter().zip(&self.waiting) {
                prop_assert!(waiting.is_empty() || in_flight(*lane) >= self.limit, "a poll could start");
            }
            return Ok(false);
        };
        let of = self.lanes.iter().position(|lane| *lane == Some(poll.lane));
        let Some(of) = of else { return Err(TestCaseError::fail("a poll of a removed lane")) };
        prop_assert!(in_flight(self.lanes[of]) < self.limit, "more in flight than the limit");
        prop_assert_eq!(self.waiting[of].pop_front(), Some(kf_account(&poll)));
        self.in_flight.push(poll);
        Ok(true)
    }

    /// Finishes everything. Nothing that waits in a lane may be lost, and no guard.
    fn finish(mut self) -> TestCaseResult {
        loop {
            for poll in std::mem::take(&mut self.in_flight) {
                self.queue.finish(poll.lane);
            }
            if !self.next()? {
                break;
            }
        }
        prop_assert!(self.waiting.iter().all(VecDeque::is_empty), "{:?}", self.waiting);
        prop_assert!(!self.queue.progress().pending);
        for of in 0..OFFICIAL_ACCOUNTS {
            for kf_account in 0..KF_ACCOUNTS {
                prop_assert!(self.queued.poll((of, kf_account)).is_some(), "the guard is not released");
            }
        }
        Ok(())
    }
}

fn kf_account(poll: &QueuedPoll) -> Arc<str> {
    Arc::clone(&poll.guard.account().account().kf_account)
}

#[tokio::test]
async fn no_sequence_of_changes_loses_polls_or_exceeds_limits() {
    let queued = Queued::new(&[None; OFFICIAL_ACCOUNTS], KF_ACCOUNTS, 1);
    let steps = proptest::collection::vec(step(), 1..80);
    TestRunner::default()
        .run(&steps, |steps| {
            let mut model = Model {
                queued: &queued,
                queue: PollQueue::new(2),
                limit: 2,
                lanes: Default::default(),
                removed: Default::default(),
                waiting: Default::default(),
                in_flight: Vec::new(),
            };
            for step in steps {
                model.apply(step)?;
            }
            model.finish()
        })
        .unwrap();
}
