//! `kfwatch sinks test` and `kfwatch sinks stop`, and what becomes of the default sink.

use crate::support::{
    delivery::{self, eventually_delivered, file, sink_metric, webhook},
    process::{Home, Process, WeChat, quiet},
    receiver::{Answer, KEYS, Receiver},
    robot::{Robot, Vendor},
    wait::eventually,
};

fn ok(home: &Home, arguments: &str) -> String {
    let ended = home.run(arguments);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments}");
    ended.stdout
}

/// The error of a command that fails with exit code 1.
fn error(home: &Home, arguments: &str) -> String {
    let ended = home.run(arguments);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{arguments}");
    ended.stderr
}

fn eventually_pending(daemon: &Process, sink: &str, events: f64) {
    eventually("events", || (sink_metric(daemon, sink, "pending_events") >= events).then_some(()));
}

#[test]
fn test_reaches_webhook_also_while_it_is_stopped() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let receiver = Receiver::start();
    let home = delivery::home(&wechat, &webhook("crm", &receiver.url("kf"), ""));
    let origin = format!("http://{}", receiver.address);
    assert_eq!(ok(&home, "sinks test crm"), format!("crm: {origin} has accepted the test event\n"));
    assert!(!home.path("kfwatch.db").exists(), "a test needs no store");
    let _daemon = home.daemon();
    ok(&home, "sinks stop crm");
    ok(&home, "sinks test crm");
    let received = receiver.received();
    let ids: Vec<&str> = received.iter().map(|delivery| delivery.id()).collect();
    assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
    received[1].verify(KEYS[0]);
    let event = received[1].json();
    let fields = ["specversion", "type", "source"].map(|field| event[field].as_str().unwrap());
    assert_eq!((fields, &event["id"]), (["1.0", "kf.sink.test", "/kfwatch"], &ids[1].into()));
    assert!(event.get("sequence").is_none() && event["data"]["sink"] == "crm", "{event}");

    receiver.answer(|_| Answer::Status(422, String::new(), "no such type".to_owned()));
    assert_eq!(
        error(&home, "sinks test crm"),
        "kfwatch: test of sink \"crm\" failed: the receiver answers 422 Unprocessable Entity: no such type\n"
    );
    drop(receiver);
    assert!(error(&home, "sinks test crm").starts_with("kfwatch: test of sink \"crm\" failed: "));
    assert_eq!(
        error(&home, "sinks test cmr"),
        "kfwatch: there is no sink \"cmr\" in the configuration; known: crm\n"
    );
}

#[test]
fn test_sends_chat_message_and_reports_refusal() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let robots = Vendor::ALL.map(Robot::start);
    let home = Home::new();
    let sinks: Vec<String> = robots.iter().map(|robot| robot.sink(&home, "")).collect();
    delivery::configure(&home, &wechat, &sinks.join("\n"));
    for (robot, name) in robots.iter().zip(["WeCom", "DingTalk", "Feishu", "Slack"]) {
        let sink = robot.vendor.word();
        let expected = format!("{sink}: {name} has accepted the test message; look into the group\n");
        assert_eq!(ok(&home, &format!("sinks test {sink}")), expected);
        robot.eventually_reports(&format!("这是接收端 {sink} 的测试消息"));
    }
    home.write("wecom.url", &robots[0].receiver.url("cgi-bin/webhook/send?key=0123456789"));
    assert_eq!(
        error(&home, "sinks test wecom"),
        "kfwatch: test of sink \"wecom\" failed: WeCom answers code 93000 (invalid webhook url, from ip: 10.0.0.1): \
         it knows no such robot; copy the robot's webhook address into the file of url_file (or the variable of url_env) again\n"
    );
}

#[test]
fn test_of_file_only_checks_that_it_can_be_written() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let more = [file("good", "events.jsonl"), file("bad", "no/such/events.jsonl"), file("out", "-")];
    let home = delivery::home(&wechat, &more.concat());
    assert_eq!(
        ok(&home, "sinks test good"),
        format!("good: {} can be written\n", home.path("events.jsonl").display())
    );
    assert!(!home.path("events.jsonl").exists());
    let failed = error(&home, "sinks test bad");
    assert!(failed.ends_with("no/such/events.jsonl: No such file or directory (os error 2)\n"), "{failed}");
    assert_eq!(
        ok(&home, "sinks test out"),
        "out: nothing to test: its events go to the standard output of the daemon\n"
    );
}

