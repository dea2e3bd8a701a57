//! The names of accounts that commands accept, and what they say of others.

use kfwatch::simulator::ApiCall;

use super::assert_prints;
use crate::support::{
    backup,
    process::{Home, WeChat, appid, quiet},
    wait::eventually,
};

/// Two official accounts. The agent of the first kf account is called 小明.
fn two_shops() -> WeChat {
    let mut scenario = quiet(&[("shop", 2), ("branch", 1)]);
    scenario.official_accounts[0].kf_accounts[0].nickname = Some("小明".to_owned());
    WeChat::play(scenario)
}

const COMMANDS: [&str; 4] = ["poll", "check --online", "sessions", "events"];

#[test]
fn unknown_account_is_refused_with_what_was_meant() {
    let wechat = two_shops();
    let home = Home::watching(&wechat, "");
    let daemon = home.daemon();
    let info = "wechat_kf_account_info{official_account=\"shop\",kf_account=\"kf1@shop\",nickname=\"小明\"}";
    eventually("the nickname", || daemon.metric(info));
    for command in COMMANDS {
        for (name, expected) in [
            ("--account kf9@shop", "no such kf account: \"kf9@shop\"; did you mean kf1@shop?"),
            ("--account shp/kf2@shop", "no such kf account: \"shp/kf2@shop\"; did you mean shop/kf2@shop?"),
            ("--account 小朋", "no such kf account: \"小朋\"; did you mean 小明?"),
            ("--official-account brunch", "no such official account: \"brunch\"; did you mean branch?"),
            (
                "--official-account branch --account kf1@shop",
                "no such kf account: \"kf1@shop\"; known are kf1@branch",
            ),
        ] {
            let ended = home.run(&format!("{command} {name}"));
            // The suggestion for a kf account of another official account depends on what is similar.
            if name.contains("branch --account") {
                assert!(
                    ended.code == Some(1)
                        && ended.stderr.starts_with("kfwatch: no such kf account: \"kf1@shop\"; "),
                    "{ended:?}"
                );
                continue;
            }
            assert_prints(&ended, 1, "", &format!("kfwatch: {expected}\n"));
        }
    }
    let requests = wechat.control().requests_of(&appid(1), ApiCall::QuotaGet);
    assert_eq!(requests, Ok(1), "only the daemon's collector called");
}

#[test]
fn unknown_account_is_refused_without_daemon() {
    let home = backup::home();
    backup::grow(&home.path("kfwatch.db"), 0, 1);
    for command in ["poll", "check", "check --online", "events"] {
        let expected = "kfwatch: no such kf account: \"kf3@shop\"; did you mean kf1@shop?\n";
        assert_prints(&home.run(&format!("{command} --account kf3@shop")), 1, "", expected);
    }
}

#[test]
fn commands_act_on_selected_accounts_only() {
    let wechat = two_shops();
    let home = Home::watching(&wechat, "").set("KFWATCH__POLL__SCHEDULE", "0 0 0 29 2 *");
    let daemon = home.daemon();
    let info = "wechat_kf_account_info{official_account=\"shop\",kf_account=\"kf1@shop\",nickname=\"小明\"}";
    eventually("the nickname", || daemon.metric(info));
    let polled = |arguments: &str| {
        let before = wechat.control().requests(ApiCall::GetSessionList);
        let ended = home.run(arguments);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
        wechat.control().requests(ApiCall::GetSessionList) - before
    };
    for (name, count) in [
        ("--account 小明", 1),
        ("--account branch/kf1@branch", 1),
        ("--account shop", 2),
        ("--official-account branch", 1),
        ("", 3),
    ] {
        assert_eq!(polled(&format!("poll {name}")), count, "{name}");
        assert_eq!(polled(&format!("check --online {name}")), count, "{name}");
    }
    let expected = " ACCOUNT        RESULT  SESSIONS  OLDEST SINCE  STARTED  ENDED\n \
                    shop/kf1@shop  ok      0         –             0        0\n";
    assert_prints(&home.run("poll --account 小明"), 0, expected, "");
}

#[test]
fn nickname_is_looked_up_without_daemon() {
    let wechat = two_shops();
    let home = Home::watching(&wechat, "");
    let polled = " ACCOUNT        RESULT  SESSIONS  OLDEST SINCE  STARTED  ENDED\n \
                  shop/kf1@shop  ok      0         –             0        0\n";
    assert_prints(&home.run("poll --account 小明"), 0, polled, "");
    let rows = home.run("check --online --account 小明 --format json").stdout;
    assert_eq!(rows.matches("\"kf_account\":\"kf").count(), 1, "{rows}");
    for command in ["poll", "check --online"] {
        let unknown = "kfwatch: no such kf account: \"阿花\"; known are kf1@branch, kf1@shop, kf2@shop (no nickname is known)\n";
        assert_prints(&home.run(&format!("{command} --account 阿花")), 1, "", unknown);
    }
    let platform: Vec<(String, usize)> = (0..11).map(|n| (format!("shop{n}"), 1)).collect();
    let platform: Vec<(&str, usize)> = platform.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    let wechat = WeChat::play(quiet(&platform));
    assert_eq!(Home::watching(&wechat, "").run("poll --account 小明").code, Some(1));
    assert_eq!(wechat.control().requests(ApiCall::GetKfList), 0, "not for all merchants");
}

#[test]
fn empty_answers_say_so() {
    let home = backup::home();
    backup::grow(&home.path("kfwatch.db"), 0, 0);
    assert_prints(&home.run("events"), 0, "no events\n", "");
    assert_prints(&home.run("events --since 2h --format json"), 0, "", "");
    let since = home.run("events --since 2026-11-28");
    assert_eq!(since.stdout, "no events since 2026-11-28 00:00:00 (Asia/Shanghai)\n");
    assert_eq!(home.run("sinks").stdout, "no sinks yet: a daemon registers them when it starts\n");
}
