//! The rate limit of an official account: calls stay within it, all kf accounts are polled equally often, and other official
//! accounts are not affected.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use crate::support::{
    process::{Home, Process, WeChat, appid, quiet},
    wait::{PATIENCE, eventually},
};
use futures_util::FutureExt;
use kfwatch::{
    app::{self, OfficialAccountFactory, clock::SystemClock},
    config::{Config, Environment},
    domain::{clock::Clock, progress::WorkProgress, tracker::AccountTracker},
    metrics::Metrics,
    poll::{OfficialAccount, PollGuard},
    schedule::{
        queue::{PollQueue, QueuedPoll},
        sweep::Sweep,
    },
    simulator::{ApiCall, Fault, FaultRule, SimulatorControl},
    status::WatchedAccount,
    store::AccountId,
};

/// A poll queue whose jobs are taken but never polled.
struct Queued {
    queue: Arc<PollQueue>,
    lanes: Vec<Arc<OfficialAccount>>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
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
        let metrics = Arc::new(Metrics::new([]).unwrap());
        let factory = OfficialAccountFactory::without_store(&config, Arc::clone(&clock)).unwrap();
        let official_account = |configured| {
            let official_account = factory.official_account(configured, Arc::default(), &metrics);
            let accounts = app::accounts(configured).map(|account| {
                Arc::new(WatchedAccount::new(account, AccountId(0), AccountTracker::default()))
            });
            official_account.status.set_kf_accounts(accounts.collect());
            official_account
        };
        let lanes = config.official_accounts.iter().map(official_account).collect();
        let queue = Arc::new(PollQueue::new(config.official_accounts.len(), share));
        Self { queue, lanes, metrics, clock }
    }

    /// Queues all kf accounts.
    fn tick(&self) {
        let sweep = Sweep::start(&self.metrics, &self.clock, None);
        for (lane, official_account) in (0..).zip(&self.lanes) {
            let accounts = official_account.accounts();
            let guards =
                accounts.iter().filter_map(|account| PollGuard::try_acquire(official_account, account));
            self.queue.push(guards.map(|guard| QueuedPoll {
                guard,
                lane,
                sweep: Arc::clone(&sweep),
                retries: 0,
            }));
        }
    }

    /// Takes the job that a worker would get now.
    fn next_job(&self) -> Option<QueuedPoll> {
        self.queue.next().now_or_never().flatten()
    }
}

