//! Every error class in the whole program at once, with one official account for each way in which getsessionlist can
//! fail: how often it is called, what /metrics and the log say meanwhile, which other accounts back off, and that all
//! of them recover.
//!
//! `poll.rs` tests the same classes with a scripted clock and the default backoff. `operations.rs` tests refused token
//! calls.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use crate::support::{
    process::{Home, Process, WeChat, appid, metric, quiet},
    wait::eventually,
};
use kfwatch::simulator::{ApiCall, Fault, FaultRule, SimulatorControl};

/// Backoffs that are short enough to end within the test, and longer than the interval of ticks.
const CONFIGURATION: &str = "[backoff]\nbusy = \"2s\"\nunbound = \"2s\"\nbad_request = \"2s\"\n\
    unknown = \"2s\"\naddress_not_allowed = \"2s\"\nnot_authorized = \"2s\"\nnot_enabled = \"2s\"\nday_quota = \"2s\"\n";

/// What backs off after a failure.
#[derive(Clone, Copy, PartialEq)]
enum BackoffScope {
    KfAccount,
    /// The request is also retried once on a new connection.
    KfAccountOfBrokenConnection,
    OfficialAccount,
    /// Longer than the test lasts: the duration follows WeChat's own clock.
    ForLong,
}
use BackoffScope::{ForLong, KfAccount, KfAccountOfBrokenConnection, OfficialAccount};

/// The failure, its value of the label `code`, what backs off, and a word of the remedy.
const CASES: [(Fault, &str, BackoffScope, &str); 30] = [
    (Fault::Errcode(-1), "-1", KfAccount, ""),
    (Fault::HttpStatus(502), "http", KfAccount, ""),
    (Fault::Hang, "timeout", KfAccount, ""),
    (Fault::Close, "connect", KfAccountOfBrokenConnection, ""),
    (Fault::Html, "malformed", KfAccount, ""),
    (Fault::EmptyBody, "malformed", KfAccount, ""),
    (Fault::TruncatedBody, "malformed", KfAccount, ""),
    (Fault::ListOfWrongType, "malformed", KfAccount, ""),
    (Fault::OversizedBody, "too_large", KfAccount, "max_body_bytes"),
    (Fault::Errcode(65402), "65402", KfAccount, "inviteworker"),
    (Fault::Errcode(65401), "65401", KfAccount, ""),
    (Fault::Errcode(41001), "41001", KfAccount, ""),
    (Fault::Errcode(43001), "43001", KfAccount, ""),
    (Fault::Errcode(47001), "47001", KfAccount, ""),
    (Fault::Errcode(987_654), "other", KfAccount, ""),
    (Fault::ErrcodeAsText(65413), "65413", KfAccount, ""),
    (Fault::Errcode(40164), "40164", OfficialAccount, "203.0.113.7"),
    (Fault::Errcode(45035), "45035", OfficialAccount, "remedy="),
    (Fault::Errcode(61004), "61004", OfficialAccount, "open.weixin.qq.com"),
    (Fault::Errcode(89501), "89501", OfficialAccount, "remedy="),
    (Fault::Errcode(48001), "48001", OfficialAccount, "remedy="),
    (Fault::Errcode(48004), "48004", OfficialAccount, "remedy="),
    (Fault::Errcode(50002), "50002", OfficialAccount, "remedy="),
    (Fault::Errcode(61003), "61003", OfficialAccount, "remedy="),
    (Fault::Errcode(61007), "61007", OfficialAccount, "permission set"),
    (Fault::Errcode(65400), "65400", OfficialAccount, "remedy="),
    (Fault::Errcode(45009), "45009", OfficialAccount, "poll less often"),
    (Fault::Errcode(45011), "45011", ForLong, "remedy="),
    (Fault::Errcode(89506), "89506", ForLong, "remedy="),
    (Fault::Errcode(89507), "89507", ForLong, "remedy="),
];

