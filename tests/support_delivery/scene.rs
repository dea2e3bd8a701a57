//! What tests of delivery have in common, whatever they deliver to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use kfwatch::simulator::{Control, CustomerFlow, Scenario, Spread};
use serde_json::Value;

use crate::support_ops::{Ended, Home, Process, WeChat, appid, quiet};

/// A home whose daemon polls every second and collects nothing else.
pub(crate) fn home(wechat: &WeChat, sinks: &str) -> Home {
    let home = Home::new().without_collectors();
    configure(&home, wechat, sinks);
    home
}

pub(crate) fn configure(home: &Home, wechat: &WeChat, sinks: &str) {
    let poll = "[poll]\nschedule = \"* * * * * *\"\n[web]\nlisten = \"127.0.0.1:0\"";
    home.write("config.toml", &format!("{}\n{poll}\n{sinks}", wechat.configuration()));
}

pub(crate) fn open(control: &Control, kf_account: &str, openid: &str) {
    control.open_session(&appid(0), kf_account, openid, None).unwrap();
}

pub(crate) fn terminate(daemon: Process) -> Ended {
    daemon.signal("TERM");
    let ended = daemon.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended
}

pub(crate) fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// The number in a variable of the environment, or enough for every run.
pub(crate) fn rounds(variable: &str, enough: usize) -> usize {
    #[expect(clippy::disallowed_methods, reason = "how long a test runs is no configuration of the program")]
    let rounds = std::env::var(variable);
    rounds.map_or(enough, |rounds| rounds.parse().unwrap())
}

/// Two official accounts with six kf accounts each, and customers who come and go all the time.
pub(crate) fn lively() -> Scenario {
    let spread = |mean, min, max| Spread {
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

/// The event log, a line of JSON each.
pub(crate) fn event_log(home: &Home) -> Vec<String> {
    let printed = home.run("events --format json");
    assert_eq!(printed.code, Some(0), "{printed:?}");
    printed.stdout.lines().map(str::to_owned).collect()
}

/// Every event of the log came with the bytes that it has there, nothing else came, and of each kf account the first
/// deliveries came in order. What was received are ids and bodies; says how many of them came again.
pub(crate) fn assert_delivered<'a>(
    received: impl Iterator<Item = (&'a str, &'a str)>,
    log: &[String],
) -> usize {
    let number: HashMap<String, usize> = log.iter().enumerate().map(|(n, line)| (id_of(line), n)).collect();
    assert_eq!(number.len(), log.len(), "ids are unique");
    let mut first: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut again = 0;
    for (id, body) in received {
        assert!(number.contains_key(id), "not in the log: {id} {body}");
        let n = number[id];
        assert_eq!(body, log[n], "the same bytes each time, those of the log");
        if seen.insert(n) {
            first.entry(account_of(body)).or_default().push(n);
        } else {
            again += 1;
        }
    }
    assert_eq!(seen.len(), log.len(), "every event came");
    for (account, numbers) in &first {
        assert!(numbers.is_sorted(), "{account:?}: {numbers:?}");
    }
    again
}

fn id_of(line: &str) -> String {
    let event: Value = serde_json::from_str(line).unwrap();
    event["id"].as_str().unwrap().to_owned()
}

/// Official account and kf account.
pub(crate) fn account_of(event: &str) -> (String, String) {
    let event: Value = serde_json::from_str(event).unwrap();
    let text = |key: &str| event["data"][key].as_str().unwrap().to_owned();
    (text("official_account"), text("kf_account"))
}