#[tokio::test]
async fn waiting_lane_occupies_no_worker() {
    let queued = Queued::new(&[Some(1), None, Some(1)], 3, 16);
    queued.tick();
    let taken: Vec<QueuedPoll> = std::iter::from_fn(|| queued.next_job()).collect();
    let lanes: Vec<u32> = taken.iter().map(|job| job.lane).collect();
    assert_eq!(lanes, [0, 1, 2, 1, 1], "one job of each limited lane, all jobs of the other lane");
    for job in taken {
        queued.queue.finish(job.lane);
    }
    assert!(queued.next_job().is_none());
    queued.tick();
    let lanes: Vec<u32> = std::iter::from_fn(|| queued.next_job()).map(|job| job.lane).collect();
    assert_eq!(lanes, [1, 1, 1]);
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
        let jobs: Vec<Option<QueuedPoll>> = futures_util::future::join_all(workers).await;
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
    let mut taken = BTreeMap::<u32, Vec<String>>::new();
    let taking = async {
        // `done` is not called, so each job continues to count as in flight.
        while taken.values().map(Vec::len).sum::<usize>() < 30 {
            let job = queued.queue.next().await.unwrap();
            taken.entry(job.lane).or_default().push(job.guard.account().account().kf_account.to_string());
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

fn polls_of_each(
    control: &SimulatorControl,
    official_account: usize,
    name: &str,
    kf_accounts: usize,
) -> Vec<u64> {
    (1..=kf_accounts)
        .map(|number| control.polls_of(&appid(official_account), &format!("kf{number}@{name}")).unwrap())
        .collect()
}

fn overruns(daemon: &Process, official_account: &str, kf_account: &str) -> f64 {
    let labels = format!("official_account=\"{official_account}\",kf_account=\"{kf_account}\"");
    daemon.metric(&format!("kfwatch_poll_overruns_total{{{labels}}}")).unwrap()
}

#[test]
fn rate_limit_is_fair_and_isolated_per_official_account() {
    let wechat = WeChat::play(quiet(&[("shop", 20), ("free", 3)]));
    let control = wechat.control();
    let home = Home::watching(&wechat, "");
    let configuration = std::fs::read_to_string(home.path("config.toml")).unwrap();
    let limited =
        configuration.replacen("name = \"shop\"", "name = \"shop\"\nmax_requests_per_minute = 120", 1);
    assert_ne!(limited, configuration);
    home.write("config.toml", &limited);
    // Fewer workers than waiting polls.
    let daemon = home.set("KFWATCH__API__MAX_IN_FLIGHT", "16").daemon();
    eventually("twelve polls of the other official account", || {
        polls_of_each(&control, 1, "free", 3).iter().all(|polls| *polls >= 12).then_some(())
    });
    let shop: Vec<i64> = poll_times(&control, "@shop");
    let elapsed_ms = shop.last().unwrap() - shop.first().unwrap();
    let most = 1 + elapsed_ms / 500;
    // Requests can arrive a little closer to each other than they were sent.
    assert!(shop.len() as i64 <= most + 1, "{} calls in {elapsed_ms} ms", shop.len());
    assert!(shop.len() as i64 >= most * 3 / 4, "{} calls in {elapsed_ms} ms", shop.len());
    let polls = polls_of_each(&control, 0, "shop", 20);
    let (fewest, most) = (polls.iter().min().unwrap(), polls.iter().max().unwrap());
    assert!(most - fewest <= 1, "{polls:?}");
    assert!(overruns(&daemon, "shop", "kf20@shop") >= 5.0);
    for number in 1..=3 {
        let overruns = overruns(&daemon, "free", &format!("kf{number}@free"));
        assert!(overruns < 1.0, "kf{number}@free was not polled at {overruns} ticks");
    }
    assert_eq!(control.requests(ApiCall::StableToken), 2);
}

/// Returns the times at which polls of an official account were received, ascending.
fn poll_times(control: &SimulatorControl, wechat_id: &str) -> Vec<i64> {
    let polls = control.ledger().polls;
    let mut at: Vec<i64> = polls
        .iter()
        .filter(|poll| poll.kf_account.ends_with(wechat_id))
        .map(|poll| poll.received_at_ms)
        .collect();
    at.sort_unstable();
    at
}

#[test]
fn polls_in_backoff_use_no_permits_of_the_rate_limit() {
    let wechat = WeChat::play(quiet(&[("shop", 20)]));
    let control = wechat.control();
    for unbound in 2..=20 {
        control.inject(FaultRule {
            kf_account: Some(format!("kf{unbound}@shop")),
            endpoint: Some(ApiCall::GetSessionList),
            ..FaultRule::new(Fault::Errcode(65402))
        });
    }
    // Three a second. If polls in backoff used permits, kf1 would be polled once in seven seconds.
    let daemon = Home::watching(&wechat, "").set("KFWATCH__POLL__MAX_REQUESTS_PER_MINUTE", "180");
    let _daemon = daemon.set("KFWATCH__BACKOFF__UNBOUND", "1h").daemon();
    let polls = || polls_of_each(&control, 0, "shop", 20);
    eventually("a poll of each", || polls().iter().all(|polls| *polls > 0).then_some(()));
    let (begun, before) = (std::time::Instant::now(), polls()[0]);
    eventually("further polls", || (polls()[0] >= before + 8).then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
}
