//! Whole sweeps of many accounts by the real binary: each sweep polls every account once, and every event is true, while
//! /metrics is scraped.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "clippy knows tests by their attribute, not their helpers"
)]

#[expect(dead_code, reason = "not every test needs every helper")]
#[path = "it/support"]
mod support {
    pub(crate) mod events;
    pub(crate) mod history;
    pub(crate) mod process;
    pub(crate) mod replay;
    pub(crate) mod site;
    pub(crate) mod size;
    pub(crate) mod wait;
}

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use kfwatch::simulator::{ApiCall, Ledger, Scenario, Simulator};

use crate::support::{
    history::{self, History, Life},
    process::Process,
    replay,
    site::{CLIENT_TIMEOUT_MS, Site, Tokens},
    size::size_from,
    wait::{eventually, wall_ms},
};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Number of official accounts that share the kf accounts equally.
const OFFICIAL_ACCOUNTS: usize = 20;

const SESSIONS: u32 = 3;

/// Share of sessions replaced every minute: some accounts change in each sweep, most do not.
const CHURN: f64 = 0.5;

/// Sweeps after the one that takes the baselines.
const SWEEPS: u64 = 2;

/// Time between two ticks, long enough that a sweep ends well before the next one begins.
const PERIOD: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sweeps_poll_every_account_once_while_scraped() {
    let accounts = size_from("KFWATCH_SWEEP_ACCOUNTS", 1_000);
    let kf_accounts = accounts / OFFICIAL_ACCOUNTS;
    let scenario =
        Scenario { ledger: true, ..Scenario::load(OFFICIAL_ACCOUNTS, kf_accounts, SESSIONS, CHURN) };
    let simulator = Simulator::start(scenario.clone(), LOOPBACK).await.unwrap();
    let control = simulator.control();
    let watched: Vec<_> = scenario.accounts().into_iter().map(|account| (account, Tokens::Stable)).collect();
    let site = Site::new();
    site.configure(&simulator, &watched);
    let config = std::fs::read_to_string(site.config()).unwrap();
    let schedule = format!("schedule = \"*/{} * * * * *\"", PERIOD.as_secs());
    std::fs::write(site.config(), config.replace("schedule = \"* * * * * *\"", &schedule)).unwrap();

    let from_ms = wall_ms();
    let daemon = Process::start_ready(&site.config());
    let finished = eventually("the sweeps are done", || {
        let swept = daemon.metric("kfwatch_sweeps_total").unwrap();
        (swept > SWEEPS as f64).then_some(swept)
    });
    assert_eq!(finished, SWEEPS as f64 + 1.0);
    assert_eq!(daemon.metric("kfwatch_schedule_missed_ticks_total"), Some(0.0));
    daemon.terminate();

    let lives = [Life { from_ms, to_ms: wall_ms(), killed: false, client_timeout_ms: CLIENT_TIMEOUT_MS }];
    let ledger = history::whole_ledger(&control);
    assert_each_sweep_polled_all_once(&ledger, kf_accounts * OFFICIAL_ACCOUNTS);
    assert_eq!(control.requests(ApiCall::GetSessionList), ledger.polls.len() as u64);
    assert_eq!(control.max_in_flight_of_any_kf_account(), 1);
    let tally = replay::compare_all(&History::all(&watched, &ledger, &lives), &site.event_log());
    println!("sweep: {accounts} accounts, {} sessions, {tally:?}", ledger.sessions.len());
    assert!(tally.baseline > accounts && tally.started > tally.baseline && tally.ended > 0, "{tally:?}");
}

/// Asserts that each sweep polled every account exactly once: every account has its nth poll before any has its next one.
fn assert_each_sweep_polled_all_once(ledger: &Ledger, accounts: usize) {
    let mut times = HashMap::<_, Vec<i64>>::new();
    for poll in &ledger.polls {
        times.entry((&*poll.appid, &*poll.kf_account)).or_default().push(poll.received_at_ms);
    }
    assert_eq!(times.len(), accounts, "an account was missed");
    times.values_mut().for_each(|polls| polls.sort_unstable());
    for ((appid, kf_account), polls) in &times {
        assert_eq!(polls.len() as u64, SWEEPS + 1, "{kf_account} of {appid}: {polls:?}");
    }
    for sweep in 1..times.values().next().map_or(0, Vec::len) {
        let last_before = times.values().map(|polls| polls[sweep - 1]).max();
        let first = times.values().map(|polls| polls[sweep]).min();
        assert!(last_before < first, "an account was polled twice in sweep {sweep}, and another not at all");
    }
}
