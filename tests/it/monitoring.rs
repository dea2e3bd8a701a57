//! The /metrics page: every documented family is exported with its type and labels, and no series appears twice.

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
};

use crate::support::{
    metrics_page::Page,
    process::{Home, Process, WeChat, appid, get, metric, quiet},
    prometheus::Prometheus,
    wait::eventually,
};
use kfwatch::simulator::{ApiCall, Fault, FaultRule, KfState};

const ACCOUNT: [&str; 2] = ["official_account", "kf_account"];
const OFFICIAL_ACCOUNT: [&str; 1] = ["official_account"];
const SINK: [&str; 1] = ["sink"];

/// Families on every page of a daemon that has polled, with their types and labels.
const ALWAYS: &[(&str, &str, &[&str])] = &[
    ("wechat_kf_active_sessions", "gauge", &ACCOUNT),
    ("wechat_kf_oldest_session_timestamp_seconds", "gauge", &ACCOUNT),
    ("wechat_kf_account_up", "gauge", &ACCOUNT),
    ("wechat_kf_account_unbound", "gauge", &ACCOUNT),
    ("wechat_kf_account_invalid", "gauge", &ACCOUNT),
    ("kfwatch_account_blind", "gauge", &ACCOUNT),
    ("wechat_kf_sessions_started_total", "counter", &ACCOUNT),
    ("wechat_kf_sessions_ended_total", "counter", &ACCOUNT),
    ("kfwatch_poll_last_success_timestamp_seconds", "gauge", &ACCOUNT),
    ("kfwatch_poll_overdue", "gauge", &ACCOUNT),
    ("kfwatch_polls_total", "counter", &ACCOUNT),
    ("kfwatch_poll_failures_total", "counter", &ACCOUNT),
    ("kfwatch_poll_overruns_total", "counter", &ACCOUNT),
    ("wechat_kf_account_info", "gauge", &["official_account", "kf_account", "nickname"]),
    ("wechat_kf_account_online", "gauge", &ACCOUNT),
    ("wechat_kf_account_accepted_cases", "gauge", &ACCOUNT),
    ("wechat_kf_accounts_watched", "gauge", &OFFICIAL_ACCOUNT),
    ("wechat_kf_online_accounts", "gauge", &OFFICIAL_ACCOUNT),
    ("wechat_kf_waiting_customers", "gauge", &OFFICIAL_ACCOUNT),
    ("wechat_kf_api_quota_limit", "gauge", &OFFICIAL_ACCOUNT),
    ("wechat_kf_api_quota_remaining", "gauge", &OFFICIAL_ACCOUNT),
    ("kfwatch_collector_last_success_timestamp_seconds", "gauge", &["official_account", "collector"]),
    ("wechat_kf_session_duration_seconds", "histogram", &[]),
    ("kfwatch_api_requests_total", "counter", &["official_account", "endpoint"]),
    ("kfwatch_api_errors_total", "counter", &["official_account", "endpoint", "code"]),
    ("kfwatch_api_request_duration_seconds", "histogram", &["endpoint"]),
    ("kfwatch_token_refreshes_total", "counter", &OFFICIAL_ACCOUNT),
    ("kfwatch_token_refresh_failures_total", "counter", &OFFICIAL_ACCOUNT),
    ("kfwatch_token_replaced_total", "counter", &OFFICIAL_ACCOUNT),
    ("kfwatch_token_expiry_timestamp_seconds", "gauge", &OFFICIAL_ACCOUNT),
    ("kfwatch_token_last_refresh_successful", "gauge", &OFFICIAL_ACCOUNT),
    ("kfwatch_sweeps_total", "counter", &[]),
    ("kfwatch_schedule_missed_ticks_total", "counter", &[]),
    ("kfwatch_sweep_duration_seconds", "histogram", &[]),
    ("kfwatch_events_total", "counter", &["event_type"]),
    ("kfwatch_sink_delivered_events_total", "counter", &SINK),
    ("kfwatch_sink_delivery_failures_total", "counter", &SINK),
    ("kfwatch_sink_pending_events", "gauge", &SINK),
    ("kfwatch_sink_dead_letters", "gauge", &SINK),
    ("kfwatch_sink_expired_dead_letters_total", "counter", &SINK),
    ("kfwatch_sink_lost_events_total", "counter", &SINK),
    ("kfwatch_sink_suspended", "gauge", &SINK),
    ("kfwatch_sink_stopped", "gauge", &SINK),
    ("kfwatch_store_commit_duration_seconds", "histogram", &[]),
    ("kfwatch_store_failures_total", "counter", &[]),
    ("kfwatch_store_last_write_successful", "gauge", &[]),
    ("kfwatch_store_size_bytes", "gauge", &[]),
    ("kfwatch_store_used_bytes", "gauge", &[]),
    ("kfwatch_store_event_log_max_bytes", "gauge", &[]),
    ("kfwatch_store_events", "gauge", &[]),
    ("kfwatch_upstream_clock_skew_seconds", "gauge", &[]),
    ("kfwatch_build_info", "gauge", &["version", "revision"]),
    ("kfwatch_config_last_reload_successful", "gauge", &[]),
    ("kfwatch_config_last_reload_success_timestamp_seconds", "gauge", &[]),
    ("kfwatch_log_dropped_lines_total", "counter", &[]),
];

