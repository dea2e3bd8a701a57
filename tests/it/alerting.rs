//! The shipped rules and routes, tested with a real Prometheus, a real Alertmanager, the daemon and a simulated WeChat
//! API. Only intervals are shortened: a minute becomes a second.

mod alerts;
mod inhibitions;
mod message;
mod routes;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use self::alerts::{list, yaml};
use crate::support::{
    alertmanager::{Alertmanager, Receiver},
    kit::{minutes_as_seconds, routes_to, shipped, shorter},
    metrics_page::{Page, labels_of_cluster},
    process::{Home, Process, WeChat, appid, get, quiet},
    prometheus::Prometheus,
    promql::{Selector, grouping_labels, labels_found, selectors},
    wait::eventually,
};
use kfwatch::simulator::{ApiCall, CustomerFlow, Fault, FaultRule, KfState, RandomDuration};
use serde_json::{Value, json};

const RUNBOOK: &str = "https://github.com/kfwatch/kfwatch/blob/main/deploy/runbook.md#";

/// The series that Prometheus itself creates for the alerts that it evaluates.
const OF_ALERTS: &str = "ALERTS";

/// The labels that Prometheus adds to every series that it scrapes.
const OF_PROMETHEUS: [&str; 4] = ["job", "instance", "namespace", "cluster"];

#[test]
#[ignore = "needs prometheus and prometheus-alertmanager; tests/run.sh runs it"]
fn unbound_alert_fires_until_bound_and_dead_daemon_inhibits_it() {
    let wechat = WeChat::play(quiet(&[("shop", 3)]));
    let control = wechat.control();
    for kf_account in ["kf1@shop", "kf2@shop"] {
        control.set_kf_state(&appid(0), kf_account, KfState::Unbound).unwrap();
    }
    // Polls of unbound accounts back off for one second only, so that the recovery is seen soon.
    let home = Home::watching(&wechat, "[backoff]\nunbound = [\"0s\", \"1s\"]\n");
    let daemon = home.daemon();
    let site = Site::start(&home, daemon.address());
    let of_first = |status: &str| {
        let alerts = site.receiver.alerts("WechatKfAccountUnbound", status);
        alerts.into_iter().find(|alert| alert["labels"]["kf_account"] == "kf1@shop")
    };
    let firing = eventually("the unbound account's alert", || of_first("firing"));
    let labels = json!({
        "alertname": "WechatKfAccountUnbound", "severity": "warning", "official_account": "shop", "kf_account": "kf1@shop"
    });
    assert_eq!(firing["labels"], labels);
    let annotations = &firing["annotations"];
    assert_eq!(
        annotations["summary"],
        "A kf account is not bound to a WeChat user and cannot serve customers."
    );
    assert_eq!(annotations["runbook_url"], format!("{RUNBOOK}wechatkfaccountunbound"));
    let description = annotations["description"].as_str().unwrap();
    assert!(description.starts_with("kf1@shop of shop answers errcode 65402."), "{description}");
    assert!(description.contains("shop 的客服帐号 kf1@shop 返回错误码 65402"), "{description}");

    control.set_kf_state(&appid(0), "kf1@shop", KfState::Bound).unwrap();
    eventually("the end of the alert", || of_first("resolved"));
    assert!(site.receiver.alerts("WechatKfAccountUnbound", "firing").iter().all(|alert| {
        // The third account was never unbound.
        alert["labels"]["kf_account"] != "kf3@shop"
    }));

    daemon.signal("KILL");
    let silenced = eventually("the silenced alert of the other account", || {
        let alerts = site.alertmanager.alerts("WechatKfAccountUnbound");
        alerts.into_iter().find(is_inhibited)
    });
    assert_eq!(silenced["labels"]["kf_account"], "kf2@shop");
    let down =
        eventually("the dead target's alert", || site.receiver.alerts("WechatKfTargetDown", "firing").pop());
    let instance = json!({
        "alertname": "WechatKfTargetDown", "severity": "critical", "job": "kfwatch", "instance": site.target.to_string()
    });
    assert_eq!(down["labels"], instance);
    // Critical alerts also reach WeCom, with the shipped message.
    let text = eventually("the message to WeCom", || site.receiver.texts().pop());
    assert!(
        text.starts_with("[critical] Prometheus cannot scrape kfwatch.\nFiring / 触发 (1):\n- "),
        "{text}"
    );
    assert!(text.ends_with(&format!("\nRunbook / 处理手册: {RUNBOOK}wechatkftargetdown")), "{text}");
    assert!(site.receiver.alerts("WechatKfTargetDownInhibitor", "firing").is_empty());
    assert!(site.receiver.alerts("WechatKfAccountUnbound", "resolved").iter().all(|alert| {
        // The other account is still unbound, so no message may say that it is resolved.
        alert["labels"]["kf_account"] == "kf1@shop"
    }));
}

