//! What the log says when many accounts fail at once: exact lines of the real program.

use std::collections::BTreeSet;

use kfwatch::simulator::{ApiCall, Fault, FaultRule, KfState};

use crate::support::{
    process::{Home, Process, WeChat, appid, quiet},
    wait::eventually,
};

/// Three official accounts with eight kf accounts.
const OFFICIAL_ACCOUNTS: [(&str, usize); 3] = [("book", 2), ("shop", 4), ("tea", 2)];

/// The lines of warnings and errors, and those that report the end of a problem; without their times.
fn problems(daemon: &Process) -> Vec<String> {
    let log = daemon.stderr();
    let lines =
        log.lines().filter_map(|line| line.split_once("Z ").map(|(_, line)| line.trim_start().to_owned()));
    lines.filter(|line| !line.starts_with("INFO") || line.contains("again")).collect()
}

/// Waits for a line that contains this text.
fn eventually_logged(daemon: &Process, text: &str) -> String {
    eventually(text, || problems(daemon).into_iter().find(|line| line.contains(text)))
}

fn refuse(wechat: &WeChat, code: i64) {
    wechat.control().inject(FaultRule {
        endpoint: Some(ApiCall::GetSessionList),
        ..FaultRule::new(Fault::Errcode(code))
    });
}

/// The number in a field of a line.
fn number(line: &str, field: &str) -> usize {
    let (_, value) = line.split_once(&format!(" {field}=")).unwrap_or_else(|| panic!("no {field} in {line}"));
    value.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn lost_network_is_one_warning_and_one_blind_line() {
    let wechat = WeChat::play(quiet(&OFFICIAL_ACCOUNTS));
    let home = Home::watching(&wechat, "").without_collectors().set("KFWATCH__POLL__BLIND_AFTER", "3s");
    let daemon = home.daemon();
    eventually("good polls of all", || {
        let page = daemon.get("/metrics").text();
        let up =
            page.lines().filter(|line| line.starts_with("wechat_kf_account_up{") && line.ends_with(" 1"));
        (up.count() == 8).then_some(())
    });
    wechat.control().inject(FaultRule::new(Fault::Close));
    let warning = eventually_logged(&daemon, "No official account can be reached");
    assert!(
        warning.starts_with("WARN No official account can be reached: getsessionlist: connection failed"),
        "{warning}"
    );
    assert!(warning.contains("remedy=\""), "{warning}");
    eventually("all kf accounts are blind", || {
        let blind: usize = problems(&daemon)
            .iter()
            .filter(|line| line.contains("blind"))
            .map(|line| if line.contains("Account is blind") { 1 } else { number(line, "kf_accounts") })
            .sum();
        (blind == 8).then_some(())
    });
    wechat.control().clear_faults();
    eventually_logged(&daemon, "succeed again");
    let lines = problems(&daemon);
    // A sweep may fall into two lines.
    assert!(lines.iter().filter(|line| line.contains("reached")).count() <= 3, "{lines:#?}");
    assert!(lines.iter().filter(|line| line.contains("blind")).count() <= 4, "{lines:#?}");
}

#[test]
fn same_refusal_of_many_kf_accounts_is_one_line_with_examples() {
    let wechat = WeChat::play(quiet(&OFFICIAL_ACCOUNTS));
    refuse(&wechat, 65402);
    let daemon = Home::watching(&wechat, "").without_collectors().daemon();
    let line = eventually_logged(&daemon, "65402");
    let kf_accounts = number(&line, "kf_accounts");
    assert!(
        line.starts_with(&format!(
            "ERROR Polls of {kf_accounts} kf accounts failed: getsessionlist: errcode 65402"
        )),
        "{line}"
    );
    let (_, examples) = line.split_once(" examples=\"").unwrap();
    let examples: BTreeSet<&str> = examples.split('"').next().unwrap().split(", ").collect();
    assert_eq!(examples.len(), 3, "{line}");
    assert!(examples.iter().all(|name| name.contains("/kf")), "{line}");
}

#[test]
fn remedies_have_the_language_of_the_configuration_or_the_locale() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    refuse(&wechat, 65402);
    for (language, locale, [english, chinese]) in [
        ("auto", "C.UTF-8", [true, false]),
        ("auto", "zh_CN.UTF-8", [false, true]),
        ("en", "zh_CN.UTF-8", [true, false]),
        ("both", "C.UTF-8", [true, true]),
    ] {
        let home = Home::watching(&wechat, "").set("KFWATCH__LOG__LANGUAGE", language).set("LANG", locale);
        let daemon = home.daemon();
        let line = eventually_logged(&daemon, "65402");
        let has = [line.contains("bind a WeChat user"), line.contains("绑定微信号")];
        assert_eq!(has, [english, chinese], "{language}, {locale}: {line}");
    }
}

#[test]
fn unbound_account_is_reported_once_by_polls_and_getkflist() {
    let mut scenario = quiet(&[("shop", 1)]);
    scenario.official_accounts[0].kf_accounts[0].state = KfState::Unbound;
    let wechat = WeChat::play(scenario);
    let daemon = Home::watching(&wechat, "").daemon();
    eventually_logged(&daemon, "unbound");
    eventually("three polls", || {
        (wechat.control().polls_of(&appid(0), "kf1@shop").unwrap() >= 3).then_some(())
    });
    let lines = problems(&daemon);
    let about: Vec<&String> =
        lines.iter().filter(|line| line.contains("nbound") || line.contains("65402")).collect();
    assert_eq!(about.len(), 1, "{lines:#?}");
    assert!(about[0].starts_with("ERROR") && about[0].contains("remedy=\"bind a WeChat user"), "{about:#?}");
}

#[test]
fn drain_ends_with_stopped() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let ended = Home::watching(&wechat, "").daemon().terminate();
    let last: Vec<&str> = ended.stderr.lines().rev().take(2).collect();
    assert!(last[0].ends_with("INFO Stopped"), "{last:?}");
    assert!(last[1].contains("INFO Draining"), "{last:?}");
}
