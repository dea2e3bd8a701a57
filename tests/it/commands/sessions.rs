//! `kfwatch sessions`: from the daemon, from the store, and what each of them knows.

use kfwatch::simulator::{KfState, Scenario};
use serde_json::Value;

use super::assert_prints;
use crate::support::{
    process::{Home, Process, WeChat, appid, quiet},
    wait::eventually,
};

const ALICE: &str = "oDF3iY9P32sK_5GgYiRkjsabcdef";
const BOB: &str = "oDF3iY9P32sK_5GgYiRkjsuvwxyz";

/// One official account whose agents have nicknames: the first has one customer, the second is not bound.
fn scenario() -> Scenario {
    let mut scenario = quiet(&[("shop", 2)]);
    for (account, nickname) in scenario.official_accounts[0].kf_accounts.iter_mut().zip(["小明", "Ming"]) {
        account.nickname = Some(nickname.to_owned());
    }
    scenario.official_accounts[0].kf_accounts[1].state = KfState::Unbound;
    scenario
}

/// A daemon that polls every second, and that asked getonlinekflist before the second customer came.
fn shop() -> (WeChat, Home, Process) {
    let wechat = WeChat::play(scenario());
    wechat.control().open_session(&appid(0), "kf1@shop", ALICE, Some(1_700_000_000)).unwrap();
    let home = Home::watching(&wechat, "");
    let daemon = home.daemon();
    let labels = "{official_account=\"shop\",kf_account=\"kf1@shop\"}";
    let is = |name: &str, value: f64| {
        daemon.metric(&format!("{name}{labels}")).filter(|found| (found - value).abs() < 0.5)
    };
    eventually("the accepted case", || is("wechat_kf_account_accepted_cases", 1.0));
    wechat.control().open_session(&appid(0), "kf1@shop", BOB, Some(1_700_000_060)).unwrap();
    eventually("both sessions", || is("wechat_kf_active_sessions", 2.0));
    let unbound = "wechat_kf_account_unbound{official_account=\"shop\",kf_account=\"kf2@shop\"}";
    eventually("the unbound account", || daemon.metric(unbound).filter(|is| *is > 0.5));
    (wechat, home, daemon)
}

#[test]
fn sessions_show_customers_beside_accepted_cases() {
    let (_wechat, home, _daemon) = shop();
    let heading = " ACCOUNT        NICKNAME  STATE    SESSIONS  ACCEPTED  ONLINE  LAST POLL\n";
    let of_shop = " shop/kf1@shop  小明      ok       2         1         yes     YYYY-MM-DD hh:mm:ss\n \
                   shop/kf2@shop  Ming      unbound  –         –         no      –\n";
    let of_customers = "\n ACCOUNT        CUSTOMER   SINCE                LAST SEEN\n \
                        shop/kf1@shop  oDF3…cdef  YYYY-MM-DD hh:mm:ss  YYYY-MM-DD hh:mm:ss\n \
                        shop/kf1@shop  oDF3…wxyz  YYYY-MM-DD hh:mm:ss  YYYY-MM-DD hh:mm:ss\n";
    let summary = "\n2 open sessions of 2 kf accounts, 1 kf account not polled successfully yet. Times are in Asia/Shanghai.\n";
    assert_prints(&home.run("sessions"), 0, &[heading, of_shop, of_customers, summary].concat(), "");
    assert_prints(
        &home.run("sessions --problems"),
        0,
        &[heading, of_shop, of_customers, summary].concat(),
        "",
    );
    assert!(home.run("sessions").stdout.contains("  2023-11-15 06:13:20  "), "in the time zone of people");

    let alone = " ACCOUNT        NICKNAME  STATE    SESSIONS  ACCEPTED  ONLINE  LAST POLL\n \
                 shop/kf2@shop  Ming      unbound  –         –         no      –\n\n\
                 No open sessions: 1 kf account, 1 kf account not polled successfully yet. Times are in Asia/Shanghai.\n";
    assert_prints(&home.run("sessions --account Ming"), 0, alone, "");
    let whole = home.run("sessions --openids --account 小明").stdout;
    assert!(whole.contains(ALICE) && whole.contains(BOB), "{whole}");
}

#[test]
fn events_show_only_problems_on_demand() {
    let (_wechat, home, _daemon) = shop();
    let expected = "TIME (Asia/Shanghai)  EVENT          ACCOUNT                       CUSTOMER   DETAILS\n\
                    YYYY-MM-DD hh:mm:ss   state_changed  shop/kf2@shop                            unbound, not invited\n";
    assert_prints(&home.run("events --problems"), 0, expected, "");
    assert_prints(&home.run("events --problems --account Ming"), 0, expected, "");
    assert_prints(&home.run("events --problems --account kf1@shop"), 0, "no events\n", "");
}

#[test]
fn sessions_for_programs_are_in_utc() {
    let (_wechat, home, _daemon) = shop();
    let rows: Vec<Value> = home
        .run("sessions --format json --openids")
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let kinds: Vec<&Value> = rows.iter().map(|row| &row["kind"]).collect();
    assert_eq!(kinds, ["kf_account", "session", "session", "kf_account"]);
    assert_eq!([&rows[0]["nickname"], &rows[1]["openid"], &rows[3]["state"]], ["小明", ALICE, "unbound"]);
    assert_eq!([&rows[0]["sessions"], &rows[0]["accepted_cases"]], [2, 1]);
    assert_eq!(rows[1]["started_at"], "2023-11-14T22:13:20.000Z");
    assert!(rows[0]["accepted_cases_at"].as_str().unwrap().ends_with('Z'), "{rows:?}");
    let csv = home.run("sessions --format csv").stdout;
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 4, "{csv}");
    assert!(
        lines[1].starts_with("shop,kf1@shop,小明,ok,2,1,true,20")
            && lines[1].contains("Z,oDF3…cdef,2023-11-14T22:13:20.000Z,20"),
        "{csv}"
    );
    assert_eq!(lines[3], "shop,kf2@shop,Ming,unbound,,,false,,,,");
}

#[test]
fn sessions_without_daemon_come_from_the_store() {
    let (_wechat, home, daemon) = shop();
    daemon.terminate();
    let note = "note: no daemon runs: the sessions are as the last one stored them, and only a daemon knows nicknames, who is \
                online, and accepted_cases\n";
    let expected = " ACCOUNT        NICKNAME  STATE    SESSIONS  ACCEPTED  ONLINE  LAST POLL\n \
                    shop/kf1@shop  –         ok       2         –         –       YYYY-MM-DD hh:mm:ss\n \
                    shop/kf2@shop  –         unbound  –         –         –       –\n\n \
                    ACCOUNT        CUSTOMER   SINCE                LAST SEEN\n \
                    shop/kf1@shop  oDF3…cdef  YYYY-MM-DD hh:mm:ss  YYYY-MM-DD hh:mm:ss\n \
                    shop/kf1@shop  oDF3…wxyz  YYYY-MM-DD hh:mm:ss  YYYY-MM-DD hh:mm:ss\n\n\
                    2 open sessions of 2 kf accounts, 1 kf account not polled successfully yet. Times are in Asia/Shanghai.\n";
    assert_prints(&home.run("sessions"), 0, expected, note);
    let unknown =
        "kfwatch: no such kf account: \"小明\"; known are kf1@shop, kf2@shop (no nickname is known)\n";
    assert_prints(&home.run("sessions --account 小明"), 1, "", unknown);
}
