//! What the owner of a receiver relies on: every event is delivered, in order and signed, until the receiver rejects
//! it. `delivery_faults.rs` tests the same under faults and kill -9.

use std::{
    collections::{BTreeMap, HashSet},
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::{
    delivery::{self, configure, copy_newest_event, eventually_logged, file, home, open},
    process::{Process, WeChat, appid, quiet},
    receiver::{Answer, Delivery, KEYS, Receiver},
    wait::eventually,
};
use serde_json::Value;

/// The sink "crm" with a signing key. `more` has further keys.
fn crm(url: &str, more: &str) -> String {
    delivery::webhook("crm", url, more)
}

fn of_crm(daemon: &Process, name: &str) -> Option<f64> {
    daemon.metric(&format!("kfwatch_sink_{name}{{sink=\"crm\"}}"))
}

fn eventually_delivered(daemon: &Process) {
    delivery::eventually_delivered(daemon, "crm");
}

/// Waits until kfwatch has delivered this number of events, and none are pending.
fn eventually_delivered_after(daemon: &Process, events: usize) {
    eventually("the deliveries", || {
        of_crm(daemon, "delivered_events_total").filter(|delivered| *delivered >= events as f64)
    });
    eventually_delivered(daemon);
}

/// Waits until the receiver has confirmed this number of events.
fn eventually_confirmed(receiver: &Receiver, events: usize) {
    eventually("the deliveries", || (receiver.confirmed() >= events).then_some(()));
}

#[test]
fn status_410_stops_sink_until_url_changes() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let receiver = Receiver::start();
    receiver.answer(|_| Answer::status(410));
    let home = home(&wechat, &crm(&receiver.url("old"), ""));
    let daemon = home.daemon();
    assert_eq!(of_crm(&daemon, "stopped"), Some(0.0));
    open(&wechat.control(), "kf1@shop", "oA");
    eventually("the stop", || of_crm(&daemon, "stopped").filter(|stopped| *stopped >= 1.0));
    eventually_logged(&daemon, "ERROR Sink stopped: the receiver answers 410 Gone");
    open(&wechat.control(), "kf2@shop", "oB");
    eventually("another event", || of_crm(&daemon, "pending_events").filter(|pending| *pending >= 2.0));
    daemon.terminate();

    let daemon = home.daemon();
    assert_eq!(of_crm(&daemon, "stopped"), Some(1.0), "the stop survives a restart");
    eventually_logged(&daemon, "ERROR Sink is still stopped: the receiver answers 410 Gone");
    open(&wechat.control(), "kf2@shop", "oC");
    eventually("one event more", || of_crm(&daemon, "pending_events").filter(|pending| *pending >= 3.0));
    daemon.terminate();
    assert_eq!(receiver.received().len(), 1);

    receiver.answer(|_| Answer::status(204));
    configure(&home, &wechat, &crm(&receiver.url("new"), ""));
    let daemon = home.daemon();
    eventually_delivered(&daemon);
    assert_eq!(of_crm(&daemon, "stopped"), Some(0.0));
    assert_eq!(receiver.confirmed(), 3);
}