#[test]
#[ignore = "needs prometheus and prometheus-alertmanager; tests/run.sh runs it"]
fn refused_secret_alert_inhibits_blind_alert() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let refused = FaultRule { endpoint: Some(ApiCall::StableToken), ..FaultRule::new(Fault::Errcode(40125)) };
    wechat.control().inject(refused);
    // Tokens are fetched again after one or two seconds, so that the recovery is seen soon.
    let home = Home::watching(&wechat, "[backoff]\nnot_authorized = [\"0s\", \"2s\"]\n")
        .set("KFWATCH__POLL__BLIND_AFTER", "2s");
    let daemon = home.daemon();
    let site = Site::start(&home, daemon.address());
    let alert = eventually("the alert of the token", || {
        site.receiver.alerts("WechatKfTokenRefreshFailing", "firing").pop()
    });
    assert_eq!(
        alert["labels"],
        json!({"alertname": "WechatKfTokenRefreshFailing", "severity": "critical", "official_account": "shop"})
    );
    for name in ["WechatKfAccountBlind", "WechatKfOfficialAccountBlind"] {
        let blind = eventually(name, || site.alertmanager.alerts(name).pop());
        assert!(is_inhibited(&blind), "{blind}");
    }

    wechat.control().clear_faults();
    eventually("the end of the token's alert", || {
        site.receiver.alerts("WechatKfTokenRefreshFailing", "resolved").pop()
    });
    // The alerts that follow from it end later. No receiver may get them even then.
    for inhibitor in ["WechatKfNoCallsInhibitor", "WechatKfAllBlindInhibitor"] {
        eventually("the end of the inhibiting alert", || {
            site.alertmanager.alerts(inhibitor).is_empty().then_some(())
        });
    }
    for name in ["WechatKfAccountBlind", "WechatKfOfficialAccountBlind", "WechatKfPollsFailing"] {
        assert_eq!(site.alertmanager.alerts(name), [Value::Null; 0], "{name} still fires");
        assert_eq!(site.receiver.alerts(name, "firing"), [Value::Null; 0], "{name} was sent");
    }
}