#[test]
fn sink_stopped_by_operator_stays_stopped_until_resumed() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let receiver = Receiver::start();
    let home = delivery::home(&wechat, &webhook("crm", &receiver.url("kf"), ""));
    let daemon = home.daemon();
    delivery::open(&wechat.control(), "kf1@shop", "oA");
    eventually("the first event", || (receiver.confirmed() == 1).then_some(()));
    eventually_delivered(&daemon, "crm");
    let stopped = "crm: stopped, with 0 events to deliver; resume with \"kfwatch sinks resume crm\"\n";
    assert_eq!(ok(&home, "sinks stop crm"), stopped);
    delivery::eventually_logged(
        &daemon,
        "Sink stopped by an operator; resume with `kfwatch sinks resume crm` sink=crm",
    );
    delivery::open(&wechat.control(), "kf1@shop", "oB");
    eventually_pending(&daemon, "crm", 1.0);
    let remark = "\ncrm: stopped by an operator\n    to deliver again: kfwatch sinks resume crm\n";
    let table = ok(&home, "sinks");
    assert!(table.contains(remark), "{table}");
    let page = daemon.get("/").text();
    assert!(
        page.contains("stopped by an operator<br>to deliver again: <code>kfwatch sinks resume crm</code>"),
        "{page}"
    );
    daemon.terminate();

    // Another url ends the stop of a receiver that answered 410, and not this one.
    delivery::configure(&home, &wechat, &webhook("crm", &receiver.url("other"), ""));
    let daemon = home.daemon();
    assert_eq!(sink_metric(&daemon, "crm", "stopped"), 1.0);
    delivery::eventually_logged(
        &daemon,
        " WARN Sink is still stopped by an operator; resume with `kfwatch sinks resume crm` sink=crm",
    );
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(ok(&home, "sinks resume crm"), "crm: resumed, with 1 event to deliver\n");
    eventually_delivered(&daemon, "crm");
    assert_eq!(receiver.received().len(), 2);
    daemon.terminate();

    assert_eq!(ok(&home, "sinks stop crm"), stopped, "without a daemon");
    let daemon = home.daemon();
    assert_eq!(sink_metric(&daemon, "crm", "stopped"), 1.0);
    assert!(error(&home, "sinks stop cmr").contains("there is no sink \"cmr\"; known: crm"));
}

#[test]
fn first_configured_sink_replaces_standard_output_with_a_note() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = delivery::home(&wechat, "");
    let daemon = home.daemon();
    delivery::open(&wechat.control(), "kf1@shop", "oA");
    eventually("the event", || daemon.stdout().contains("kf.session.started").then_some(()));
    daemon.terminate();
    delivery::configure(&home, &wechat, &file("archive", "events.jsonl"));
    let daemon = home.daemon();
    delivery::open(&wechat.control(), "kf1@shop", "oB");
    eventually_delivered(&daemon, "archive");
    let table = ok(&home, "sinks");
    let (_, row) = table.split_once("\n stdout ").unwrap();
    assert_eq!(row.split_whitespace().take(4).collect::<Vec<_>>(), ["removed", "–", "–", "–"], "{table}");
    let note = "\nstdout: nothing is wrong: it was the sink of a configuration without [[sinks]]; it is forgotten after 7 days\n";
    assert!(table.ends_with(note), "{table}");
    let page = daemon.get("/").text();
    assert!(!page.contains("stdout") && page.contains("archive"), "{page}");
    let moved = "Events no longer go to standard output: the configuration has other sinks now. For both, add a sink of type \"jsonl\"";
    assert_eq!(delivery::times_logged(&daemon.terminate().stderr, moved), 1);
    let again = home.daemon().terminate();
    assert!(!again.stderr.contains("standard output"), "{again:?}");
}