/// Families that have no series while no event is pending, or no customer waits.
const SOMETIMES: [&str; 2] =
    ["kfwatch_sink_oldest_pending_timestamp_seconds", "wechat_kf_waiting_oldest_message_timestamp_seconds"];

/// A schedule without a tick during a test, so that nothing is polled.
const NEVER: &str = "0 0 0 29 2 *";

#[test]
fn every_documented_family_is_exported_with_type_and_labels() {
    let (_wechat, daemon) = start_with_activity();
    let page = Page::of(&daemon);
    for (name, kind, labels) in ALWAYS {
        assert_eq!(page.types.get(*name).map(String::as_str), Some(*kind), "type of {name}");
        let expected: BTreeSet<&str> = labels.iter().copied().collect();
        let series: Vec<_> = page.series_of(name).collect();
        assert!(!series.is_empty(), "{name} has no series");
        for labels in series {
            let found: BTreeSet<&str> =
                labels.keys().map(String::as_str).filter(|key| *key != "le").collect();
            assert_eq!(found, expected, "labels of {name}");
        }
    }
    let documented: BTreeSet<&str> = ALWAYS.iter().map(|(name, ..)| *name).collect();
    let others = page.types.keys().filter(|name| !documented.contains(name.as_str()));
    let unexpected: Vec<_> = others
        .filter(|name| !name.starts_with("process_"))
        .filter(|name| !SOMETIMES.contains(&name.as_str()))
        .collect();
    assert!(unexpected.is_empty(), "undocumented families: {unexpected:?}");
}

#[test]
fn no_family_or_series_is_exported_twice() {
    let (_wechat, daemon) = start_with_activity();
    // Reading the page checks it.
    let page = Page::of(&daemon);
    assert!(page.series.len() > 50, "{}", page.series.len());
}