#[test]
fn every_error_class_backs_off_is_counted_logged_and_recovers() {
    let names: Vec<String> = (0..CASES.len()).map(name).collect();
    let mut official_accounts: Vec<(&str, usize)> = names.iter().map(|name| (&**name, 2)).collect();
    official_accounts.push(("calm", 2));
    let wechat = WeChat::play(quiet(&official_accounts));
    let control = wechat.control();
    for index in 0..CASES.len() {
        control.open_session(&appid(index), &kf_account(index, 1), "o-stays", None).unwrap();
    }
    let home = Home::watching(&wechat, CONFIGURATION).set("KFWATCH__API__TIMEOUT", "2s");
    let daemon = home.set("KFWATCH__API__CONNECT_TIMEOUT", "2s").daemon();
    let is_up = |page: &str, index, kf| gauge(page, "wechat_kf_account_up", index, kf) == Some(1.0);
    eventually("good polls of all", || {
        let page = daemon.get("/metrics").text();
        (0..CASES.len()).all(|index| is_up(&page, index, 1) && is_up(&page, index, 2)).then_some(())
    });

    let before: Vec<_> = (0..=CASES.len()).map(|index| polls(&control, index)).collect();
    CASES.iter().enumerate().for_each(|(index, case)| control.inject(rule(index, case)));
    let begun = Instant::now();
    let calm = |control: &SimulatorControl| polls(control, CASES.len())[0] - before[CASES.len()][0];
    eventually("sixteen ticks", || (calm(&control) >= 16).then_some(()));
    let page = daemon.get("/metrics").text();
    let log = daemon.stderr();
    let lasted = begun.elapsed();
    for (index, (_, code, scope, _)) in CASES.iter().enumerate() {
        let after = polls(&control, index);
        let called = [0, 1].map(|kf| after[kf] - before[index][kf]);
        assert_calls_match_backoff(index, *scope, called, lasted);
        if matches!(scope, KfAccount | KfAccountOfBrokenConnection) {
            assert!(
                called[1] + 3 >= calm(&control),
                "{}: the other kf account was polled {} times",
                name(index),
                called[1]
            );
            assert!(is_up(&page, index, 2), "{}: the other kf account", name(index));
        } else {
            assert!(!is_up(&page, index, 2), "{}", name(index));
        }
        assert_metrics_show(&page, index, code, called[0] + called[1]);
        assert_logged_once(&log, index);
    }

    control.clear_faults();
    let recovers = |index: &usize| CASES[*index].2 != ForLong;
    eventually("good polls of all that recover", || {
        let page = daemon.get("/metrics").text();
        (0..CASES.len())
            .filter(recovers)
            .all(|index| is_up(&page, index, 1) && is_up(&page, index, 2))
            .then_some(())
    });
    let page = daemon.get("/metrics").text();
    for index in (0..CASES.len()).filter(recovers) {
        for state_metric in ["wechat_kf_account_unbound", "wechat_kf_account_invalid"] {
            assert_eq!(gauge(&page, state_metric, index, 1), Some(0.0), "{}", name(index));
        }
    }
    let recovered = (0..CASES.len()).filter(recovers).count();
    // The minute quota ends when a minute begins, which may be now.
    assert_recoveries_logged(&daemon, recovered..=recovered + 1);
    assert_only_state_events(&daemon.stdout());
    println!("classes: {} cases in {lasted:?}, and {:?} in all", CASES.len(), begun.elapsed());
}

fn name(index: usize) -> String {
    match &CASES[index].0 {
        Fault::Errcode(code) | Fault::ErrcodeAsText(code) => format!("errcode_{code}_"),
        fault => format!("{fault:?}_").replace(['(', ')'], "_").to_lowercase(),
    }
}

fn kf_account(index: usize, kf: usize) -> String {
    format!("kf{kf}@{}", name(index))
}

/// A fault for one kf account, or for all of the official account.
fn rule(index: usize, (fault, _, scope, _): &(Fault, &str, BackoffScope, &str)) -> FaultRule {
    let alone = matches!(scope, KfAccount | KfAccountOfBrokenConnection);
    FaultRule {
        endpoint: Some(ApiCall::GetSessionList),
        official_account: Some(name(index)),
        kf_account: alone.then(|| kf_account(index, 1)),
        ..FaultRule::new(fault.clone())
    }
}

fn polls(control: &SimulatorControl, index: usize) -> [u64; 2] {
    let name = if index == CASES.len() { "calm".to_owned() } else { name(index) };
    [1, 2].map(|kf| control.polls_of(&appid(index), &format!("kf{kf}@{name}")).unwrap())
}

fn gauge(page: &str, family: &str, index: usize, kf: usize) -> Option<f64> {
    let labels = format!("official_account=\"{}\",kf_account=\"{}\"", name(index), kf_account(index, kf));
    metric(page, &format!("{family}{{{labels}}}"))
}

