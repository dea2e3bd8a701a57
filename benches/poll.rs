//! CPU of one unchanged poll, compared with bare loops that request the same session lists.
//!
//! The daemon's parts and the loops alternate in one process on one core; the simulator runs in another process on another
//! core. [`IN_FLIGHT`] requests are in flight. The daemon's side is its own code, from the queue to the account's view.

#![expect(clippy::unwrap_used, reason = "a bench that cannot continue ends")]

use std::{sync::Arc, time::Duration};

use kfwatch::{
    app::{self, OfficialAccountFactory, clock::SystemClock},
    config::{Config, Environment},
    domain::clock::Clock,
    metrics::Metrics,
    poll::{PollGuard, PollLimits, Poller},
    schedule::{
        queue::{LaneId, PollQueue, QueuedPoll},
        spread_plan::ScheduledAccount,
        sweep::Sweep,
        workers::Workers,
    },
    status::{PollCounters, WatchedAccount},
    store::Store,
};
use tokio::task::JoinSet;

#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/loops.rs"]
mod loops;
#[path = "support/median.rs"]
mod median;
#[path = "support/process.rs"]
mod process;
#[path = "support/report.rs"]
mod report;

use loops::{IN_FLIGHT, Loop, Loops, Targets, measured};
use median::median;
use report::Report;

const OFFICIAL_ACCOUNTS: usize = 10;
const ROUNDS: usize = 9;

/// Argument of the process that is measured, which `taskset` has already put on its core.
const MEASURED: &str = "--measured";

fn main() {
    if std::env::args().any(|argument| argument == MEASURED) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async { runtime.handle().clone().spawn(measure()).await.unwrap() });
    } else {
        let this = std::env::current_exe().unwrap();
        let status = process::pinned(this.to_str().unwrap(), 0).arg(MEASURED).status().unwrap();
        assert!(status.success());
    }
}

async fn measure() {
    let mut report = Report::new();
    // Fewer accounts with more sessions: their baselines have to be stored first.
    for (sessions, kf_accounts) in [("10", "1000"), ("100", "200")] {
        let official_accounts = OFFICIAL_ACCOUNTS.to_string();
        let (simulator, configuration) = process::simulator(
            1,
            OFFICIAL_ACCOUNTS,
            &[
                "--load-accounts",
                kf_accounts,
                "--load-official-accounts",
                &official_accounts,
                "--load-sessions",
                sessions,
            ],
        );
        compare(&configuration, sessions, &mut report).await;
        drop(simulator);
    }
    report.print();
}

async fn compare(configuration: &str, sessions: &str, report: &mut Report) {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::from_toml(configuration, directory.path(), &Environment::default()).unwrap().config;
    let loops = Loops::new(Targets::learn(&config, usize::MAX).await);
    let requests = loops.requests();
    let daemon = Daemon::start(&config).await;

    // The first sweep stores the baselines; the first round opens all connections.
    daemon.sweep().await;
    let mut ours = Vec::new();
    let mut bare = Loop::ALL.map(|_| Vec::new());
    for round in 0..=ROUNDS {
        let figures = measured(requests, daemon.sweep()).await;
        if round > 0 {
            ours.push(figures);
        }
        for (which, bare) in Loop::ALL.into_iter().zip(&mut bare) {
            let figures = measured(requests, loops.run(which)).await;
            if round > 0 {
                bare.push(figures);
            }
        }
    }
    daemon.check();
    let (cpu, rate) = medians(&ours);
    let what = format!("unchanged poll, {sessions} sessions");
    let figure = format!("{cpu:.1} µs CPU, {rate:.0}/s");
    for (which, bare) in Loop::ALL.into_iter().zip(&bare) {
        let (bare_cpu, bare_rate) = medians(bare);
        let baseline = format!("{}: {bare_cpu:.1} µs, {bare_rate:.0}/s", which.name());
        // At 100 sessions the hash maps miss the caches of the processor.
        let target = if sessions == "10" { which.target() } else { "" };
        report.row([&what, &figure, &baseline], Some(cpu / bare_cpu), target);
    }
}

