//! Chat sinks against robots that check what their vendors document: every change of state is reported at least once, no robot is
//! sent too much, nobody is notified by a name, and no key or openid is shown.

use std::{sync::Arc, time::Duration};

use kfwatch::simulator::{KfState, Scenario, SimulatorControl};
use serde_json::Value;

use crate::secrets::LOUDEST;
use crate::support::{
    daemon::{JumpingClock, ManualDaemon},
    delivery::{self, eventually_delivered, eventually_logged, rounds},
    process::{Home, Process, WeChat, appid, quiet},
    receiver::{Answer, Receiver},
    robot::{KEY, Robot, SECRET, Vendor},
    wait::eventually,
};

/// The customer of a session.
const OPENID: &str = "oDF3iY9P32sK_5GgYiRkjsabcdef";

/// What a nickname can do its worst with.
const NICKNAME: &str = "@all<at user_id=\"all\">x</at><!channel>&";

fn named(official_accounts: &[(&str, usize)]) -> Scenario {
    let mut scenario = quiet(official_accounts);
    for kf_account in scenario.official_accounts.iter_mut().flat_map(|of| &mut of.kf_accounts) {
        kf_account.nickname = Some(NICKNAME.to_owned());
    }
    scenario
}

/// A home whose daemon polls every second, and reads nicknames, with these robots as its sinks.
fn home(wechat: &WeChat, robots: &[&Robot], more: &str) -> Home {
    let home = Home::new().without_collectors().set("KFWATCH__COLLECTORS__KF_LIST", "1m");
    let sinks: Vec<String> = robots.iter().map(|robot| robot.sink(&home, more)).collect();
    delivery::configure(&home, wechat, &sinks.join("\n"));
    home
}

fn set(control: &SimulatorControl, kf_account: &str, state: KfState) {
    control.set_kf_state(&appid(0), kf_account, state).unwrap();
}

fn assert_shows_no_secret(what: &str, text: &str) {
    for secret in [KEY, SECRET, OPENID, "sign="] {
        assert!(!text.contains(secret), "{secret} is in {what}: {text}");
    }
}

/// Waits until a poll has succeeded, so that the next state is no first one.
fn eventually_up(daemon: &Process, kf_account: &str) {
    let up = format!("wechat_kf_account_up{{official_account=\"shop\",kf_account=\"{kf_account}\"}}");
    eventually("a poll", || daemon.metric(&up).filter(|up| *up > 0.5));
}

#[test]
fn each_vendor_accepts_message_about_unbound_account() {
    let wechat = WeChat::play(named(&[("shop", 2)]));
    let robots = Vendor::ALL.map(Robot::start);
    let home = home(&wechat, &robots.each_ref(), "types = [\"state_changed\", \"started\"]");
    let home = home.set("KFWATCH__LOG__LEVEL", LOUDEST);
    let daemon = home.daemon();
    eventually_up(&daemon, "kf2@shop");
    wechat.control().open_session(&appid(0), "kf2@shop", OPENID, None).unwrap();
    set(&wechat.control(), "kf1@shop", KfState::Unbound);
    for robot in &robots {
        let message = robot.eventually_reports("未绑定微信号 unbound 1");
        for part in
            ["\n- kf1@shop (＠all", "公众号 of shop, 自 since 20", "invite the agent", "微信中接受邀请"]
        {
            assert!(message.contains(part), "{part}: {message}");
        }
        for mention in ["@all", "<at", "<!"] {
            assert!(!message.contains(mention), "{message}");
        }
        robot.eventually_reports("- kf2@shop");
        eventually_delivered(&daemon, robot.vendor.word());
        for message in robot.messages() {
            assert_shows_no_secret("a message", &message);
        }
    }
    let shown = [
        home.run("sinks").stdout,
        home.run("check").stdout,
        daemon.get("/").text(),
        daemon.get("/metrics").text(),
    ];
    shown.iter().for_each(|page| assert_shows_no_secret("a page", page));
    assert_shows_no_secret("the log", &daemon.terminate().stderr);
}

