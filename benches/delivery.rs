//! Events per second to a sink, and the time from an event's commit to its receipt. This file has the webhook and the common
//! parts; the modules have the other sinks.
//!
//! The baseline alternates with it in the same run: a loop that posts the same bodies to the same receiver with as many requests
//! in flight. It reads no log, signs nothing, keeps no order and moves no cursor. Store, dispatcher and receiver share one
//! process and its two threads.

#![expect(clippy::unwrap_used, reason = "a bench that cannot continue ends")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, http::StatusCode, routing::post};
use jiff::Timestamp;
use kfwatch::{
    app::clock::SystemClock,
    dispatch::{DispatchContext, Dispatcher, SinkShare},
    domain::{
        account::{Account, AccountState, Conclusion},
        clock::Clock,
        event::{Change, OwnedSession},
        tracker::LastSeen,
    },
    sink::{
        Sink,
        webhook::{SigningKey, WebhookOptions, WebhookSink},
    },
    store::{AccountRecord, EventFilter, PollCommit, SinkRegistration, StartPosition, Store, StoredAccount},
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

#[path = "delivery/dead_sink.rs"]
mod dead_sink;
#[path = "delivery/file.rs"]
mod file;
#[path = "support/median.rs"]
mod median;
#[path = "delivery/nats.rs"]
mod nats;
#[path = "support/report.rs"]
mod report;

use median::median;
use report::Report;

const ACCOUNTS: usize = 1000;
const EVENTS: usize = 20_000;
const ROUNDS: usize = 5;
const LATENCIES: usize = 2000;

/// Limit on how long a dispatcher may drain when it is stopped.
const LONGEST_DRAIN: Duration = Duration::from_secs(60);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut report = Report::new();
    runtime.block_on(async {
        let receiver = Receiver::start().await;
        for in_flight in [8, 64] {
            throughput(&receiver, in_flight, &mut report).await;
        }
        latency(&receiver, &mut report).await;
        file::throughput(&mut report).await;
        file::latency(&mut report).await;
        nats::measure(&mut report).await;
        dead_sink::latency(&mut report).await;
    });
    report.print();
}

/// Answers 204, and counts the requests.
struct Receiver {
    address: SocketAddr,
    received: watch::Receiver<usize>,
    last: Arc<Mutex<Instant>>,
    _serving: JoinSet<()>,
}