#[test]
#[ignore = "needs prometheus and prometheus-alertmanager; tests/run.sh runs it"]
fn one_cause_in_40_official_accounts_is_one_message_to_each_receiver() {
    const OFFICIAL_ACCOUNTS: usize = 40;
    let names: Vec<String> = (0..OFFICIAL_ACCOUNTS).map(|index| format!("shop{index}")).collect();
    let wechat = WeChat::play(quiet(&names.iter().map(|name| (name.as_str(), 1)).collect::<Vec<_>>()));
    let home = Home::watching(&wechat, "[backoff]\naddress_not_allowed = [\"0s\", \"2s\"]\n")
        .set("KFWATCH__POLL__BLIND_AFTER", "15s");
    let daemon = home.daemon();
    // A twentieth, because the alert of the cause has to be two minutes faster than those of the official accounts.
    let site = Site::start_with(&home, daemon.address(), |text| shorter(text, 20));
    let set_refused = |refused: bool| {
        for index in 0..OFFICIAL_ACCOUNTS {
            let (control, appid) = (wechat.control(), appid(index));
            let changed =
                if refused { control.refuse_address(&appid) } else { control.allow_address(&appid) };
            changed.and_then(|()| control.expire_tokens(&appid)).unwrap();
        }
    };
    set_refused(true);
    let alert = eventually("the alert of the cause", || {
        site.receiver.alerts("WechatKfMostOfficialAccountsFailing", "firing").pop()
    });
    assert_eq!(alert["labels"]["severity"], "critical");
    assert_eq!(alert["labels"]["instance"], site.target.to_string());
    let text = eventually("the message to WeCom", || site.receiver.texts().pop());
    assert!(text.contains("40164"), "{text}");
    eventually("the inhibited alerts of the official accounts", || {
        let alerts = site.alertmanager.alerts("WechatKfTokenRefreshFailing");
        (alerts.len() == OFFICIAL_ACCOUNTS && alerts.iter().all(is_inhibited)).then_some(())
    });

    set_refused(false);
    eventually("the end of the alert", || {
        site.receiver.alerts("WechatKfMostOfficialAccountsFailing", "resolved").pop()
    });
    eventually("the end of all alerts", || site.alertmanager.all_alerts().is_empty().then_some(()));
    let alerts: Vec<String> =
        site.receiver.messages("/kfwatch").iter().map(|message| message["groupLabels"].to_string()).collect();
    let expected = "{\"alertname\":\"WechatKfMostOfficialAccountsFailing\"}";
    assert_eq!(alerts, [expected; 2], "one is firing and one is resolved");
    assert_eq!(site.receiver.texts().len(), 2, "{:?}", site.receiver.texts());
}

#[test]
#[ignore = "needs prometheus and prometheus-alertmanager; tests/run.sh runs it"]
fn suspended_sink_alert_fires_once_until_resumed() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let sinks = ["crm", "archive"]
        .map(|name| format!("[[sinks]]\nname = \"{name}\"\ntype = \"jsonl\"\npath = \"{name}.jsonl\"\n"));
    let home = Home::watching(&wechat, &sinks.concat());
    let daemon = home.daemon();
    daemon.signal("TERM");
    assert_eq!(daemon.ended().code, Some(0));
    // tests/it/sinks.rs covers how a sink gets suspended.
    let store = rusqlite::Connection::open(home.path("kfwatch.db")).unwrap();
    let suspend =
        "UPDATE sinks SET suspended_at = 1, stopped_at = 1, stopped_reason = 'full' WHERE name = 'crm'";
    assert_eq!(store.execute(suspend, []).unwrap(), 1);
    drop(store);

    let daemon = home.daemon();
    let site = Site::start(&home, daemon.address());
    let alert =
        eventually("the alert of the sink", || site.receiver.alerts("WechatKfSinkSuspended", "firing").pop());
    let instance = site.target.to_string();
    assert_eq!(
        alert["labels"],
        json!({"alertname": "WechatKfSinkSuspended", "severity": "critical", "instance": instance, "sink": "crm"})
    );
    eventually("the message to WeCom", || {
        site.receiver
            .texts()
            .into_iter()
            .find(|text| text.contains(&format!("已满，{instance} 的输出 crm 落后")))
    });
    let stopped = eventually("that it is stopped", || site.alertmanager.alerts("WechatKfSinkStopped").pop());
    assert!(is_inhibited(&stopped), "{stopped}");

    assert_eq!(home.run("sinks resume crm").code, Some(0));
    eventually("the end of the alert", || site.receiver.alerts("WechatKfSinkSuspended", "resolved").pop());
    assert_eq!(site.receiver.alerts("WechatKfSinkStopped", "firing"), [Value::Null; 0], "sent twice");
    assert!(site.receiver.alerts("WechatKfSinkSuspended", "firing").iter().all(|alert| {
        // The other sink delivers.
        alert["labels"]["sink"] == "crm"
    }));
}