#[test]
fn refused_event_becomes_dead_letter_after_five_attempts() {
    let wechat = WeChat::play(quiet(&[("shop", 4)]));
    let receiver = Receiver::start();
    receiver.answer(|delivery| {
        let openid = delivery.json()["data"]["openid"].as_str().unwrap().to_owned();
        match openid.strip_prefix("oRefused") {
            Some(status) => Answer::Status(status.parse().unwrap(), String::new(), format!("no {openid}")),
            None => Answer::status(204),
        }
    });
    let statuses = [(1, 400), (2, 413), (3, 422)];
    for (kf_account, status) in statuses {
        open(&wechat.control(), &format!("kf{kf_account}@shop"), &format!("oRefused{status}"));
    }
    let home = home(&wechat, &crm(&receiver.url("kf"), ""));
    let daemon = home.daemon();
    eventually("the first refusals", || (receiver.received().len() >= 3).then_some(()));
    for kf_account in 1..=4 {
        open(&wechat.control(), &format!("kf{kf_account}@shop"), "oNext");
    }
    eventually_confirmed(&receiver, 1);
    let confirmed: Vec<_> = receiver.received().into_iter().filter(|delivery| delivery.confirmed).collect();
    assert_eq!(
        confirmed[0].account().1,
        "kf4@shop",
        "later events wait for earlier ones of their kf account"
    );
    assert_eq!(of_crm(&daemon, "dead_letters"), Some(0.0));
    eventually("the dead letters", || of_crm(&daemon, "dead_letters").filter(|letters| *letters >= 3.0));
    eventually_delivered(&daemon);
    let mut attempts = BTreeMap::<String, usize>::new();
    for delivery in receiver.received() {
        *attempts.entry(delivery.json()["data"]["openid"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let expected = [("oNext", 4), ("oRefused400", 5), ("oRefused413", 5), ("oRefused422", 5)];
    assert_eq!(attempts, expected.map(|(openid, attempts)| (openid.to_owned(), attempts)).into());
    let log = daemon.terminate().stderr;
    for (_, status) in statuses {
        assert!(log.contains(&format!("stored as a dead letter: the receiver answers {status}")), "{log}");
    }
    assert!(!log.contains("oRefused"), "the answer repeats personal data, and is not logged: {log}");
    let daemon = home.daemon();
    assert_eq!(of_crm(&daemon, "dead_letters"), Some(3.0), "they are kept");
}

#[test]
fn refused_event_delays_only_its_kf_account() {
    const WAITING: usize = 2_000;
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let mut receiver = Receiver::start();
    receiver.kill();
    open(&wechat.control(), "kf1@shop", "oA");
    let home = home(&wechat, &crm(&receiver.url("kf"), ""));
    let daemon = home.daemon();
    eventually("the event", || of_crm(&daemon, "pending_events").filter(|pending| *pending >= 1.0));
    daemon.terminate();
    copy_newest_event(&rusqlite::Connection::open(home.path("kfwatch.db")).unwrap(), WAITING);

    let is_refused = |delivery: &Delivery| delivery.account().1 == "kf1@shop";
    receiver.answer(move |delivery| Answer::status(if is_refused(delivery) { 422 } else { 204 }));
    receiver.restart();
    let daemon = home.daemon();
    for n in 1..=3 {
        open(&wechat.control(), "kf2@shop", &format!("o{n}"));
        eventually_confirmed(&receiver, n);
    }
    let given_up = of_crm(&daemon, "dead_letters").unwrap();
    assert!(given_up < 10.0, "too many events became dead letters: {given_up}");
    assert!(of_crm(&daemon, "pending_events").unwrap() > WAITING as f64 - given_up, "the cursor waits");

    receiver.answer(|_| Answer::status(204));
    eventually_confirmed(&receiver, WAITING / 2);
    drop(daemon); // kill -9
    let daemon = home.daemon();
    eventually_delivered(&daemon);
    assert_eq!(home.run("events dead --sink crm --retry").code, Some(0));
    eventually("the retried dead letters", || {
        of_crm(&daemon, "dead_letters").filter(|letters| *letters <= 0.0)
    });
    let received: Vec<Delivery> = receiver.received().into_iter().filter(is_refused).collect();
    let mut ids = HashSet::new();
    let first: Vec<String> = received
        .iter()
        .filter(|delivery| ids.insert(delivery.id().to_owned()))
        .map(|delivery| delivery.id().to_owned())
        .collect();
    assert!(first[1..].is_sorted() && first[0].len() < first[1].len(), "{first:?}");
    let confirmed = received.iter().filter(|delivery| delivery.confirmed);
    let confirmed: HashSet<String> = confirmed.map(|delivery| delivery.id().to_owned()).collect();
    assert_eq!(confirmed.len(), WAITING + 1, "each of them was confirmed");
}

#[test]
fn damaged_event_becomes_dead_letter() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let mut receiver = Receiver::start();
    receiver.kill();
    for (kf_account, openid) in [("kf1@shop", "oA"), ("kf1@shop", "oB"), ("kf2@shop", "oC")] {
        open(&wechat.control(), kf_account, openid);
    }
    let home = home(&wechat, &crm(&receiver.url("kf"), ""));
    let daemon = home.daemon();
    eventually("the events", || of_crm(&daemon, "pending_events").filter(|pending| *pending >= 3.0));
    daemon.terminate();
    let store = rusqlite::Connection::open(home.path("kfwatch.db")).unwrap();
    store.execute("UPDATE events SET json = substr(json, 1, 40) WHERE id = 1", ()).unwrap();
    drop(store);
    receiver.restart();
    let daemon = home.daemon();
    eventually_delivered(&daemon);
    assert_eq!((receiver.confirmed(), of_crm(&daemon, "dead_letters")), (2, Some(1.0)));
}

#[test]
fn redirects_are_failures() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let (receiver, elsewhere) = (Receiver::start(), Receiver::start());
    let location = format!("Location: {}\r\n", elsewhere.url("kf"));
    receiver.answer(move |_| Answer::Status(307, location.clone(), String::new()));
    open(&wechat.control(), "kf1@shop", "oA");
    let home = home(&wechat, &crm(&receiver.url("kf"), ""));
    let daemon = home.daemon();
    eventually("the redirect", || {
        of_crm(&daemon, "delivery_failures_total").filter(|failures| *failures >= 2.0)
    });
    eventually_logged(&daemon, "will be retried: the receiver answers 307");
    receiver.answer(|_| Answer::status(200));
    eventually_delivered(&daemon);
    assert_eq!(elsewhere.received().len(), 0);
    eventually_logged(&daemon, "Delivery recovered");
}

#[test]
fn acknowledgement_counts_whatever_its_body() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let receiver = Receiver::start();
    let mut answers = [Answer::Cut, Answer::Stall].into_iter();
    receiver.answer(move |_| answers.next().unwrap_or(Answer::status(204)));
    for openid in ["oA", "oB", "oC"] {
        open(&wechat.control(), "kf1@shop", openid);
    }
    let home = home(&wechat, &crm(&receiver.url("kf"), "timeout = \"10m\""));
    let daemon = home.daemon();
    eventually_delivered_after(&daemon, 3);
    assert_eq!(receiver.received().len(), 3);
    assert_eq!(of_crm(&daemon, "delivery_failures_total"), Some(0.0));
}