#[test]
fn refused_message_is_repeated_until_robot_accepts_it() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let robots = Vendor::ALL.map(Robot::start);
    for robot in &robots {
        let secret = if robot.vendor.signs() { SECRET } else { "" };
        let echo = format!(
            "{{\"errcode\":77,\"code\":77,\"errmsg\":\"{KEY}\\u001b[2J {secret}\",\"msg\":\"{KEY}\"}}"
        );
        robot.trouble([
            Answer::Status(200, String::new(), echo),
            robot.vendor.rate_limited_for(1),
            Answer::Status(200, String::new(), "<html>captive portal</html>".to_owned()),
            Answer::HangUp,
            Answer::Cut,
        ]);
    }
    let home = home(&wechat, &robots.each_ref(), "lang = \"en\"\ntimeout = \"2s\"");
    let home = home.set("KFWATCH__LOG__LEVEL", LOUDEST);
    let daemon = home.daemon();
    eventually_up(&daemon, "kf1@shop");
    set(&wechat.control(), "kf1@shop", KfState::Unbound);
    for robot in &robots {
        robot.eventually_reports("kfwatch: unbound 1\n");
        assert!(robot.is_calm());
        assert_eq!(robot.messages().len(), 1, "only the accepted one counts");
        assert!(delivery::sink_metric(&daemon, robot.vendor.word(), "delivery_failures_total") >= 5.0);
    }
    let log = daemon.terminate().stderr;
    assert_eq!(delivery::times_logged(&log, "the robot sends too many messages"), 4, "{log}");
    assert_shows_no_secret("the log", &log);
}

#[test]
fn wrong_key_or_signature_is_reported_until_its_file_is_corrected() {
    for (vendor, file, expected) in [
        (
            Vendor::WeCom,
            "wecom.url",
            "WeCom answers code 93000 (invalid webhook url, from ip: 10.0.0.1): it knows no such robot; copy",
        ),
        (
            Vendor::DingTalk,
            "dingtalk.secret",
            "DingTalk answers code 310000 (sign not match, more: [https://ding-doc.dingtalk.com]): compare the robot's security settings",
        ),
        (
            Vendor::Feishu,
            "feishu.secret",
            "Feishu answers code 19021 (sign match fail or timestamp is not within one hour from current time): copy the robot's signing secret",
        ),
        (
            Vendor::Slack,
            "slack.url",
            "Slack answers 404 Not Found (no_service): it knows no such robot; copy",
        ),
    ] {
        let wechat = WeChat::play(quiet(&[("shop", 1)]));
        let robot = Robot::start(vendor);
        let home = home(&wechat, &[&robot], "");
        let right = std::fs::read_to_string(home.path(file)).unwrap();
        home.write(file, &right.replace("cdef", "0000").replace("aaa", "bbb"));
        let daemon = home.daemon();
        eventually_up(&daemon, "kf1@shop");
        set(&wechat.control(), "kf1@shop", KfState::Unbound);
        eventually_logged(&daemon, expected);
        let sinks = home.run("sinks").stdout;
        assert!(sinks.contains(expected), "{sinks}");
        assert_eq!(robot.messages(), Vec::<String>::new());
        // Without a restart.
        home.write(file, &right);
        robot.eventually_reports("unbound 1");
        let log = daemon.terminate().stderr;
        for key in [KEY.replace("aaa", "bbb"), SECRET.replace("cdef", "0000")] {
            assert!(!(log.clone() + &sinks).contains(&key), "{log}{sinks}");
        }
    }
}

#[test]
fn unknown_refusal_ends_when_url_file_is_corrected() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let robot = Robot::start(Vendor::WeCom);
    let home = home(&wechat, &[&robot], "");
    let elsewhere = Receiver::start();
    elsewhere.answer(|_| Answer::status(403));
    home.write("wecom.url", &elsewhere.url("cgi-bin/webhook/send"));
    let daemon = home.daemon();
    eventually_up(&daemon, "kf1@shop");
    set(&wechat.control(), "kf1@shop", KfState::Unbound);
    eventually_logged(&daemon, "WeCom answers 403 Forbidden");
    home.write("wecom.url", &robot.url());
    robot.eventually_reports("- kf1@shop");
}

#[test]
fn refused_nickname_is_left_out() {
    let wechat = WeChat::play(named(&[("shop", 2)]));
    // Feishu's code is in no table.
    let robots = [Vendor::Slack, Vendor::Feishu].map(Robot::start);
    robots.iter().for_each(|robot| robot.refuse(Some("＠all")));
    let home = home(&wechat, &robots.each_ref(), "lang = \"en\"");
    let daemon = home.daemon();
    eventually_up(&daemon, "kf2@shop");
    set(&wechat.control(), "kf1@shop", KfState::Unbound);
    for robot in &robots {
        robot.eventually_reports("- kf1@shop of shop, since ");
        assert_eq!(robot.rate_limited(), 0);
        assert!(delivery::sink_metric(&daemon, robot.vendor.word(), "delivery_failures_total") > 0.5);
        assert!(delivery::sink_metric(&daemon, robot.vendor.word(), "dead_letters") < 0.5);
    }
}

