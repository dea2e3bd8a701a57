//! Kf accounts that are found by getkflist, in the whole program: they follow the list, a failed or empty list removes
//! none, and transferred customers are reported as in the simulator's ledger.
//!
//! `kf_list.rs` tests the effect of a list case by case.

use crate::support::{
    process::{Home, Process, WeChat, appid, quiet},
    wait::eventually,
};
use kfwatch::simulator::{ApiCall, Fault, FaultRule, KfState, SimulatorControl};
use serde_json::Value;

const COLLECTORS: &str =
    "[collectors]\nkf_list = \"10s\"\nonline = \"off\"\nwaiting = \"off\"\nquota = \"off\"\n";

/// The state of each watched kf account, from its series.
fn watched(daemon: &Process) -> Vec<(String, bool)> {
    let page = daemon.get("/metrics").text();
    let series = |line: &str| {
        let rest = line.strip_prefix("wechat_kf_account_up{official_account=\"shop\",kf_account=\"")?;
        let (kf_account, up) = rest.split_once("\"} ")?;
        Some((kf_account.to_owned(), up == "1"))
    };
    page.lines().filter_map(series).collect()
}

fn eventually_watched(what: &str, daemon: &Process, expected: &[&str]) {
    eventually(what, || {
        let mut watched = watched(daemon);
        watched.sort();
        let all_up = watched.iter().all(|(_, up)| *up);
        (all_up && watched.iter().map(|(name, _)| name).eq(expected)).then_some(())
    });
}

fn events(daemon: &Process) -> Vec<Value> {
    daemon.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn lists(control: &SimulatorControl) -> u64 {
    control.requests(ApiCall::GetKfList)
}

#[test]
fn kf_accounts_follow_the_list_but_not_failed_lists() {
    let wechat = WeChat::play(quiet(&[("shop", 4)]));
    let control = wechat.control();
    let shop = appid(0);
    control.open_session(&shop, "kf4@shop", "o-stays", None).unwrap();
    let home = Home::watching(&wechat, COLLECTORS);
    let text = std::fs::read_to_string(home.path("config.toml")).unwrap();
    let named = "kf_accounts = [\"kf1@shop\", \"kf2@shop\", \"kf3@shop\", \"kf4@shop\"]";
    assert!(text.contains(named), "{text}");
    home.write("config.toml", &text.replace(named, "kf_accounts = [\"*\"]"));
    let daemon = home.daemon();
    eventually_watched("all listed accounts", &daemon, &["kf1@shop", "kf2@shop", "kf3@shop", "kf4@shop"]);

    assert_transfers_match_ledger(&control, &daemon);

    control.add_kf_account(&shop, "kf9@shop").unwrap();
    control.set_kf_state(&shop, "kf4@shop", KfState::Invalid).unwrap();
    let expected = ["kf1@shop", "kf2@shop", "kf3@shop", "kf9@shop"];
    eventually_watched("one account removed and one added", &daemon, &expected);
    let left =
        |event: &Value| event["data"]["kf_account"] == "kf4@shop" && event["data"]["to"] == "unwatched";
    eventually("the removal", || events(&daemon).iter().any(left).then_some(()));

    control.inject(FaultRule { endpoint: Some(ApiCall::GetKfList), ..FaultRule::new(Fault::Errcode(-1)) });
    let before = lists(&control);
    eventually("a list that fails", || (lists(&control) > before).then_some(()));
    control.clear_faults();
    // The list is empty now, and getsessionlist knows none of the accounts.
    expected.iter().for_each(|name| control.set_kf_state(&shop, name, KfState::Invalid).unwrap());
    let before = lists(&control);
    eventually("an empty list", || (lists(&control) > before).then_some(()));
    let polls = || control.polls_of(&shop, "kf1@shop").unwrap();
    let polled = polls();
    eventually("another poll", || (polls() > polled).then_some(()));
    assert_eq!(watched(&daemon).len(), 4, "none was removed: {:?}", watched(&daemon));
    let ends = events(&daemon).into_iter().filter(|event| event["data"]["openid"] == "o-stays");
    assert_eq!(ends.count(), 1, "its baseline, and no end");
    println!("discovery: {} lists", lists(&control));
}

fn assert_transfers_match_ledger(control: &SimulatorControl, daemon: &Process) {
    let shop = appid(0);
    let wait_for_start = |what: &str, openid: &str, kf_account: &str| {
        eventually(what, || {
            events(daemon).into_iter().find(|event| {
                event["type"] == "kf.session.started"
                    && event["data"]["openid"] == openid
                    && event["data"]["kf_account"] == kf_account
            })
        })
    };
    for (openid, from, to) in [
        ("o-one", "kf1@shop", "kf2@shop"),
        ("o-two", "kf3@shop", "kf1@shop"),
        ("o-one", "kf2@shop", "kf3@shop"),
    ] {
        if from != "kf2@shop" {
            control.open_session(&shop, from, openid, None).unwrap();
        }
        wait_for_start("the start", openid, from);
        control.transfer_session(&shop, [from, to], openid).unwrap();
        wait_for_start("the transfer", openid, to);
    }
    control.open_session(&shop, "kf2@shop", "o-new", None).unwrap();
    wait_for_start("a new customer", "o-new", "kf2@shop");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut said: Vec<_> = events(daemon)
        .iter()
        .map(|event| &event["data"])
        .filter(|data| data.get("transferred_from").is_some())
        .map(|data| [&data["openid"], &data["transferred_from"], &data["kf_account"]].map(text))
        .collect();
    let ledger = control.ledger().transfers;
    let mut truth: Vec<_> = ledger
        .iter()
        .map(|transfer| [&*transfer.openid, &*transfer.from, &*transfer.to].map(str::to_owned))
        .collect();
    said.sort();
    truth.sort();
    assert_eq!((truth.len(), &said), (3, &truth));
}