#[test]
fn ca_file_without_certificate_is_refused() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = home(&wechat, &crm("https://crm.example/kf", "ca_file = \"ca.pem\""));
    home.write("ca.pem", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n");
    let ended = home.run("run");
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.contains("ca_file of sink \"crm\": "), "{ended:?}");
}

#[test]
fn events_are_signed_with_both_keys_during_rotation() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let receiver = Receiver::start();
    open(&wechat.control(), "kf1@shop", "oA");
    let keys = "secret_file = \"crm.keys\"\nheader_files = [\"auth.header\", \"tenant.header\"]";
    let sink = crm(&receiver.url("kf"), keys).replace(&format!("secret = \"{}\"\n", KEYS[0]), "");
    let home = home(&wechat, &sink);
    home.write("crm.keys", &format!("{}\n{}\n", KEYS[0], KEYS[1]));
    home.write("auth.header", "Authorization: Bearer s3cret\n");
    home.write("tenant.header", "X-Tenant: shop\n");
    let daemon = home.daemon();
    eventually_confirmed(&receiver, 1);
    let delivery = &receiver.received()[0];
    KEYS.iter().for_each(|key| delivery.verify(key));
    assert_eq!(delivery.header("webhook-signature").split(' ').count(), 2);
    assert_eq!(delivery.header("authorization"), "Bearer s3cret");
    assert_eq!(delivery.header("x-tenant"), "shop");
    assert!(delivery.header("user-agent").starts_with("kfwatch/"));
    drop(daemon);
}

