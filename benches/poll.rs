//! What one whole unchanged poll costs this process, against bare loops that only do what cannot be left out.
//!
//! All run in turn in one process on one core, against the same simulator in another process on another core, with
//! [`IN_FLIGHT`] requests in flight. The daemon's side is the daemon's own code, from the queue to the account's row.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has nothing better to do than to end")]

use std::{sync::Arc, time::Duration};

use kfwatch::{
    app::{self, Connections, clock::SystemClock},
    config::{Config, Environment},
    domain::clock::Clock,
    metrics::Metrics,
    poll::{PollLimits, Poller, WatchedAccount},
    schedule::{
        queue::{Job, PollQueue},
        ticker::{Scheduled, Sweep, TickerContext},
        worker::{MAX_REPEAT_REQUESTS, Workers},
    },
    store::Store,
};
use tokio::{sync::mpsc, task::JoinSet};

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

use loops::{IN_FLIGHT, Loops, Targets, measured};
use median::median;
use report::Report;

const OFFICIAL_ACCOUNTS: usize = 10;
const ROUNDS: usize = 9;

/// Says that this is the process to be measured, already on its processor.
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
    let loops = Loops::new(Targets::learn(&config, usize::MAX).await, &config);
    let requests = loops.requests();
    let daemon = Daemon::start(&config).await;

    // The first sweep stores the baselines, and all pools connect.
    daemon.sweep().await;
    let mut figures = [const { Vec::new() }; 4];
    for round in 0..=ROUNDS {
        let measured = [
            measured(requests, daemon.sweep()).await,
            measured(requests, loops.reqwest()).await,
            measured(requests, loops.reqwest_with_timeouts()).await,
            measured(requests, loops.hyper()).await,
        ];
        if round > 0 {
            figures.iter_mut().zip(measured).for_each(|(figures, measured)| figures.push(measured));
        }
    }
    daemon.check();
    let micros = |index: usize| {
        let cpu: Vec<f64> = figures[index].iter().map(|(cpu, _)| *cpu).collect();
        median(&cpu)
    };
    let rate = |index: usize| {
        let rates: Vec<f64> = figures[index].iter().map(|(_, rate)| *rate).collect();
        median(&rates)
    };
    let what = format!("unchanged poll, {sessions} sessions");
    let figure = format!("{:.1} µs CPU, {:.0}/s", micros(0), rate(0));
    let baselines = [
        "bare reqwest + serde_json + set comparison",
        "the same with time-outs",
        "bare hyper-util client, body read",
    ];
    for (index, baseline) in baselines.iter().enumerate() {
        let index = index + 1;
        let baseline = format!("{baseline}: {:.1} µs, {:.0}/s", micros(index), rate(index));
        let target = if index == 1 && sessions == "10" { "≤ 1.3" } else { "" };
        report.row([&what, &figure, &baseline], Some(micros(0) / micros(index)), target);
    }
}

/// The daemon's parts from the queue on, as the daemon puts them together.
struct Daemon {
    context: TickerContext,
    accounts: Vec<Scheduling>,
    _workers: JoinSet<()>,
    _directory: tempfile::TempDir,
}

impl Daemon {
    async fn start(config: &Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("kfwatch.db")).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let metrics = Arc::new(Metrics::new([]).unwrap());
        let accounts = accounts(config, &store, &metrics, &clock).await;
        let limits = PollLimits {
            deadline: config.api.timeout * 3,
            blind_after: config.poll.blind_after,
            backoff_policy: config.backoff_policy,
        };
        let poller = Arc::new(Poller::new(store, Arc::clone(&metrics), Arc::clone(&clock), limits));
        let queue =
            Arc::new(PollQueue::new(OFFICIAL_ACCOUNTS, config.api.max_in_flight_per_official_account));
        let (repeats, _) = mpsc::channel(MAX_REPEAT_REQUESTS);
        let workers = Arc::new(Workers {
            queue: Arc::clone(&queue),
            poller: Arc::clone(&poller),
            repeats,
            clock: Arc::clone(&clock),
        });
        let mut spawned = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            spawned.spawn(Arc::clone(&workers).work());
        }
        let context = TickerContext { queue, poller, metrics, clock };
        Self { context, accounts, _workers: spawned, _directory: directory }
    }

    /// One tick: all accounts go into the queue; done when the last of them is polled.
    async fn sweep(&self) {
        let sweep = Sweep::begin(&self.context, self.context.clock.now(), None);
        let over = Arc::downgrade(&sweep);
        let job = |(Scheduled { official_account, lane }, account): &Scheduling| {
            let guard = official_account.guard(account).unwrap();
            Job { guard, lane: *lane, sweep: Arc::clone(&sweep), repeats: 0 }
        };
        self.context.queue.push(self.accounts.iter().map(job).collect::<Vec<_>>());
        drop(sweep);
        while over.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// That what was measured is what was meant.
    fn check(&self) {
        let sweeps = ROUNDS as u32 + 2;
        for (_, account) in &self.accounts {
            let row = account.status.row();
            assert_eq!((row.polls, row.failures, row.started, row.ended), (sweeps, 0, 0, 0));
        }
    }
}

/// A kf account with its official account.
type Scheduling = (Scheduled, Arc<WatchedAccount>);

async fn accounts(
    config: &Config,
    store: &Store,
    metrics: &Metrics,
    clock: &Arc<dyn Clock>,
) -> Vec<Scheduling> {
    let connections = Connections::build(config, store, Arc::clone(clock)).await.unwrap();
    let configured = config.official_accounts.iter().flat_map(app::accounts).collect();
    let mut stored = store.register_accounts(configured).await.unwrap().configured.into_iter();
    let mut accounts = Vec::new();
    for (lane, configured) in config.official_accounts.iter().enumerate() {
        let official_account = connections.official_account(configured, Arc::default(), metrics);
        for stored in stored.by_ref().take(configured.kf_accounts.len()) {
            let (row, account) = (stored.id, stored.account.clone());
            let watch = app::watch(stored);
            let scheduled = Scheduled { official_account: Arc::clone(&official_account), lane };
            accounts.push((scheduled, Arc::new(WatchedAccount::new(account, row, watch))));
        }
    }
    // As the daemon lets them go: the official accounts mixed.
    let kf_accounts = accounts.len() / OFFICIAL_ACCOUNTS;
    let mut mixed: Vec<_> = accounts.into_iter().enumerate().collect();
    mixed.sort_by_key(|(index, _)| index % kf_accounts);
    mixed.into_iter().map(|(_, account)| account).collect()
}
