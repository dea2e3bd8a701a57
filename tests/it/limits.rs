//! The rate limit of an official account: calls stay within it, all kf accounts are polled equally often, and other official
//! accounts are not affected.

use std::time::Duration;

use crate::support::{
    process::{Home, Process, WeChat, appid, quiet},
    wait::eventually,
};
use kfwatch::simulator::{ApiCall, Fault, FaultRule, SimulatorControl};

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
