//! What one whole unchanged poll costs this process, against bare loops that only do what cannot be left out.
//!
//! All run in turn in one process on one core, against the same simulator in another process on another core, with
//! [`IN_FLIGHT`] requests in flight. The daemon's side is the daemon's own code, from the queue to the account's row.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has nothing better to do than to end")]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use kfwatch::{
    app::{self, Connections, clock::SystemClock},
    config::{Config, Environment, Token, TokenSource},
    domain::clock::Clock,
    metrics::Metrics,
    poll::{PollLimits, Poller, WatchedAccount},
    schedule::{
        queue::{Job, PollQueue},
        ticker::{Scheduled, Sweep, TickerContext},
        worker::{MAX_REPEAT_REQUESTS, Workers},
    },
    status::AccountStatus,
    store::Store,
};
use reqwest::Url;
use tokio::{sync::mpsc, task::JoinSet};

#[path = "support/median.rs"]
mod median;
#[path = "support/process.rs"]
mod process;
#[path = "support/report.rs"]
mod report;

use median::median;
use report::Report;

const IN_FLIGHT: usize = 64;
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
    let targets = Arc::new(Targets::learn(&config).await);
    let requests = targets.urls.len() as f64;
    let daemon = Daemon::start(&config).await;
    let plain = reqwest::Client::builder().no_proxy().build().unwrap();
    let bounded = reqwest::Client::builder().no_proxy().timeout(config.api.timeout);
    let bounded = bounded.connect_timeout(config.api.connect_timeout).build().unwrap();
    let hyper = Client::builder(TokioExecutor::new()).build_http();

    // The first sweep stores the baselines, and all pools connect.
    daemon.sweep().await;
    let mut figures = [const { Vec::new() }; 4];
    for round in 0..=ROUNDS {
        let measured = [
            measured(requests, daemon.sweep()).await,
            measured(requests, reqwest_loop(&plain, &targets)).await,
            measured(requests, reqwest_loop(&bounded, &targets)).await,
            measured(requests, hyper_loop(&hyper, &targets)).await,
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

/// CPU time of this process in µs a request, and requests a second.
async fn measured(requests: f64, sweep: impl Future<Output = ()>) -> (f64, f64) {
    let (begun, cpu) = (Instant::now(), cpu_nanos());
    sweep.await;
    ((cpu_nanos() - cpu) as f64 / 1e3 / requests, requests / begun.elapsed().as_secs_f64())
}

/// Time that the threads of this process ran: the first number of each one's schedstat.
fn cpu_nanos() -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let nanos = |thread: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    threads.filter_map(nanos).sum()
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
            holds: config.holds,
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
            let claim = official_account.claim(account).unwrap();
            Job { claim, lane: *lane, sweep: Arc::clone(&sweep), repeats: 0 }
        };
        self.context.queue.push(self.accounts.iter().map(job).collect::<Vec<_>>());
        drop(sweep);
        while over.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// That what was measured is what was meant.
    fn check(&self) {
        let sweeps = ROUNDS as u64 + 2;
        for (_, account) in &self.accounts {
            let row = *account.status.row();
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
        let official_account = connections.official_account(configured, metrics);
        let ticks = Arc::<AtomicU64>::default();
        for stored in stored.by_ref().take(configured.kf_accounts.len()) {
            let (row, account) = (stored.id, stored.account.clone());
            let watch = app::watch(stored);
            let status = Arc::new(AccountStatus::restored(account, Arc::clone(&ticks), &watch));
            let scheduled = Scheduled { official_account: Arc::clone(&official_account), lane };
            accounts.push((scheduled, Arc::new(WatchedAccount::new(status, row, watch))));
        }
    }
    // As the daemon lets them go: the official accounts mixed.
    let kf_accounts = accounts.len() / OFFICIAL_ACCOUNTS;
    let mut mixed: Vec<_> = accounts.into_iter().enumerate().collect();
    mixed.sort_by_key(|(index, _)| index % kf_accounts);
    mixed.into_iter().map(|(_, account)| account).collect()
}

/// What the bare loops ask for, and the sessions that they expect.
struct Targets {
    urls: Vec<Url>,
    known: Vec<HashMap<String, i64>>,
}

#[derive(serde::Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    sessionlist: Vec<Listed<'a>>,
}

#[derive(serde::Deserialize)]
struct Listed<'a> {
    createtime: i64,
    openid: &'a str,
}

#[derive(serde::Deserialize)]
struct TokenAnswer {
    access_token: String,
}

impl Targets {
    async fn learn(config: &Config) -> Self {
        use secrecy::ExposeSecret;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut targets = Self { urls: Vec::new(), known: Vec::new() };
        for official_account in &config.official_accounts {
            let Token::Own(TokenSource::Stable { secret }) = &official_account.token else { continue };
            let body = format!(
                r#"{{"grant_type":"client_credential","appid":"{}","secret":"{}"}}"#,
                official_account.appid,
                secret.expose_secret()
            );
            let url = config.api.base_url.join("/cgi-bin/stable_token").unwrap();
            let answer = client.post(url).body(body).send().await.unwrap().bytes().await.unwrap();
            let TokenAnswer { access_token } = serde_json::from_slice(&answer).unwrap();
            for kf_account in &official_account.kf_accounts {
                let mut url = config.api.base_url.join("/customservice/kfsession/getsessionlist").unwrap();
                url.set_query(Some(&format!("access_token={access_token}&kf_account={kf_account}")));
                let body = client.get(url.clone()).send().await.unwrap().bytes().await.unwrap();
                let answer: Answer<'_> = serde_json::from_slice(&body).unwrap();
                let sessions = answer.sessionlist.iter();
                targets
                    .known
                    .push(sessions.map(|listed| (listed.openid.to_owned(), listed.createtime)).collect());
                targets.urls.push(url);
            }
        }
        targets
    }

    fn compare(&self, index: usize, body: &Bytes) {
        let answer: Answer<'_> = serde_json::from_slice(body).unwrap();
        let known = &self.known[index];
        let same = |listed: &Listed<'_>| known.get(listed.openid) == Some(&listed.createtime);
        assert!(answer.sessionlist.len() == known.len() && answer.sessionlist.iter().all(same));
    }
}

async fn reqwest_loop(client: &reqwest::Client, targets: &Arc<Targets>) {
    let client = client.clone();
    in_flight(targets, move |index, targets| {
        let client = client.clone();
        async move {
            let response = client.get(targets.urls[index].clone()).send().await.unwrap();
            targets.compare(index, &response.bytes().await.unwrap());
        }
    })
    .await;
}

async fn hyper_loop(client: &Client<HttpConnector, Empty<Bytes>>, targets: &Arc<Targets>) {
    let client = client.clone();
    in_flight(targets, move |index, targets| {
        let client = client.clone();
        async move {
            let response = client.get(targets.urls[index].as_str().parse().unwrap()).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
    })
    .await;
}

/// All targets once, so many at a time.
async fn in_flight<F>(
    targets: &Arc<Targets>,
    request: impl Fn(usize, Arc<Targets>) -> F + Clone + Send + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (next, targets, request) = (Arc::clone(&next), Arc::clone(targets), request.clone());
        tasks.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= targets.urls.len() {
                    return;
                }
                request(index, Arc::clone(&targets)).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}