#[test]
#[ignore = "needs prometheus; tests/run.sh runs it"]
fn every_metric_and_label_of_the_rules_is_exported() {
    let (_wechat, home, daemon) = daemon_with_all_series();
    let page = Page::of(&daemon);
    home.write("kfwatch.rules.yml", &shipped("prometheus/kfwatch.rules.yml"));
    let prometheus = Prometheus::start(&home, "rule_files: [kfwatch.rules.yml]\n");
    let rules = eventually("the rules", || rules(&prometheus));
    assert!(rules.len() > 20, "{}", rules.len());
    let recorded: BTreeSet<&str> =
        rules.keys().map(String::as_str).filter(|name| name.contains(':')).collect();
    for (rule, expression) in &rules {
        let mut labels: BTreeSet<String> = OF_PROMETHEUS.map(str::to_owned).into();
        let selectors = selectors(expression);
        for selector in &selectors {
            labels.extend(match selector.metric.as_str() {
                OF_ALERTS => of_alert(&rules, rule, selector),
                name if recorded.contains(name) => of_recording(&rules, name),
                _ => named_by(&page, rule, selector),
            });
        }
        for label in grouping_labels(expression) {
            assert!(labels.contains(&label), "{rule}: no series has the label {label}");
        }
    }
}

#[test]
fn every_alert_has_a_runbook_section() {
    let rules = shipped("prometheus/kfwatch.rules.yml");
    let runbook = shipped("runbook.md");
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 20, "{}", alerts.len());
    for alert in alerts {
        assert!(sections.contains(alert), "deploy/runbook.md has no section for {alert}");
        let link = format!("runbook_url: {RUNBOOK}{}\n", alert.to_lowercase());
        assert_eq!(rules.matches(&link).count(), 1, "{link}");
    }
}

/// The servers with the shipped files.
struct Site {
    receiver: Receiver,
    alertmanager: Alertmanager,
    target: SocketAddr,
    _prometheus: Prometheus,
}

impl Site {
    fn start(home: &Home, target: SocketAddr) -> Self {
        Self::start_with(home, target, minutes_as_seconds)
    }

    fn start_with(home: &Home, target: SocketAddr, shorten: impl Fn(&str) -> String) -> Self {
        let receiver = Receiver::start();
        home.write("kfwatch.tmpl", &shipped("alertmanager/kfwatch.tmpl"));
        let routes = routes_to(receiver.address, receiver.address, &shorten);
        let alertmanager = Alertmanager::start(home, &routes.to_string());
        home.write("kfwatch.rules.yml", &shorten(&shipped("prometheus/kfwatch.rules.yml")));
        let scrapes = shorten(&shipped("prometheus/prometheus.yml"))
            .replace("127.0.0.1:9093", &alertmanager.address.to_string())
            .replace("127.0.0.1:9877", &target.to_string());
        let prometheus = Prometheus::start(home, &scrapes);
        Self { receiver, alertmanager, target, _prometheus: prometheus }
    }
}

fn is_inhibited(alert: &Value) -> bool {
    alert["status"]["inhibitedBy"].as_array().is_some_and(|by| !by.is_empty())
}

/// Returns the expressions of the rules by name, as Prometheus has loaded them.
fn rules(prometheus: &Prometheus) -> Option<BTreeMap<String, String>> {
    let answer: Value = serde_json::from_slice(&get(prometheus.address, "/api/v1/rules", "").body).ok()?;
    let groups = answer["data"]["groups"].as_array().filter(|groups| !groups.is_empty())?;
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    Some(rules.map(|rule| (text(&rule["name"]), text(&rule["query"]))).collect())
}

/// Checks that the selector names one of these alerts, and returns that alert's labels.
fn of_alert(rules: &BTreeMap<String, String>, rule: &str, selector: &Selector) -> BTreeSet<String> {
    let (_, op, name) = selector.matchers.iter().find(|(label, ..)| label == "alertname").unwrap();
    assert_eq!(op, "=", "{rule}");
    assert!(rules.contains_key(name), "{rule}: there is no alert {name}");
    labels_found(&rules[name], rules)
}