#[test]
fn refused_text_costs_only_its_own_kf_account() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let robot = Robot::start(Vendor::Slack);
    robot.refuse(Some("kf1@shop"));
    let home = home(&wechat, &[&robot], "lang = \"en\"");
    let daemon = home.daemon();
    eventually_up(&daemon, "kf2@shop");
    set(&wechat.control(), "kf1@shop", KfState::Unbound);
    set(&wechat.control(), "kf2@shop", KfState::Unbound);
    eventually("a dead letter", || {
        (delivery::sink_metric(&daemon, "slack", "dead_letters") > 0.5).then_some(())
    });
    robot.eventually_reports("- kf2@shop");
    assert_eq!(robot.rate_limited(), 0);
    let letters = home.run("events dead --sink slack --format json").stdout;
    assert!(letters.contains("Slack answers 400 Bad Request (invalid_payload)"), "{letters}");
    assert!(letters.contains("kf1@shop") && !letters.contains("kf2@shop"), "{letters}");
    robot.refuse(None);
    assert_eq!(home.run("events dead --sink slack --retry").code, Some(0));
    robot.eventually_reports("- kf1@shop");
}

#[test]
fn many_changes_share_few_messages_within_limits() {
    let wechat = WeChat::play(quiet(&[("shop", 90)]));
    let robot = Robot::start(Vendor::WeCom);
    let home = home(&wechat, &[&robot], "");
    let daemon = home.daemon();
    (1..=90).for_each(|n| eventually_up(&daemon, &format!("kf{n}@shop")));
    for n in 1..=90 {
        set(&wechat.control(), &format!("kf{n}@shop"), KfState::Unbound);
    }
    let unbound = |message: &String| {
        let (_, count) = message.lines().next().unwrap().split_once("unbound ").unwrap();
        count.split([',', ' ']).next().unwrap().parse::<usize>().unwrap()
    };
    eventually("all are reported", || {
        (robot.messages().iter().map(unbound).sum::<usize>() >= 90).then_some(())
    });
    let messages = robot.messages();
    assert!(messages.len() <= 5, "{messages:#?}");
    assert_eq!(robot.rate_limited(), 0);
    let longest = messages.iter().max_by_key(|message| message.len()).unwrap();
    let shown = longest.matches("\n- kf").count();
    assert!(longest.ends_with(&format!("… 另有 {0} 个 and {0} more", unbound(longest) - shown)), "{longest}");
    eventually_delivered(&daemon, "wecom");
}

/// States of kf accounts that change at random while the daemon is killed again and again.
#[test]
fn kill_loses_no_change_of_state() {
    let wechat = WeChat::play(quiet(&[("shop", 3)]));
    let robot = Robot::start(Vendor::Slack);
    let home = home(&wechat, &[&robot], "lang = \"en\"");
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..rounds(6) {
        let daemon = home.daemon();
        robot.trouble((0..random.usize(..3)).map(|_| Answer::status(503 - random.u16(..2))));
        for _ in 0..random.usize(1..4) {
            let state = random.choice([KfState::Bound, KfState::Unbound, KfState::Invalid]).unwrap();
            set(&wechat.control(), &format!("kf{}@shop", random.usize(1..=3)), state);
            delivery::pause(random.u64(200..1500));
        }
        daemon.signal("KILL");
        daemon.ended();
    }
    // Without a daemon nothing new is observed, and the next one has reported nothing yet.
    let daemon = home.daemon();
    eventually("polls", || daemon.stderr().contains("Watching").then_some(()));
    eventually_delivered(&daemon, "slack");
    daemon.terminate();
    let messages = robot.messages();
    let events = home.run("events --type state_changed --format json").stdout;
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let (kf_account, to) =
            (event["data"]["kf_account"].as_str().unwrap(), event["data"]["to"].as_str().unwrap());
        let at = &event["time"].as_str().unwrap()[14..19];
        let is_reported = |message: &&String| {
            let line = message.lines().find(|line| line.starts_with(&format!("- {kf_account} ")));
            let section = message.split("\n\n").find(|section| section.contains(&format!("- {kf_account} ")));
            line.is_some_and(|line| line.contains(at))
                && (section.unwrap().starts_with(to) || line.unwrap().contains(&format!("{to} ")))
        };
        assert!(messages.iter().any(|message| is_reported(&message)), "{line}\n{messages:#?}");
    }
    assert!(events.lines().count() >= 4, "{events}");
}

