//! A process loses its accounts and gets them back while it runs: nothing is lost, repeated or invented, and meanwhile it calls nobody.

use std::{
    os::unix::fs::PermissionsExt,
    sync::Arc,
    time::{Duration, Instant},
};

use kfwatch::{
    app::{App, Ownership, clock::SystemClock},
    config::{Config, Environment},
    domain::plan::Activity,
    reload::{ReloadMode, ReloadRequests, ReloadTrigger},
    schedule::ticker::ManualTicks,
    simulator::{ApiCall, CustomerFlow, Fault, FaultRule, RandomDuration, Scenario},
    store::Store,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::support::{
    delivery::{file, webhook},
    events::Event,
    history::{self, History, Life},
    process::{WeChat, appid, get, metric, quiet, secret},
    receiver::Receiver,
    replay,
    site::Tokens,
    wait::{eventually, wall_ms},
};

/// A daemon in this process.
struct Daemon {
    runtime: Runtime,
    ownership: Ownership,
    reloads: ReloadRequests,
    ticks: ManualTicks,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    directory: TempDir,
}

impl Daemon {
    fn start(wechat: &WeChat, more: &str) -> Self {
        Self::start_with(wechat, "kf_list = \"off\"", more, |text| text)
    }

    /// Starts with a changed configuration.
    fn start_with(wechat: &WeChat, kf_list: &str, sinks: &str, change: impl Fn(String) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // A token that is fetched is not fetched again for ten seconds, also by the next run.
        let tokens = (0..2).fold(wechat.configuration(), |text, index| {
            let fetched = format!("source = \"stable\"\nsecret = \"{}\"", secret(index));
            if !text.contains(&fetched) {
                return text;
            }
            let token = wechat.control().fetch_competing_token(&appid(index)).unwrap();
            let path = directory.path().join(format!("{index}.token"));
            std::fs::write(&path, token).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            text.replace(&fetched, &format!("source = \"file\"\npath = {path:?}"))
        });
        let text = format!(
            "shutdown_timeout = \"60s\"\n{}\n[poll]\nschedule = \"0 0 0 29 2 *\"\n[web]\nlisten = \"127.0.0.1:0\"\n\
             [collectors]\n{kf_list}\nonline = \"off\"\nwaiting = \"off\"\nquota = \"off\"\n{sinks}",
            tokens
        );
        let config =
            Config::from_toml(&change(text), directory.path(), &Environment::default()).unwrap().config;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let app = runtime.block_on(App::build(config, Arc::new(SystemClock::default()))).unwrap();
        let (ownership, reloads) = (app.ownership(), app.reload_requests());
        let (ticks, address) = (app.manual_ticks(), app.addresses()[0]);
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let running = runtime.spawn(async move { app.run(stopped).await.unwrap() });
        Self { runtime, ownership, reloads, ticks, address, stop, running, directory }
    }

    fn release(&self) {
        self.runtime.block_on(self.ownership.release());
    }

    fn acquire(&self) {
        self.runtime.block_on(self.ownership.acquire());
    }

    fn set_activity(&self, activity: Activity) {
        self.runtime.block_on(self.ownership.set_activity(activity));
    }

    fn page(&self) -> String {
        get(self.address, "/metrics", "").text()
    }

    /// Ends it, and returns the directory of its store.
    fn end(self) -> TempDir {
        self.stop.cancel();
        self.runtime.block_on(self.running).unwrap();
        self.directory
    }
}

fn sinks(receiver: &Receiver) -> String {
    webhook("crm", &receiver.url("kf"), "")
}

fn log_of(directory: &TempDir) -> Vec<Event> {
    let store = rusqlite::Connection::open(directory.path().join("kfwatch.db")).unwrap();
    let mut statement = store.prepare("SELECT json FROM events ORDER BY id").unwrap();
    let events = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    events.map(|json| Event::parse(&json.unwrap())).collect()
}

/// Every event is confirmed, in the order of its kf account; returns how many were confirmed more than once.
fn assert_delivered(log: &[Event], receiver: &Receiver) -> usize {
    let confirmed: Vec<String> = receiver
        .received()
        .iter()
        .filter(|delivery| delivery.confirmed)
        .map(|delivery| delivery.id().to_owned())
        .collect();
    let mut first = Vec::new();
    for id in &confirmed {
        if !first.contains(id) {
            first.push(id.clone());
        }
    }
    for kf_account in log.iter().map(Event::account).collect::<std::collections::BTreeSet<_>>() {
        let logged: Vec<&str> =
            log.iter().filter(|event| event.account() == kf_account).map(Event::id).collect();
        let received: Vec<&str> = first.iter().map(String::as_str).filter(|id| logged.contains(id)).collect();
        assert_eq!(received, logged, "{kf_account:?}");
    }
    assert_eq!(first.len(), log.len(), "nothing invented");
    confirmed.len() - first.len()
}

#[test]
fn run_that_stops_and_starts_a_hundred_times_loses_and_repeats_nothing() {
    const ROUNDS: usize = 100;
    let spread = |mean| RandomDuration {
        mean: Duration::from_millis(mean),
        min: Duration::from_millis(20),
        max: Duration::from_millis(10 * mean),
    };
    let customers = CustomerFlow {
        initial: 2,
        gap: Some(spread(100)),
        wait: spread(100),
        stay: Some(spread(400)),
        returning: 0.4,
    };
    let slow =
        FaultRule { probability: Some(0.05), ..FaultRule::new(Fault::Slow(Duration::from_millis(50))) };
    let scenario = Scenario { customers, faults: vec![slow], ..quiet(&[("north", 8), ("south", 8)]) };
    let accounts: Vec<_> = scenario.accounts().into_iter().map(|account| (account, Tokens::File)).collect();
    let wechat = WeChat::play(scenario);
    let control = wechat.control();
    let receiver = Receiver::start();
    let first_ms = wall_ms();
    let daemon = Daemon::start(&wechat, &sinks(&receiver));
    let polls = || control.requests(ApiCall::GetSessionList);
    let (mut lives, mut from_ms) = (Vec::new(), first_ms);
    for round in 0..ROUNDS {
        let before = polls();
        // Every second run ends in the middle of its first polls.
        eventually("polls", || {
            daemon.ticks.tick();
            (polls() > before + [0, 40][round % 2]).then_some(())
        });
        daemon.release();
        daemon.ticks.tick();
        lives.push(Life { from_ms, to_ms: wall_ms(), killed: false, client_timeout_ms: 10_000 });
        let released = (polls(), receiver.received().len());
        let page = daemon.page();
        assert!(!page.contains("kf1@north") && !page.contains("sink=\"crm\""), "nothing is exported");
        assert_eq!((polls(), receiver.received().len()), released, "round {round}: nobody is called");
        from_ms = wall_ms();
        daemon.acquire();
    }
    let before = polls();
    eventually("polls", || {
        daemon.ticks.tick();
        (polls() > before + 40).then_some(())
    });
    let directory = daemon.end();
    lives.push(Life { from_ms, to_ms: wall_ms(), killed: false, client_timeout_ms: 10_000 });
    let log = log_of(&directory);
    let ledger = history::whole_ledger(&control);
    let tally = replay::compare_all(&History::all(&accounts, &ledger, &lives), &log);
    let repeats = assert_delivered(&log, &receiver);
    println!(
        "ownership: {ROUNDS} runs, {} polls, {} events, {tally:?}, {repeats} repeats",
        ledger.polls.len(),
        log.len()
    );
    assert_eq!(repeats, 0, "each sink finishes its attempts");
    let states = log.iter().filter(|event| event.text("/type") == "kf.account.state_changed").count();
    assert_eq!(states, 0, "nothing becomes unwatched");
}

#[test]
fn paused_daemon_calls_nobody_and_keeps_what_it_knows() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let control = wechat.control();
    let open = |openid: &str| control.open_session(&appid(0), "kf1@shop", openid, None).unwrap();
    let receiver = Receiver::start();
    let daemon = Daemon::start(&wechat, &sinks(&receiver));
    let polls = || control.requests(ApiCall::GetSessionList);
    open("oBefore");
    daemon.ticks.tick();
    eventually("a delivery", || (receiver.confirmed() == 1).then_some(()));
    eventually("both polls", || (polls() == 2).then_some(()));
    daemon.set_activity(Activity::Paused);
    open("oMeanwhile");
    let overdue = "kfwatch_poll_overdue{official_account=\"shop\",kf_account=\"kf1@shop\"}";
    eventually("ticks pass", || {
        daemon.ticks.tick();
        metric(&daemon.page(), overdue).filter(|overdue| *overdue == 1.0)
    });
    let sessions = "wechat_kf_active_sessions{official_account=\"shop\",kf_account=\"kf1@shop\"}";
    assert_eq!(metric(&daemon.page(), sessions), Some(1.0), "what it knows");
    assert_eq!((polls(), receiver.received().len()), (2, 1), "nobody is called");
    daemon.set_activity(Activity::Active);
    daemon.ticks.tick();
    eventually("the rest", || (receiver.confirmed() == 2).then_some(()));
    let directory = daemon.end();
    let log = log_of(&directory);
    assert_eq!(
        log.iter().map(|event| event.text("/data/openid")).collect::<Vec<_>>(),
        ["oBefore", "oMeanwhile"]
    );
    assert_eq!(assert_delivered(&log, &receiver), 0);
}