#[test]
fn delivery_logs_no_secret_and_no_openid() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let mut receiver = Receiver::start();
    let url = receiver.url("s3cret-path?key=s3cret-query").replace("://", "://s3cret-user:s3cret-word@");
    let home = home(&wechat, &crm(&url, "timeout = \"200ms\"\nheader_files = \"h\""))
        .set("KFWATCH__LOG__LEVEL", "trace");
    home.write("h", "X-Api-Key: s3cret-header\n");
    let mut answers = [
        Answer::Status(500, String::new(), "oSecretive s3cret-header".to_owned()),
        Answer::Status(422, String::new(), "oSecretive".to_owned()),
        Answer::Hang,
        Answer::Reset,
    ]
    .into_iter();
    receiver.answer(move |_| answers.next().unwrap_or(Answer::status(204)));
    receiver.kill();
    open(&wechat.control(), "kf1@shop", "oSecretive");
    let daemon = home.daemon();
    eventually("a refused connection", || {
        of_crm(&daemon, "delivery_failures_total").filter(|failures| *failures >= 1.0)
    });
    receiver.restart();
    eventually_confirmed(&receiver, 1);
    assert!(receiver.received()[0].header("authorization").starts_with("Basic "));
    let log = daemon.terminate().stderr;
    assert!(log.contains("DEBUG Event refused"), "{log}");
    let key = KEYS[0].trim_start_matches("whsec_");
    for secret in ["s3cret", key, "oSecretive", "czNjcmV0"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is logged");
    }
    let printed = home.run("check");
    assert!(!printed.stdout.contains("s3cret") && printed.stdout.contains("crm (http://127."), "{printed:?}");
}

#[test]
fn dead_receiver_delays_neither_polls_nor_other_sinks() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let receiver = Receiver::start();
    receiver.answer(|_| Answer::Hang);
    let file = file("file", "events.jsonl");
    let home = home(&wechat, &format!("{}{file}", crm(&receiver.url("kf"), "timeout = \"2s\"")))
        .set("KFWATCH__SHUTDOWN_TIMEOUT", "1h");
    let daemon = home.daemon();
    for n in 1..=5 {
        open(&wechat.control(), "kf1@shop", &format!("o{n}"));
        let lines =
            || std::fs::read_to_string(home.path("events.jsonl")).map_or(0, |text| text.lines().count());
        eventually("the event in the file", || (lines() >= n).then_some(()));
    }
    assert!(of_crm(&daemon, "pending_events") >= Some(5.0));
    // It exits long before its shutdown_timeout.
    daemon.terminate();
    assert!(receiver.received().iter().all(|delivery| delivery.id() == receiver.received()[0].id()));
}

#[test]
fn attempt_in_flight_is_finished_by_drain() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let receiver = Receiver::start();
    receiver.answer(|_| Answer::Slow(Duration::from_millis(800)));
    let home = home(&wechat, &crm(&receiver.url("kf"), ""));
    let daemon = home.daemon();
    open(&wechat.control(), "kf1@shop", "oA");
    eventually("the request", || (!receiver.received().is_empty()).then_some(()));
    daemon.terminate();
    assert_eq!(receiver.confirmed(), 1);
    let daemon = home.daemon();
    assert_eq!(of_crm(&daemon, "pending_events"), Some(0.0));
    open(&wechat.control(), "kf1@shop", "oB");
    eventually_confirmed(&receiver, 2);
    assert_eq!(receiver.received().len(), 2);
}

