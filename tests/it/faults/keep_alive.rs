//! Connections that the other side closes while a request is sent on them. The request is repeated at once where that is harmless,
//! and nothing counts as a failure.

use std::time::Duration;

use crate::support::{
    delivery::{eventually_delivered, eventually_logged, home, open, sink_metric, webhook},
    process::{Ended, Home, Process, WeChat, quiet},
    receiver::{Answer, Receiver},
    wait::eventually,
};
use kfwatch::simulator::{ApiCall, Fault, FaultRule};

fn daemon_with(receiver: &Receiver, wechat: &WeChat) -> (Home, Process) {
    let home = home(wechat, &webhook("crm", &receiver.url("kf"), ""));
    let daemon = home.daemon();
    (home, daemon)
}

fn assert_no_failure(daemon: &Process, receiver: &Receiver, events: usize) {
    eventually_delivered(daemon, "crm");
    let log = daemon.stderr();
    assert_eq!(sink_metric(daemon, "crm", "delivery_failures_total"), 0.0, "{log}");
    assert!(!log.contains("ERROR") && !log.contains("Delivery failed"), "{log}");
    assert_eq!(receiver.confirmed(), events, "{:?}", receiver.received());
}

/// Events of one kf account are delivered one after the other, without a pause.
fn assert_burst_is_delivered(answer: fn(reused_connection: bool) -> Answer) {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    (0..20).for_each(|n| open(&wechat.control(), "kf1@shop", &format!("o{n}")));
    let receiver = Receiver::start();
    receiver.answer(move |delivery| answer(delivery.reused_connection));
    let (_home, daemon) = daemon_with(&receiver, &wechat);
    eventually("the deliveries", || (receiver.confirmed() >= 20).then_some(()));
    assert_no_failure(&daemon, &receiver, 20);
}

#[test]
fn webhook_that_hangs_up_at_second_request_gets_each_event() {
    assert_burst_is_delivered(|reused| if reused { Answer::HangUp } else { Answer::status(204) });
}

#[test]
fn webhook_that_closes_after_each_answer_gets_each_event() {
    assert_burst_is_delivered(|_| Answer::Last);
}

#[test]
fn webhook_that_closes_idle_connections_after_a_second_gets_each_event() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let receiver = Receiver::start();
    receiver.close_idle_after(Duration::from_secs(1));
    let (_home, daemon) = daemon_with(&receiver, &wechat);
    // Polls, and so deliveries, are a second apart.
    for n in 0..6 {
        open(&wechat.control(), "kf1@shop", &format!("o{n}"));
        eventually("the delivery", || (receiver.confirmed() > n).then_some(()));
    }
    assert_no_failure(&daemon, &receiver, 6);
}

#[test]
fn webhook_that_always_hangs_up_is_sent_each_attempt_twice() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    open(&wechat.control(), "kf1@shop", "o1");
    let receiver = Receiver::start();
    receiver.answer(|_| Answer::HangUp);
    let (_home, daemon) = daemon_with(&receiver, &wechat);
    let failures = eventually("failures", || {
        Some(sink_metric(&daemon, "crm", "delivery_failures_total")).filter(|n| *n >= 2.0)
    });
    let received = receiver.received();
    assert!(received.len() as f64 >= 2.0 * failures, "{failures} failures, {received:?}");
    assert!(received.iter().all(|delivery| delivery.id() == received[0].id()), "{received:?}");
    eventually_logged(&daemon, "ERROR Delivery failed and will be retried");
}

/// Polls once while the first request to this endpoint breaks.
fn poll_with_broken(call: ApiCall, source: &str) -> (Ended, u64) {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = Home::new();
    home.write("config.toml", &wechat.configuration().replace("source = \"stable\"", source));
    let rule = FaultRule { endpoint: Some(call), times: Some(1), ..FaultRule::new(Fault::Close) };
    wechat.control().inject(rule);
    (home.run("poll"), wechat.control().requests(call))
}

#[test]
fn broken_request_is_repeated_where_that_costs_nothing() {
    for call in [ApiCall::StableToken, ApiCall::GetSessionList] {
        let (ended, requests) = poll_with_broken(call, "source = \"stable\"");
        assert_eq!((ended.code, requests), (Some(0), 2), "{ended:?}");
    }
    // Each request for a classic token makes the one before invalid.
    let (ended, requests) = poll_with_broken(ApiCall::Token, "source = \"classic\"");
    assert_eq!((ended.code, requests), (Some(1), 1), "{ended:?}");
}
