//! Results for many accounts: a summary and the problems, and the rest on demand.

use kfwatch::simulator::KfState;

use super::assert_prints;
use crate::support::process::{Home, WeChat, appid, quiet};

const REST: &str = "Show every account with --all, some with --account or --official-account, those with a problem with --problems.\n";

const UNBOUND: &str = "getsessionlist: errcode 65402";

/// 102 kf accounts of two official accounts, three of which are not bound.
fn many() -> (WeChat, Home) {
    let wechat = WeChat::play(quiet(&[("shop", 51), ("branch", 51)]));
    for (index, kf_account) in [(0, "kf7@shop"), (1, "kf8@branch"), (1, "kf9@branch")] {
        wechat.control().set_kf_state(&appid(index), kf_account, KfState::Unbound).unwrap();
    }
    wechat.control().open_session(&appid(0), "kf1@shop", "oA", Some(1_700_000_000)).unwrap();
    let home = Home::watching(&wechat, "");
    (wechat, home)
}

/// Cuts what WeChat adds to an error, which differs from call to call.
fn without_request_ids(text: &str) -> String {
    let lines = text.lines().map(|line| {
        line.split_once(UNBOUND).map_or(line.to_owned(), |(before, _)| format!("{before}{UNBOUND}"))
    });
    lines.map(|line| line + "\n").collect()
}

#[test]
fn poll_of_many_accounts_is_a_summary() {
    let (_wechat, home) = many();
    let ended = home.run("poll");
    let en = "    bind a WeChat user to this kf account: invite the agent in the console (or call inviteworker); the agent must accept \
              the invitation in WeChat\n";
    let zh = "    请为该客服帐号绑定微信号：在公众平台（或调用 inviteworker）邀请客服人员，并由其在微信中接受邀请\n";
    let summary = "102 kf accounts: 99 ok, 3 unbound; 1 open session.\n";
    let finding = format!(
        "\n3 kf accounts of 2 official accounts (shop/kf7@shop, branch/kf8@branch, branch/kf9@branch): {UNBOUND}\n"
    );
    assert_eq!(without_request_ids(&ended.stdout), [summary, &finding, en, "\n", REST].concat());
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(1), "kfwatch: not every account could be polled\n")
    );
    let home = home.set("LANG", "zh_CN.UTF-8");
    let chinese = home.run("poll --problems");
    let table = " ACCOUNT            RESULT   SESSIONS  OLDEST SINCE  STARTED  ENDED\n \
                 shop/kf7@shop      unbound  –         –             –        –\n \
                 branch/kf8@branch  unbound  –         –             –        –\n \
                 branch/kf9@branch  unbound  –         –             –        –\n";
    assert_eq!(without_request_ids(&chinese.stdout), [table, summary, &finding, en, zh].concat());
    assert_eq!(home.run("poll --format json --problems").stdout.lines().count(), 3);
    assert_eq!(home.run("poll --format json").stdout.lines().count(), 102);
}

#[test]
fn everything_of_many_accounts_is_shown_on_demand() {
    let (_wechat, home) = many();
    let rows = |arguments: &str| {
        let printed = home.run(arguments).stdout;
        printed.lines().filter(|line| line.starts_with(' ') && line.contains('@')).count()
    };
    for (arguments, expected) in [
        ("poll --all", 102),
        ("poll --official-account shop", 51),
        ("poll --account kf3@shop", 1),
        ("check --online --all", 102),
        ("check --online --official-account branch", 51),
        ("check --online", 0),
    ] {
        assert_eq!(rows(arguments), expected, "{arguments}");
    }
    let small = WeChat::play(quiet(&[("shop", 100)]));
    let printed = Home::watching(&small, "").run("poll").stdout;
    assert_eq!(
        printed.lines().filter(|line| line.contains("@shop")).count(),
        100,
        "as many are still shown whole"
    );
}

#[test]
fn check_of_many_accounts_is_a_summary() {
    let (_wechat, home) = many();
    let checked = home.run("check --online");
    let text = without_request_ids(&checked.stdout);
    let begin = "2 official accounts and 102 kf accounts checked, 3 of them with a problem.\n\nWhat to fix:\n\
                 1. 3 kf accounts of 2 official accounts (shop/kf7@shop, branch/kf8@branch, branch/kf9@branch): ";
    assert!(text.starts_with(begin) && text.ends_with(&format!("\n\n{REST}")), "{text}");
    assert_eq!(checked.code, Some(69), "{checked:?}");
    let offline = home.run("check").stdout;
    assert!(!offline.contains("OFFICIAL ACCOUNT") && offline.ends_with(&format!("\n\n{REST}")), "{offline}");
    assert!(home.run("check --all").stdout.contains("\n branch  "), "all official accounts");
}

#[test]
fn sessions_of_many_accounts_are_a_summary() {
    let (_wechat, home) = many();
    let daemon = home.daemon();
    let unbound = "wechat_kf_account_unbound{official_account=\"branch\",kf_account=\"kf9@branch\"}";
    crate::support::wait::eventually("all polls", || {
        daemon
            .metric("kfwatch_sweeps_total")
            .filter(|sweeps| *sweeps >= 2.0)
            .and(daemon.metric(unbound).filter(|is| *is > 0.5))
    });
    daemon.terminate();
    let note = "note: no daemon runs: the sessions are as the last one stored them, and only a daemon knows nicknames, who is \
                online, and accepted_cases\n";
    let expected = " ACCOUNT            NICKNAME  STATE    SESSIONS  ACCEPTED  ONLINE  LAST POLL\n \
                    shop/kf7@shop      –         unbound  –         –         –       –\n \
                    branch/kf8@branch  –         unbound  –         –         –       –\n \
                    branch/kf9@branch  –         unbound  –         –         –       –\n\n\
                    1 open session of 102 kf accounts, 3 kf accounts not polled successfully yet. Times are in Asia/Shanghai.\n";
    assert_prints(&home.run("sessions"), 0, &[expected, REST].concat(), note);
    assert!(
        home.run("sessions --official-account shop").stdout.contains("\n shop/kf1@shop  …"),
        "with its customer"
    );
}