/// Returns the labels of a recorded series: those that the rules file gives it, or those of its expression.
fn of_recording(rules: &BTreeMap<String, String>, name: &str) -> BTreeSet<String> {
    let file = yaml("prometheus/kfwatch.rules.yml");
    let of_file = list(&file["groups"]).iter().flat_map(|group| list(&group["rules"]));
    match of_file.filter(|rule| rule["record"] == name).find_map(|rule| rule["labels"].as_object()) {
        Some(given) => given.keys().cloned().collect(),
        None => labels_found(&rules[name], rules),
    }
}

/// Checks that the selector matches series of the page, or of that of a replica, and returns their labels.
fn named_by(page: &Page, rule: &str, selector: &Selector) -> BTreeSet<String> {
    if let Some(labels) = labels_of_cluster(&selector.metric) {
        let mut matched = selector.matchers.iter().map(|(label, ..)| label.as_str());
        let are_known = matched.all(|label| OF_PROMETHEUS.contains(&label) || labels.contains(&label));
        assert!(are_known, "{rule}: {} has only {labels:?}", selector.metric);
        return labels.iter().map(|label| (*label).to_owned()).collect();
    }
    // Created by Prometheus itself.
    if selector.metric == "up" {
        return BTreeSet::new();
    }
    let series: Vec<_> = page.series.iter().filter(|(name, _)| *name == selector.metric).collect();
    assert!(!series.is_empty(), "{rule}: the page has no {}", selector.metric);
    for (label, op, value) in &selector.matchers {
        if OF_PROMETHEUS.contains(&label.as_str()) {
            continue;
        }
        let has = |(_, labels): &&(String, BTreeMap<String, String>)| match labels.get(label) {
            Some(found) => op != "=" || found == value,
            None => false,
        };
        assert!(series.iter().any(has), "{rule}: no {} has {label}{op}{value:?}", selector.metric);
    }
    series.iter().flat_map(|(_, labels)| labels.keys().cloned()).collect()
}

/// A daemon whose page has every series: sessions, a waiting customer, errors, and undeliverable events.
fn daemon_with_all_series() -> (WeChat, Home, Process) {
    let mut scenario = quiet(&[("shop", 3)]);
    // A customer comes every second and waits for an hour.
    let constant = |time| RandomDuration { mean: time, min: time, max: time };
    scenario.official_accounts[0].kf_accounts[2].customers = Some(CustomerFlow {
        gap: Some(constant(Duration::from_secs(1))),
        wait: constant(Duration::from_hours(1)),
        ..CustomerFlow::default()
    });
    let wechat = WeChat::play(scenario);
    let control = wechat.control();
    control.open_session(&appid(0), "kf1@shop", "oA", None).unwrap();
    control.set_kf_state(&appid(0), "kf2@shop", KfState::Unbound).unwrap();
    // Writing to this device fails, as on a full disk.
    let home = Home::watching(
        &wechat,
        "[collectors]\nwaiting = \"10s\"\n[[sinks]]\nname = \"full\"\ntype = \"jsonl\"\npath = \"/dev/full\"\n",
    );
    let daemon = home.daemon();
    let needed = [
        "wechat_kf_oldest_session_timestamp_seconds{",
        "wechat_kf_waiting_oldest_message_timestamp_seconds{",
        "wechat_kf_api_quota_remaining{",
        "wechat_kf_account_online{",
        "kfwatch_sink_oldest_pending_timestamp_seconds{",
        "kfwatch_api_errors_total{",
        "kfwatch_upstream_clock_skew_seconds ",
    ];
    eventually("all series", || {
        let page = daemon.get("/metrics").text();
        needed.iter().all(|series| page.lines().any(|line| line.starts_with(series))).then_some(())
    });
    (wechat, home, daemon)
}