#[test]
fn kf_accounts_that_were_found_by_a_pattern_outlast_the_run() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let receiver = Receiver::start();
    let named = "kf_accounts = [\"kf1@shop\", \"kf2@shop\"]";
    let daemon = Daemon::start_with(&wechat, "kf_list = \"1h\"", &sinks(&receiver), |text| {
        assert!(text.contains(named), "{text}");
        text.replace(named, "kf_accounts = [\"*\"]")
    });
    let is_watched = || daemon.page().contains("kf_account=\"kf2@shop\"");
    eventually("the list", || is_watched().then_some(()));
    for _ in 0..3 {
        daemon.release();
        daemon.acquire();
        assert!(is_watched(), "it is watched at once");
    }
    let directory = daemon.end();
    assert_eq!(log_of(&directory).len(), 0, "none became unwatched");
}

#[test]
fn run_with_many_sinks_stops_at_once_and_its_start_is_tried_until_it_succeeds() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let sinks: String = (0..32).map(|n| file(&format!("sink{n}"), &format!("events{n}.jsonl"))).collect();
    let daemon = Daemon::start(&wechat, &sinks);
    let polls = || wechat.control().requests(ApiCall::GetSessionList);
    let polled_again = || {
        let before = polls();
        eventually("a poll", || {
            daemon.ticks.tick();
            (polls() > before).then_some(())
        });
    };
    polled_again();
    let begun = Instant::now();
    daemon.release();
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "no sink waited for its share of shutdown_timeout: {:?}",
        begun.elapsed()
    );
    let other_process = Store::open(&daemon.directory.path().join("kfwatch.db")).unwrap();
    daemon.acquire();
    assert!(!daemon.page().contains("kf1@shop"), "the store is in use");
    // Nothing that is asked in between makes it forget.
    let outcome = daemon.runtime.block_on(daemon.reloads.outcome(ReloadMode::Apply, ReloadTrigger::Command));
    assert!(outcome.unwrap().is_err(), "there is no file to reload");
    daemon.runtime.block_on(other_process.close());
    drop(other_process);
    polled_again();
    daemon.end();
}
