//! What delivery tests share for every type of sink: a busy WeChat, a daemon that polls it every second, and sinks.

use std::time::Duration;

use kfwatch::simulator::{
    ApiCall, CustomerFlow, Fault, FaultRule, RandomDuration, Scenario, SimulatorControl,
};

use crate::support::{
    process::{Home, Process, WeChat, appid, quiet, secret},
    receiver::KEYS,
    size::size_from,
    wait::eventually,
};

/// A home whose daemon polls every second and runs no collectors. `more` is appended to its configuration.
pub(crate) fn home(wechat: &WeChat, more: &str) -> Home {
    let home = Home::new().without_collectors();
    configure(&home, wechat, more);
    home
}

pub(crate) fn configure(home: &Home, wechat: &WeChat, more: &str) {
    let poll = "[poll]\nschedule = \"* * * * * *\"\n[web]\nlisten = \"127.0.0.1:0\"";
    home.write("config.toml", &format!("{}\n{poll}\n{more}", with_tokens_in_files(home, wechat)));
}

/// Replaces fetched tokens by files: after one daemon fetches a token, the next daemon may not fetch it again for ten
/// seconds.
fn with_tokens_in_files(home: &Home, wechat: &WeChat) -> String {
    let mut text = wechat.configuration();
    for index in 0..2 {
        let fetched = format!("source = \"stable\"\nsecret = \"{}\"", secret(index));
        if !text.contains(&fetched) {
            continue;
        }
        let file = format!("{}.token", appid(index));
        if !home.path(&file).exists() {
            home.write(&file, &wechat.control().fetch_competing_token(&appid(index)).unwrap());
        }
        text = text.replace(&fetched, &format!("source = \"file\"\npath = \"{file}\""));
    }
    assert!(!text.contains("stable"), "{text}");
    text
}

/// Opens a session with a kf account of the first official account.
pub(crate) fn open(control: &SimulatorControl, kf_account: &str, openid: &str) {
    control.open_session(&appid(0), kf_account, openid, None).unwrap();
}

/// Appends `copies` copies of the newest event, each with its own id. The store's daemon must not be running.
pub(crate) fn copy_newest_event(store: &rusqlite::Connection, copies: usize) {
    store
        .execute(
            "INSERT INTO events (account, sequence, type, createtime, session_id, observed_at, json)
             WITH RECURSIVE copies(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < ?1)
             SELECT account, sequence + n, type, createtime, randomblob(16), observed_at + n,
                    replace(json, '\"id\":\"', '\"id\":\"' || printf('%08d', n))
             FROM copies, (SELECT * FROM events ORDER BY id DESC LIMIT 1)",
            [copies as i64],
        )
        .unwrap();
    store
        .execute_batch(
            "UPDATE accounts SET sequence = (SELECT max(sequence) FROM events WHERE account = accounts.id)
             WHERE id IN (SELECT account FROM events)",
        )
        .unwrap();
}

/// A signed webhook sink. `more` has further keys.
pub(crate) fn webhook(name: &str, url: &str, more: &str) -> String {
    format!(
        "[[sinks]]\nname = \"{name}\"\ntype = \"webhook\"\nurl = \"{url}\"\nsecret = \"{}\"\n{more}\n",
        KEYS[0]
    )
}

/// A file sink.
pub(crate) fn file(name: &str, path: &str) -> String {
    format!("[[sinks]]\nname = \"{name}\"\ntype = \"jsonl\"\npath = \"{path}\"\n")
}

/// Two official accounts with six kf accounts each, whose customers come and go all the time.
pub(crate) fn lively() -> Scenario {
    let spread = |mean, min, max| RandomDuration {
        mean: Duration::from_millis(mean),
        min: Duration::from_millis(min),
        max: Duration::from_millis(max),
    };
    Scenario {
        seed: 5,
        customers: CustomerFlow {
            initial: 2,
            gap: Some(spread(300, 50, 3_000)),
            wait: spread(300, 0, 2_000),
            stay: Some(spread(2_000, 500, 5_000)),
            returning: 0.4,
        },
        ..quiet(&[("north", 6), ("south", 6)])
    }
}

/// Returns a value of a sink, from the first page that has it: while the store is busy, pages leave out what it would tell.
pub(crate) fn sink_metric(daemon: &Process, sink: &str, name: &str) -> f64 {
    let series = format!("kfwatch_sink_{name}{{sink=\"{sink}\"}}");
    eventually(&series, || daemon.metric(&series))
}

pub(crate) fn eventually_delivered(daemon: &Process, sink: &str) {
    eventually("nothing pending", || (sink_metric(daemon, sink, "pending_events") <= 0.0).then_some(()));
}

pub(crate) fn eventually_logged(daemon: &Process, text: &str) {
    eventually(text, || daemon.stderr().contains(text).then_some(()));
}

/// Waits for a line with this text, and asserts that it is the only one. The log may be later than what it is about: it has a thread
/// of its own.
pub(crate) fn eventually_logged_once(daemon: &Process, text: &str) {
    eventually_logged(daemon, text);
    let log = daemon.stderr();
    assert_eq!(times_logged(&log, text), 1, "{log}");
}

pub(crate) fn times_logged(log: &str, text: &str) -> usize {
    log.matches(text).count()
}

/// Waits until every kf account has been polled.
pub(crate) fn eventually_polls(wechat: &WeChat) {
    let control = wechat.control();
    let polls = || control.requests(ApiCall::GetSessionList);
    let enough = polls() + 12;
    eventually("polls", || (polls() >= enough).then_some(()));
}

/// Waits until every kf account has been polled, then makes all later polls fail, so that no new events are added to
/// the log.
pub(crate) fn stop_new_events(wechat: &WeChat, daemon: &Process) {
    (0..3).for_each(|_| eventually_polls(wechat));
    wechat.control().inject(FaultRule::new(Fault::Errcode(-1)));
    let failures = "kfwatch_poll_failures_total{official_account=\"north\",kf_account=\"kf1@north\"}";
    eventually("polls fail", || daemon.metric(failures).filter(|failures| *failures >= 2.0));
}

pub(crate) fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Returns `KFWATCH_DELIVERY_ROUNDS`, or `enough` if it is not set.
pub(crate) fn rounds(enough: usize) -> usize {
    size_from("KFWATCH_DELIVERY_ROUNDS", enough)
}