/// The medians of the CPU times and of the rates.
fn medians(figures: &[(f64, f64)]) -> (f64, f64) {
    let (cpu, rates): (Vec<f64>, Vec<f64>) = figures.iter().copied().unzip();
    (median(&cpu), median(&rates))
}

/// The daemon's parts from the queue on, wired as in the daemon.
struct Daemon {
    queue: Arc<PollQueue>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    accounts: Vec<Scheduling>,
    _workers: JoinSet<()>,
    _directory: tempfile::TempDir,
}

impl Daemon {
    async fn start(config: &Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("kfwatch.db")).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let metrics = Arc::new(Metrics::new().unwrap());
        let limits = PollLimits {
            deadline: config.api.timeout * 3,
            blind_after: config.poll.blind_after,
            backoff_policy: config.backoff_policy,
        };
        let poller = Arc::new(Poller::new(store.clone(), Arc::clone(&metrics), Arc::clone(&clock), limits));
        let queue = Arc::new(PollQueue::new(config.api.max_in_flight_per_official_account));
        let lanes: Vec<_> =
            config.official_accounts.iter().map(|_| queue.add_lane(Arc::clone(&poller))).collect();
        let accounts = accounts(config, &store, &metrics, &clock, &lanes).await;
        let workers = Arc::new(Workers { queue: Arc::clone(&queue), clock: Arc::clone(&clock) });
        let mut spawned = JoinSet::new();
        for _ in 0..queue.set_workers(IN_FLIGHT) {
            spawned.spawn(Arc::clone(&workers).run_one());
        }
        Self { queue, metrics, clock, accounts, _workers: spawned, _directory: directory }
    }

    /// Runs one sweep: puts all accounts into the queue, and returns when the last one is polled.
    async fn sweep(&self) {
        let sweep = Sweep::start(&self.metrics, &self.clock, None);
        let over = Arc::downgrade(&sweep);
        let job = |(ScheduledAccount { official_account, lane }, account): &Scheduling| {
            let guard = PollGuard::try_acquire(official_account, account).unwrap();
            QueuedPoll { guard, lane: *lane, sweep: Arc::clone(&sweep), retries: 0 }
        };
        self.queue.push(self.accounts.iter().map(job).collect::<Vec<_>>());
        drop(sweep);
        while over.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Asserts that every poll was successful and found no change.
    fn check(&self) {
        let sweeps = ROUNDS as u32 + 2;
        for (_, account) in &self.accounts {
            let counters = account.view(0).counters;
            assert_eq!(counters, PollCounters { polls: sweeps, ..PollCounters::default() });
        }
    }
}

/// A kf account with its official account.
type Scheduling = (ScheduledAccount, Arc<WatchedAccount>);

async fn accounts(
    config: &Config,
    store: &Store,
    metrics: &Metrics,
    clock: &Arc<dyn Clock>,
    lanes: &[LaneId],
) -> Vec<Scheduling> {
    let factory = OfficialAccountFactory::build(config, store, Arc::clone(clock)).await.unwrap();
    let configured = config.official_accounts.iter().flat_map(app::accounts).collect();
    let mut stored = store.register_accounts(configured).await.unwrap().configured.into_iter();
    let mut accounts = Vec::new();
    for (&lane, configured) in lanes.iter().zip(&config.official_accounts) {
        let official_account =
            factory.official_account(&factory.client(), configured, Arc::default(), metrics);
        for stored in stored.by_ref().take(configured.kf_accounts.len()) {
            let (row, account) = (stored.id, stored.account.clone());
            let watch = stored.into_tracker();
            let scheduled = ScheduledAccount { official_account: Arc::clone(&official_account), lane };
            accounts.push((scheduled, Arc::new(WatchedAccount::new(account, row, watch))));
        }
    }
    // In the daemon's order: the official accounts alternate.
    let kf_accounts = accounts.len() / OFFICIAL_ACCOUNTS;
    let mut mixed: Vec<_> = accounts.into_iter().enumerate().collect();
    mixed.sort_by_key(|(index, _)| index % kf_accounts);
    mixed.into_iter().map(|(_, account)| account).collect()
}