impl Receiver {
    async fn start() -> Self {
        let (count, received) = watch::channel(0);
        let last = Arc::new(Mutex::new(Instant::now()));
        let note = Arc::clone(&last);
        let handler = async move |_: Bytes| {
            *note.lock().unwrap() = Instant::now();
            count.send_modify(|count| *count += 1);
            StatusCode::NO_CONTENT
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", post(handler));
        let mut serving = JoinSet::new();
        serving.spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { address, received, last, _serving: serving }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    async fn wait_for(&self, count: usize) {
        self.received.clone().wait_for(|received| *received >= count).await.unwrap();
    }

    fn count(&self) -> usize {
        *self.received.borrow()
    }
}

async fn throughput(receiver: &Receiver, in_flight: usize, report: &mut Report) {
    let site = Site::new().await;
    let bodies = Arc::new(site.fill().await);
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(15)).build().unwrap();
    let mut rates = [const { Vec::new() }; 2];
    for round in 0..=ROUNDS {
        let sink = format!("crm{round}");
        let before = receiver.count();
        let begun = Instant::now();
        let running = site.deliver(&sink, webhook(receiver, in_flight), StartPosition::Beginning).await;
        receiver.wait_for(before + EVENTS).await;
        let delivered = begun.elapsed();
        running.end().await;
        let begun = Instant::now();
        post_all(&http, receiver.url(), &bodies, in_flight).await;
        let posted = begun.elapsed();
        // The first round opens connections and is not counted.
        if round > 0 {
            rates[0].push(EVENTS as f64 / delivered.as_secs_f64());
            rates[1].push(EVENTS as f64 / posted.as_secs_f64());
        }
    }
    let [ours, bare] = rates.map(|rates| median(&rates));
    report.row(
        [
            &format!("events a second to a webhook, {in_flight} in flight"),
            &format!("{ours:.0}"),
            &format!("a loop that only posts: {bare:.0}"),
        ],
        Some(bare / ours),
        "",
    );
}

async fn post_all(http: &reqwest::Client, url: String, bodies: &Arc<Vec<String>>, in_flight: usize) {
    let mut tasks = JoinSet::new();
    for first in 0..in_flight {
        let (http, url, bodies) = (http.clone(), url.clone(), Arc::clone(bodies));
        tasks.spawn(async move {
            for body in bodies.iter().skip(first).step_by(in_flight) {
                let response = http.post(&url).body(body.clone()).send().await.unwrap();
                assert!(response.bytes().await.unwrap().is_empty());
            }
        });
    }
    tasks.join_all().await;
}

async fn latency(receiver: &Receiver, report: &mut Report) {
    let site = Site::new().await;
    let running = site.deliver("crm", webhook(receiver, 8), StartPosition::Now).await;
    let mut latencies = Vec::new();
    for n in 0..LATENCIES {
        let before = receiver.count();
        let account = &site.accounts[n % ACCOUNTS];
        site.store.commit_poll(started(account, (n / ACCOUNTS) as i64)).await.unwrap();
        let committed = Instant::now();
        receiver.wait_for(before + 1).await;
        latencies.push(receiver.last.lock().unwrap().saturating_duration_since(committed));
    }
    running.end().await;
    report_latencies("a webhook", latencies, report);
}

fn report_latencies(of: &str, mut latencies: Vec<Duration>, report: &mut Report) {
    for (name, percent) in [("p50", 50), ("p99", 99)] {
        let figure = format!("{:.2} ms", percentile(&mut latencies, percent) * 1000.0);
        report.row([&format!("from commit to receipt by {of}, {name}"), &figure, ""], None, "");
    }
}

/// In seconds.
fn percentile(latencies: &mut [Duration], percent: usize) -> f64 {
    latencies.sort();
    latencies[latencies.len() * percent / 100].as_secs_f64()
}

struct Site {
    store: Store,
    accounts: Vec<StoredAccount>,
    _directory: tempfile::TempDir,
}

struct Running {
    drain: CancellationToken,
    tasks: JoinSet<()>,
}

impl Running {
    async fn end(self) {
        self.drain.cancel();
        self.tasks.join_all().await;
    }
}

impl Site {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("kfwatch.db")).unwrap();
        let account = |n| Account {
            official_account: "shop".into(),
            appid: "wx0123456789abcdef".into(),
            kf_account: format!("kf{n}@test").into(),
        };
        let accounts =
            store.register_accounts((0..ACCOUNTS).map(account).collect()).await.unwrap().configured;
        Self { store, accounts, _directory: directory }
    }

    /// Commits [`EVENTS`] events, and returns their JSON.
    async fn fill(&self) -> Vec<String> {
        for round in 0..(EVENTS / ACCOUNTS) as i64 {
            let mut commits = JoinSet::new();
            for account in &self.accounts {
                let (store, commit) = (self.store.clone(), started(account, round));
                commits.spawn(async move { store.commit_poll(commit).await.unwrap() });
            }
            commits.join_all().await;
        }
        let events = self.store.read_events(EventFilter::default(), EVENTS).await.unwrap().events;
        events.into_iter().map(|event| event.json).collect()
    }

    /// Starts all sinks. They are registered together, because a sink that is not registered counts as removed.
    async fn deliver_to_all(&self, sinks: Vec<(String, Sink)>, start: StartPosition) -> Running {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let registration =
            |(name, _): &(String, Sink)| SinkRegistration { name: name.clone(), start, destination: None };
        let registrations = sinks.iter().map(registration).collect();
        let registered = self.store.register_sinks(registrations, clock.now().wall).await.unwrap();
        let context = DispatchContext { store: self.store.clone(), clock, lease: self.store.lease() };
        let drain = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for ((name, sink), registered) in sinks.into_iter().zip(registered) {
            let (dispatcher, _) = Dispatcher::new(
                SinkShare::new(name),
                sink,
                EventFilter::default(),
                &registered,
                context.clone(),
            );
            let run = dispatcher.run(drain.clone(), LONGEST_DRAIN);
            tasks.spawn(async { run.await.unwrap() });
        }
        Running { drain, tasks }
    }

    async fn deliver(&self, name: &str, sink: Sink, start: StartPosition) -> Running {
        self.deliver_to_all(vec![(name.to_owned(), sink)], start).await
    }
}

fn webhook(receiver: &Receiver, in_flight: usize) -> Sink {
    webhook_to(&receiver.url(), in_flight, Duration::from_secs(15))
}

fn webhook_to(url: &str, max_in_flight: usize, timeout: Duration) -> Sink {
    let key = SigningKey::parse(&"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()).unwrap();
    let options = WebhookOptions {
        url: url.parse().unwrap(),
        keys: vec![key].into(),
        headers: Vec::new(),
        ca_file: None,
        timeout,
        max_in_flight,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    Sink::Webhook(Box::new(WebhookSink::build(options, clock).unwrap()))
}

fn started(stored: &StoredAccount, round: i64) -> PollCommit {
    let createtime = 1_795_000_000 + round;
    let at = Timestamp::from_second(createtime + 5).unwrap();
    let openid = format!("oDF3iY9P32sK_5GgYi{:010}", stored.id.0);
    let change = Change::SessionStarted {
        session: OwnedSession { openid: openid.into(), createtime },
        observed_at: at,
        baseline: false,
        transferred_from: None,
    };
    let last_seen = LastSeen {
        baseline_taken: true,
        keyless: false,
        listed_sent_at: Some(at.into()),
        last_success_at: Some(at.into()),
    };
    let record = AccountRecord { state: AccountState::Ok, conclusion: Some(Conclusion::Ok), last_seen };
    PollCommit { id: stored.id, account: stored.account.clone(), changes: vec![change], record }
}