#[test]
fn repeated_state_is_reported_after_ten_minutes() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let robot = Robot::start(Vendor::Slack);
    let home = Home::new();
    let sink = robot.sink(&home, "lang = \"en\"");
    let configuration = format!("{}\n[backoff]\nunbound = [\"0s\", \"1s\"]\n{sink}", wechat.configuration());
    let clock = Arc::new(JumpingClock::default());
    let daemon = ManualDaemon::start(&configuration, &home.path(""), &[], Arc::<JumpingClock>::clone(&clock));
    let eventually_is = |kf_account: &str, state: KfState, metric: &str, value: f64| {
        set(&wechat.control(), kf_account, state);
        let metric =
            format!("wechat_kf_account_{metric}{{official_account=\"shop\",kf_account=\"{kf_account}\"}}");
        eventually("the state", || {
            daemon.tick();
            daemon.metric(&metric).filter(|found| (found - value).abs() < 0.5)
        });
    };
    eventually_is("kf1@shop", KfState::Bound, "up", 1.0);
    eventually_is("kf2@shop", KfState::Bound, "up", 1.0);
    eventually_is("kf1@shop", KfState::Unbound, "unbound", 1.0);
    robot.eventually_reports("kfwatch: unbound 1\n");
    eventually_is("kf1@shop", KfState::Bound, "up", 1.0);
    robot.eventually_reports("kfwatch: ok 1\n");
    eventually_is("kf1@shop", KfState::Unbound, "unbound", 1.0);

    clock.jump(Duration::from_secs(9 * 60));
    eventually_is("kf2@shop", KfState::Unbound, "unbound", 1.0);
    robot.eventually_reports("- kf2@shop");
    let of_kf1 = || robot.messages().iter().filter(|message| message.contains("- kf1@shop")).count();
    assert_eq!(of_kf1(), 2, "{:#?}", robot.messages());

    clock.jump(Duration::from_secs(60));
    eventually("the repeated state", || (of_kf1() == 3).then_some(()));
    assert!(robot.messages().last().unwrap().starts_with("kfwatch: unbound 1\n"), "{:#?}", robot.messages());
    let delivered = "kfwatch_sink_pending_events{sink=\"slack\"}";
    eventually("nothing is left", || daemon.metric(delivered).filter(|pending| *pending <= 0.0));
}

#[test]
fn flapping_account_is_folded_and_last_state_is_reported_after_restart() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let robot = Robot::start(Vendor::Slack);
    let home = home(&wechat, &[&robot], "lang = \"en\"");
    let daemon = home.daemon();
    eventually_up(&daemon, "kf2@shop");
    let is_unbound = "wechat_kf_account_unbound{official_account=\"shop\",kf_account=\"kf1@shop\"}";
    for (state, message) in [(KfState::Unbound, "unbound 1"), (KfState::Bound, "ok 1")] {
        set(&wechat.control(), "kf1@shop", state);
        robot.eventually_reports(message);
    }
    for (state, value) in [(KfState::Unbound, 1.0), (KfState::Bound, 0.0), (KfState::Unbound, 1.0)] {
        set(&wechat.control(), "kf1@shop", state);
        eventually("the state", || daemon.metric(is_unbound).filter(|found| (found - value).abs() < 0.5));
    }
    set(&wechat.control(), "kf2@shop", KfState::Unbound);
    robot.eventually_reports("- kf2@shop");
    assert_eq!(
        robot.messages().iter().filter(|message| message.contains("- kf1@shop")).count(),
        2,
        "{:#?}",
        robot.messages()
    );
    eventually("the others wait", || {
        (delivery::sink_metric(&daemon, "slack", "pending_events") >= 3.0).then_some(())
    });
    daemon.terminate();

    let daemon = home.daemon();
    let last = robot.eventually_reports("; before: unbound ");
    assert!(last.contains("\n\nunbound:\n") && last.contains(", ok "), "{last}");
    eventually_delivered(&daemon, "slack");
}