#[test]
fn filtered_events_advance_the_cursor() {
    let wechat = WeChat::play(quiet(&[("shop", 1), ("branch", 1)]));
    let receiver = Receiver::start();
    let wants = "types = [\"ended\", \"kf.account.state_changed\"]\nofficial_accounts = [\"branch\"]";
    let home = home(&wechat, &crm(&receiver.url("kf"), wants));
    let control = wechat.control();
    for (index, name) in ["shop", "branch"].iter().enumerate() {
        control.open_session(&appid(index), &format!("kf1@{name}"), "oA", None).unwrap();
    }
    let daemon = home.daemon();
    let started = "kfwatch_events_total{event_type=\"kf.session.started\"}";
    eventually("the starts", || daemon.metric(started).filter(|started| *started >= 2.0));
    for (index, name) in ["shop", "branch"].iter().enumerate() {
        control.close_session(&appid(index), &format!("kf1@{name}"), "oA").unwrap();
    }
    let ended = "kfwatch_events_total{event_type=\"kf.session.ended\"}";
    eventually("the ends", || daemon.metric(ended).filter(|ended| *ended >= 2.0));
    eventually_delivered(&daemon);
    let received = receiver.received();
    let reported: Vec<_> =
        received.iter().map(|delivery| (delivery.json()["type"].clone(), delivery.account().0)).collect();
    assert_eq!(reported, [("kf.session.ended".into(), "branch".to_owned())]);
}

#[test]
fn rust_cloudevents_sdk_reads_posted_events() {
    let (receiver, delivery) = one_delivery();
    let event: cloudevents::Event = serde_json::from_slice(delivery.body.as_bytes()).unwrap();
    check_event(&delivery, |attribute| {
        use cloudevents::AttributesReader;
        match attribute {
            "id" => event.id().to_owned(),
            "type" => event.ty().to_owned(),
            "source" => event.source().to_string(),
            "subject" => event.subject().unwrap().to_owned(),
            "datacontenttype" => event.datacontenttype().unwrap().to_owned(),
            "time" => event.time().unwrap().timestamp_millis().to_string(),
            extension => event.extension(extension).unwrap().to_string(),
        }
    });
    let data: Value = match event.data().unwrap() {
        cloudevents::Data::Json(data) => data.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(data, delivery.json()["data"]);
    drop(receiver);
}

#[test]
#[ignore = "needs the Python package cloudevents; tests/run.sh runs it"]
fn python_cloudevents_sdk_reads_posted_events() {
    let (receiver, delivery) = one_delivery();
    #[expect(clippy::disallowed_methods, reason = "tests/run.sh sets the Python interpreter")]
    let python = std::env::var("KFWATCH_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut child = Command::new(python)
        .args(["tests/python/read_cloudevent.py", delivery.header("content-type")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), delivery.body.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    check_event(&delivery, |attribute| match &read["attributes"][attribute] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    assert_eq!(read["data"], delivery.json()["data"]);
    drop(receiver);
}

fn one_delivery() -> (Receiver, Delivery) {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let receiver = Receiver::start();
    open(&wechat.control(), "kf1@shop", "oA");
    let home = home(&wechat, &crm(&receiver.url("kf"), ""));
    let _daemon = home.daemon();
    eventually_confirmed(&receiver, 1);
    let delivery = receiver.received().remove(0);
    (receiver, delivery)
}

/// Checks that the attributes that a reader found are those that were sent.
fn check_event(delivery: &Delivery, found: impl Fn(&str) -> String) {
    let sent = delivery.json();
    for attribute in ["id", "type", "source", "subject", "datacontenttype", "sequence"] {
        assert_eq!(found(attribute), sent[attribute].as_str().unwrap(), "{attribute}");
    }
    let time: jiff::Timestamp = sent["time"].as_str().unwrap().parse().unwrap();
    assert_eq!(found("time"), time.as_millisecond().to_string());
    assert_eq!(found("id"), delivery.id());
}