#[test]
fn known_series_start_at_zero_and_unknown_are_absent() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = Home::watching(&wechat, "").set("KFWATCH__POLL__SCHEDULE", NEVER).without_collectors();
    let daemon = home.daemon();
    let text = daemon.get("/metrics").text();
    let account = "{official_account=\"shop\",kf_account=\"kf1@shop\"}";
    for name in [
        "wechat_kf_account_up",
        "wechat_kf_account_unbound",
        "wechat_kf_account_invalid",
        "kfwatch_account_blind",
        "kfwatch_poll_overdue",
        "kfwatch_polls_total",
        "kfwatch_poll_failures_total",
        "kfwatch_poll_overruns_total",
        "wechat_kf_sessions_started_total",
        "wechat_kf_sessions_ended_total",
    ] {
        assert_eq!(metric(&text, &format!("{name}{account}")), Some(0.0), "{name}");
    }
    for series in [
        "kfwatch_events_total{event_type=\"kf.session.started\"}",
        "kfwatch_events_total{event_type=\"kf.session.ended\"}",
        "kfwatch_events_total{event_type=\"kf.account.state_changed\"}",
        "kfwatch_sink_delivered_events_total{sink=\"stdout\"}",
        "kfwatch_sink_pending_events{sink=\"stdout\"}",
        "kfwatch_token_refreshes_total{official_account=\"shop\"}",
        "kfwatch_api_requests_total{official_account=\"shop\",endpoint=\"getsessionlist\"}",
        "kfwatch_schedule_missed_ticks_total",
    ] {
        assert_eq!(metric(&text, series), Some(0.0), "{series}");
    }
    assert_eq!(metric(&text, "wechat_kf_accounts_watched{official_account=\"shop\"}"), Some(1.0));
    assert_eq!(metric(&text, "kfwatch_store_last_write_successful"), Some(1.0));
    let page = Page::of(&daemon);
    for name in [
        "wechat_kf_active_sessions",
        "wechat_kf_oldest_session_timestamp_seconds",
        "kfwatch_poll_last_success_timestamp_seconds",
        "kfwatch_token_expiry_timestamp_seconds",
        "kfwatch_token_last_refresh_successful",
        "kfwatch_api_errors_total",
        "wechat_kf_account_info",
        "wechat_kf_account_online",
        "wechat_kf_account_accepted_cases",
        "wechat_kf_online_accounts",
        "wechat_kf_waiting_customers",
        "wechat_kf_api_quota_limit",
        "wechat_kf_api_quota_remaining",
        "kfwatch_collector_last_success_timestamp_seconds",
    ] {
        assert_eq!(page.series_of(name).count(), 0, "{name} is not known yet");
    }
    assert_eq!(wechat.control().requests(ApiCall::GetSessionList), 0, "scrapes make no API call");
}

#[test]
fn pattern_that_finds_nobody_watches_zero_accounts() {
    let wechat = WeChat::play(quiet(&[("empty", 0), ("refused", 2), ("shop", 2)]));
    let refused = Some("refused".to_owned());
    wechat.control().inject(FaultRule {
        endpoint: Some(ApiCall::GetKfList),
        official_account: refused,
        ..FaultRule::new(Fault::Errcode(48001))
    });
    let mut home = Home::watching(&wechat, "");
    let text = std::fs::read_to_string(home.path("config.toml")).unwrap();
    let with_patterns = text.lines().map(|line| match line.starts_with("kf_accounts = ") {
        true => "kf_accounts = [\"*\"]\n".to_owned(),
        false => format!("{line}\n"),
    });
    home.write("config.toml", &with_patterns.collect::<String>());
    for per_account in ["true", "false"] {
        home = home.set("KFWATCH__METRICS__PER_ACCOUNT", per_account);
        let daemon = home.daemon();
        let watched =
            |name| daemon.metric(&format!("wechat_kf_accounts_watched{{official_account=\"{name}\"}}"));
        eventually("the list of shop", || watched("shop").filter(|watched| *watched > 1.0));
        assert_eq!([watched("empty"), watched("refused")], [Some(0.0); 2], "per account: {per_account}");
    }
}

#[test]
fn nicknames_are_left_out_on_request() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let daemon = Home::watching(&wechat, "").set("KFWATCH__METRICS__NICKNAMES", "false").daemon();
    let collector = "kfwatch_collector_last_success_timestamp_seconds";
    eventually("the list of kf accounts", || {
        daemon.metric(&format!("{collector}{{official_account=\"shop\",collector=\"kf_list\"}}"))
    });
    let page = Page::of(&daemon);
    assert_eq!(page.series_of("wechat_kf_account_info").count(), 0);
    assert_eq!(page.series_of("wechat_kf_account_up").count(), 1);
}

#[test]
fn failing_account_is_blind_until_it_answers() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let failing = Some("kf1@shop".to_owned());
    wechat.control().inject(FaultRule { kf_account: failing, ..FaultRule::new(Fault::Errcode(-1)) });
    let daemon = Home::watching(&wechat, "").set("KFWATCH__POLL__BLIND_AFTER", "1s").daemon();
    let blind = |kf_account: &str| {
        let account = format!("{{official_account=\"shop\",kf_account=\"{kf_account}\"}}");
        daemon.metric(&format!("kfwatch_account_blind{account}"))
    };
    let is = |value: f64| move |found: &f64| found.to_bits() == value.to_bits();
    eventually("the blind state", || blind("kf1@shop").filter(is(1.0)));
    assert_eq!(blind("kf2@shop"), Some(0.0));
    wechat.control().clear_faults();
    eventually("the end of the blind state", || blind("kf1@shop").filter(is(0.0)));
}