/// Jitter shortens a backoff of two seconds by a fifth at most. The first failure may come at any time, and one call
/// may be in flight.
fn assert_calls_match_backoff(index: usize, scope: BackoffScope, called: [u64; 2], lasted: Duration) {
    let waits = 2 + (lasted.as_secs_f64() / 1.6) as u64;
    let (calls, ceiling, floor) = match scope {
        KfAccount => (called[0], waits, 3),
        KfAccountOfBrokenConnection => (called[0], 2 * waits, 6),
        // Both kf accounts may be polled in the same tick.
        OfficialAccount => (called[0] + called[1], 2 * waits, 3),
        // The next minute may begin meanwhile.
        ForLong => (called[0] + called[1], if CASES[index].1 == "45011" { 4 } else { 2 }, 1),
    };
    assert!((floor..=ceiling).contains(&calls), "{}: {calls} calls of {ceiling} in {lasted:?}", name(index));
}

fn assert_metrics_show(page: &str, index: usize, code: &str, calls: u64) {
    let of = name(index);
    assert_eq!(gauge(page, "wechat_kf_account_up", index, 1), Some(0.0), "{of}");
    let marked = |code_of_it: &str| Some(f64::from(u8::from(code == code_of_it)));
    assert_eq!(gauge(page, "wechat_kf_account_unbound", index, 1), marked("65402"), "{of}");
    assert_eq!(gauge(page, "wechat_kf_account_invalid", index, 1), marked("65401"), "{of}");
    assert_eq!(gauge(page, "wechat_kf_active_sessions", index, 1), Some(1.0), "{of}: the last known value");
    let series =
        format!("kfwatch_api_errors_total{{official_account=\"{of}\",endpoint=\"getsessionlist\",code=");
    let counted: Vec<&str> = page.lines().filter(|line| line.starts_with(&series)).collect();
    let [only] = counted[..] else { unreachable!("{of}: {counted:?}") };
    let count =
        only.strip_prefix(&format!("{series}\"{code}\"}} ")).unwrap_or_else(|| unreachable!("{only}"));
    let count: f64 = count.parse().unwrap();
    assert!((1.0..=calls as f64).contains(&count), "{of}: {count} errors of {calls} calls");
}

fn assert_recoveries_logged(daemon: &Process, expected: RangeInclusive<usize>) {
    let logged = || recoveries(&daemon.stderr());
    eventually("a logged recovery of each", || (logged() >= *expected.start()).then_some(()));
    assert!(expected.contains(&logged()), "{} of {expected:?}: {}", logged(), daemon.stderr());
}

/// How many accounts the log reports as recovered. Those that recover within a second share a line.
fn recoveries(log: &str) -> usize {
    let number = |line: &str, field: &str| {
        let (_, value) = line.split_once(&format!(" {field}="))?;
        value.split(' ').next()?.parse().ok()
    };
    let accounts = |line| number(line, "kf_accounts").or(number(line, "official_accounts")).unwrap_or(1);
    let lines = log.lines().filter(|line| line.contains("succeed again") && !line.contains("Collections"));
    lines.map(accounts).sum()
}

fn concerns(line: &str, index: usize) -> bool {
    line.contains(&name(index))
}

fn assert_logged_once(log: &str, index: usize) {
    let lines: Vec<&str> =
        log.lines().filter(|line| concerns(line, index) && line.contains("failed:")).collect();
    let (_, code, _, remedy) = CASES[index];
    assert_eq!(lines.len(), 1, "{}: {lines:#?}", name(index));
    assert!(lines[0].contains(&format!("code={code}")) && lines[0].contains(remedy), "{}", lines[0]);
    if code == "other" {
        assert!(lines[0].contains("987654"), "{}", lines[0]);
    }
}

/// Failures neither end nor start sessions. Only unbound and invalid accounts cause events so soon.
fn assert_only_state_events(stdout: &str) {
    let mut news = Vec::new();
    for line in stdout.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let data = &event["data"];
        if event["type"] == "kf.account.state_changed" {
            let [of, from, to] = ["kf_account", "from", "to"].map(|key| data[key].as_str().unwrap());
            news.push(format!("{of} {from}>{to}"));
        } else {
            assert_eq!((&event["type"], &data["openid"]), (&"kf.session.started".into(), &"o-stays".into()));
        }
    }
    let moved = |code: i64, moves: &str| format!("kf1@errcode_{code}_ {moves}");
    let mut expected = [
        moved(65402, "ok>unbound"),
        moved(65402, "unbound>ok"),
        moved(65401, "ok>invalid"),
        moved(65401, "invalid>ok"),
    ];
    news.sort();
    expected.sort();
    assert_eq!(news, expected);
}