#[test]
fn token_success_is_exported_per_official_account() {
    let wechat = WeChat::play(quiet(&[("shop", 1), ("branch", 1)]));
    let refused = Some("shop".to_owned());
    wechat.control().inject(FaultRule { official_account: refused, ..FaultRule::new(Fault::Errcode(40164)) });
    let home = Home::watching(&wechat, "").set("KFWATCH__BACKOFF__ADDRESS_NOT_ALLOWED", "1s");
    let daemon = home.daemon();
    let last_refresh = |official_account: &str, value: f64| {
        let series =
            format!("kfwatch_token_last_refresh_successful{{official_account=\"{official_account}\"}}");
        eventually(&series, || daemon.metric(&series).filter(|found| found.to_bits() == value.to_bits()));
    };
    last_refresh("branch", 1.0);
    last_refresh("shop", 0.0);
    wechat.control().clear_faults();
    last_refresh("shop", 1.0);
}

#[test]
fn metrics_page_has_content_type_and_compression() {
    let wechat = WeChat::play(quiet(&[("shop", 20)]));
    let daemon = Home::watching(&wechat, "").set("KFWATCH__POLL__SCHEDULE", NEVER).daemon();
    let plain = daemon.get("/metrics");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(plain.header("content-encoding"), None);
    let zipped = get(daemon.address(), "/metrics", "Accept-Encoding: gzip\r\n");
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    assert_eq!(zipped.header("content-type"), plain.header("content-type"));
    assert!(zipped.body.len() < plain.body.len() / 2);
    assert!(piped("gzip", &["-dc"], &zipped.body).stdout.starts_with(b"# HELP "));
}

#[test]
fn ambiguous_label_values_stay_distinct() {
    let mut scenario = quiet(&[("shop", 1), ("shopk", 1)]);
    // "shop" + "kf1@x" and "shopk" + "f1@x".
    scenario.official_accounts[0].wechat_id = "x".to_owned();
    scenario.official_accounts[1].wechat_id = "x".to_owned();
    scenario.official_accounts[1].kf_accounts[0].prefix = "f1".to_owned();
    let wechat = WeChat::play(scenario);
    wechat.control().open_session(&appid(0), "kf1@x", "oA", None).unwrap();
    let daemon = Home::watching(&wechat, "").daemon();
    for (official_account, kf_account, sessions) in [("shop", "kf1@x", 1.0), ("shopk", "f1@x", 0.0)] {
        let series = format!(
            "wechat_kf_active_sessions{{official_account=\"{official_account}\",kf_account=\"{kf_account}\"}}"
        );
        let found = eventually("the sessions", || daemon.metric(&series));
        assert_eq!(found.to_bits(), f64::to_bits(sessions), "{series}");
    }
}

#[test]
fn label_values_are_escaped() {
    let mut scenario = quiet(&[("shop", 1)]);
    scenario.official_accounts[0].kf_accounts[0].prefix = r#"a"b\c"#.to_owned();
    let wechat = WeChat::play(scenario);
    let daemon = Home::watching(&wechat, "").set("KFWATCH__POLL__SCHEDULE", NEVER).daemon();
    let series = r#"wechat_kf_account_up{official_account="shop",kf_account="a\"b\\c@shop"}"#;
    assert_eq!(daemon.metric(series), Some(0.0));
}

#[test]
fn aggregated_detail_exports_sums() {
    let wechat = WeChat::play(quiet(&[("shop", 3)]));
    let control = wechat.control();
    control.open_session(&appid(0), "kf1@shop", "oA", Some(1_700_000_002)).unwrap();
    control.open_session(&appid(0), "kf2@shop", "oB", Some(1_700_000_001)).unwrap();
    control.set_kf_state(&appid(0), "kf3@shop", KfState::Unbound).unwrap();
    let daemon = Home::watching(&wechat, "").set("KFWATCH__METRICS__PER_ACCOUNT", "false").daemon();
    let of_shop = |name: &str| daemon.metric(&format!("{name}{{official_account=\"shop\"}}"));
    eventually("both sessions", || of_shop("wechat_kf_active_sessions").filter(|sum| *sum >= 2.0));
    eventually("the unbound account", || of_shop("wechat_kf_account_unbound").filter(|sum| *sum >= 1.0));
    assert_eq!(of_shop("wechat_kf_account_up"), Some(2.0));
    assert_eq!(of_shop("wechat_kf_oldest_session_timestamp_seconds"), Some(1_700_000_001.0));
    eventually("the online accounts", || of_shop("wechat_kf_account_online"));
    let page = Page::of(&daemon);
    assert!(page.series.iter().all(|(_, labels)| !labels.contains_key("kf_account")));
}

#[test]
#[ignore = "needs promtool; tests/run.sh runs it"]
fn promtool_accepts_the_page() {
    let (_wechat, daemon) = start_with_activity();
    let checked = piped("promtool", &["check", "metrics"], &daemon.get("/metrics").body);
    assert_eq!((checked.stderr, checked.code), (String::new(), Some(0)));
}

#[test]
#[ignore = "needs prometheus; tests/run.sh runs it"]
fn prometheus_scrapes_the_demo() {
    let home = Home::new();
    let demo = home.spawn("demo --listen 127.0.0.1:0");
    let prometheus = Prometheus::scraping(&home, demo.address());
    let has = |query: &str, is_expected: fn(f64) -> bool| {
        eventually(query, || prometheus.query(query).into_iter().find(|value| is_expected(*value)));
    };
    has("up{job=\"kfwatch\"}", |up| up > 0.0);
    has("count(wechat_kf_active_sessions)", |accounts| accounts >= 15.0);
    has("sum(wechat_kf_account_unbound)", |unbound| (3.0..=3.0).contains(&unbound));
    has("sum(wechat_kf_account_invalid)", |invalid| (1.0..=1.0).contains(&invalid));
    has("sum(kfwatch_api_errors_total{code=\"65402\"})", |errors| errors >= 3.0);
}

/// Starts a daemon with an open and an ended session, an unbound account, an invalid account, and a failing one.
fn start_with_activity() -> (WeChat, Process) {
    let wechat = WeChat::play(quiet(&[("shop", 4), ("branch", 1)]));
    let control = wechat.control();
    control.open_session(&appid(0), "kf1@shop", "oA", None).unwrap();
    control.open_session(&appid(0), "kf1@shop", "oB", None).unwrap();
    control.set_kf_state(&appid(0), "kf2@shop", KfState::Unbound).unwrap();
    control.set_kf_state(&appid(0), "kf3@shop", KfState::Invalid).unwrap();
    let busy = Some("kf1@branch".to_owned());
    control.inject(FaultRule { kf_account: busy, times: Some(1), ..FaultRule::new(Fault::Errcode(-1)) });
    let daemon = Home::watching(&wechat, "").daemon();
    let first = "{official_account=\"shop\",kf_account=\"kf1@shop\"}";
    let of_first = |name: &str| daemon.metric(&format!("{name}{first}"));
    eventually("the sessions", || of_first("wechat_kf_active_sessions").filter(|sessions| *sessions >= 2.0));
    control.close_session(&appid(0), "kf1@shop", "oB").unwrap();
    eventually("the end", || of_first("wechat_kf_sessions_ended_total").filter(|ended| *ended >= 1.0));
    let busy =
        "kfwatch_api_errors_total{official_account=\"branch\",endpoint=\"getsessionlist\",code=\"-1\"}";
    eventually("the busy answer", || daemon.metric(busy));
    for collector in ["kf_list", "online", "waiting", "quota"] {
        let series = format!(
            "kfwatch_collector_last_success_timestamp_seconds{{official_account=\"shop\",collector=\"{collector}\"}}"
        );
        eventually(collector, || daemon.metric(&series));
    }
    (wechat, daemon)
}

struct Piped {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

fn piped(program: &str, arguments: &[&str], input: &[u8]) -> Piped {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    Piped {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
