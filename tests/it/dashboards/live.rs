//! The dashboards with a real Prometheus that scrapes a running kfwatch, in a scenario that fills all panels.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use kfwatch::simulator::{CustomerFlow, Fault, FaultRule, KfState, RandomDuration, Scenario};
use serde_json::Value;

use super::{
    board::{Board, Target, boards, repository, text},
    python,
};
use crate::support::{
    metrics_page::Page,
    process::{Home, Process, WeChat, appid, quiet},
    prometheus::Prometheus,
    promql::{grouping_labels, selectors},
    wait::eventually,
};

/// The number of kf accounts of the scenario.
const KF_ACCOUNTS: usize = 6;

/// Series that Prometheus itself creates.
const OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];

/// Panels whose queries all rise above zero in the scenario.
const EVENTFUL: &[&str] = &[
    "Open sessions · 会话数",
    "Waiting · 等待人数",
    "Longest wait · 最长等待",
    "Online · 在线客服",
    "Longest session · 最长会话",
    "Unbound · 未绑定",
    "Invalid · 无效帐号",
    "Blind · 数据陈旧",
    "Starts and ends in an hour · 一小时内开始与结束",
    "How long sessions last · 会话时长",
    "Undelivered events",
    "Failed polls",
    "Errors by code",
    "Tokens in the last hour",
    "Events delivered",
    "Failed deliveries",
    "Age of the oldest undelivered event",
    "Active alerts",
];

#[test]
#[ignore = "needs prometheus and matplotlib; tests/run.sh runs it"]
fn every_panel_shows_data_of_a_running_kfwatch() {
    let stage = Stage::set();
    for board in boards() {
        for target in board.targets() {
            stage.has_data(&target);
        }
        for (variable, selector, label) in board.variable_queries() {
            let query = format!("count by ({label}) ({selector})");
            let values = stage.prometheus.series(&query);
            let named = values.iter().filter(|series| !text(&series["metric"][&label]).is_empty()).count();
            assert!(named > 0, "{}: the variable {} has no values", board.file, variable["name"]);
        }
    }
    stage.has_named_metrics_and_labels();
    stage.names_every_kf_account_once();
    stage.is_drawn();
    stage.shows_absent_kfwatch();
}

/// A daemon with something to show in every panel, and a Prometheus that scrapes it and evaluates the alerts.
struct Stage {
    wechat: WeChat,
    _home: Home,
    daemon: Process,
    prometheus: Prometheus,
}

impl Stage {
    /// Starts everything, then causes the events that need a daemon that was scraped before.
    fn set() -> Self {
        let wechat = WeChat::play(scenario());
        let sinks = "[[sinks]]\nname = \"archive\"\ntype = \"jsonl\"\npath = \"events.jsonl\"\n\
                     [[sinks]]\nname = \"warehouse\"\ntype = \"jsonl\"\npath = \"/dev/full\"\n";
        let home = ["KF_LIST", "ONLINE", "WAITING", "QUOTA"].into_iter().fold(
            Home::watching(&wechat, sinks).set("KFWATCH__POLL__BLIND_AFTER", "1s"),
            |home, collector| home.set(&format!("KFWATCH__COLLECTORS__{collector}"), "10s"),
        );
        let daemon = home.daemon();
        let rules = fs::read_to_string(repository("deploy/prometheus/kfwatch.rules.yml")).unwrap();
        home.write("kfwatch.rules.yml", &rules);
        let prometheus = Prometheus::start(
            &home,
            &format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [kfwatch.rules.yml]\n\
                 scrape_configs:\n  - job_name: kfwatch\n    static_configs: [{{targets: [\"{}\"]}}]\n",
                daemon.address()
            ),
        );
        let stage = Self { wechat, _home: home, daemon, prometheus };
        stage.happen();
        stage
    }

    fn happen(&self) {
        let control = self.wechat.control();
        let answered = "count(kfwatch_poll_last_success_timestamp_seconds) == 4";
        eventually("good answers before the failures", || self.prometheus.query(answered).pop());
        let busy =
            FaultRule { kf_account: Some("kf1@branch".to_owned()), ..FaultRule::new(Fault::Errcode(-1)) };
        control.inject(busy);
        control.revoke_tokens(&appid(0)).unwrap();
        control.freeze_secret(&appid(2)).unwrap();
        control.revoke_tokens(&appid(2)).unwrap();
    }

    /// Asserts that a query of the dashboards has values, and values above zero where the scenario causes them.
    fn has_data(&self, target: &Target<'_>) {
        let eventful = EVENTFUL.iter().any(|title| target.place.contains(&format!("\"{title}\"")));
        eventually(&target.place, || {
            let values = self.prometheus.query(&target.expression);
            values.into_iter().find(|value| if eventful { *value > 0.0 } else { !value.is_nan() })
        });
    }

    /// Asserts that every metric and label that a query names is on the page.
    fn has_named_metrics_and_labels(&self) {
        let page = Page::of(&self.daemon);
        for board in boards() {
            for target in board.targets() {
                named_on(&page, &target);
            }
        }
    }

    /// Asserts that, where nicknames are joined, each kf account has one row, with its nickname if WeChat has one.
    fn names_every_kf_account_once(&self) {
        for board in boards() {
            for panel in
                ["Agents · 客服一览", "Online agents · 在线情况", "State of kf accounts · 客服帐号状态"]
            {
                for target in board.targets().iter().filter(|target| target.place.contains(panel)) {
                    let series = self.prometheus.series(&target.expression);
                    let nicknames: BTreeMap<&str, &str> = series
                        .iter()
                        .map(|one| (text(&one["metric"]["kf_account"]), text(&one["metric"]["nickname"])))
                        .collect();
                    assert_eq!(nicknames.len(), series.len(), "{}: duplicate account", target.place);
                    assert_eq!(nicknames.get("kf1@shop"), Some(&"小明"), "{}", target.place);
                }
            }
        }
    }

    /// Asserts that no panel is empty when it is rendered with its own data.
    fn is_drawn(&self) {
        let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboards");
        fs::create_dir_all(&pictures).unwrap();
        let drawn = python("render.py")
            .arg(format!("http://{}", self.prometheus.address))
            .args(["30", "1"])
            .arg(&pictures)
            .args(boards().iter().map(Board::path))
            .output()
            .unwrap();
        assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
        let shown: Value = serde_json::from_slice(&drawn.stdout).unwrap();
        for board in boards() {
            let uid = text(&board.json["uid"]);
            for panel in board.panels() {
                let count = shown[uid][text(&panel["title"])].as_u64().unwrap();
                assert!(count > 0, "{} is empty", board.place(panel));
            }
            let picture = fs::metadata(pictures.join(format!("{uid}.png"))).unwrap();
            assert!(picture.len() > 50_000, "{uid}: {} bytes", picture.len());
        }
        let agents = &shown["kfwatch-customer-service"]["Agents · 客服一览"];
        assert_eq!(agents, KF_ACCOUNTS, "one row for each kf account, joined from all queries");
    }

    /// Asserts that without a kfwatch the table of actions says so instead of "nothing to do", and that no number
    /// remains.
    fn shows_absent_kfwatch(self) {
        let Self { daemon, prometheus, .. } = self;
        drop(daemon);
        let board = boards().remove(0);
        let targets = board.targets();
        let of = |title: &str| {
            let found = targets.iter().find(|target| target.place.contains(&format!("\"{title}")));
            &found.unwrap().expression
        };
        let sections = || -> Vec<String> {
            let rows = prometheus.series(of("Kf accounts that need attention")).into_iter();
            rows.map(|row| text(&row["metric"]["section"]).to_owned()).collect()
        };
        eventually("a row for the absent kfwatch", || (sections() == ["wechatkfabsent"]).then_some(()));
        for title in
            ["Open sessions", "Waiting", "Longest wait", "Online", "Longest session", "Unbound", "Blind"]
        {
            assert!(prometheus.query(of(title)).is_empty(), "{title}");
        }
    }
}

/// A busy kf account, one whose customers only wait, an unbound and an invalid one, one that becomes blind, and an
/// official account that gets no token.
fn scenario() -> Scenario {
    let spread = |seconds: u64| RandomDuration {
        mean: Duration::from_secs(seconds),
        min: Duration::from_secs(seconds),
        max: Duration::from_secs(seconds),
    };
    let mut scenario = quiet(&[("shop", 4), ("branch", 1), ("locked", 1)]);
    let shop = &mut scenario.official_accounts[0];
    shop.session_lists_per_day = 100_000;
    let flow = |wait, stay| CustomerFlow {
        initial: 1,
        gap: Some(spread(1)),
        wait: spread(wait),
        stay: Some(spread(stay)),
        returning: 0.0,
    };
    shop.kf_accounts[0].nickname = Some("小明".to_owned());
    shop.kf_accounts[0].customers = Some(flow(0, 3));
    shop.kf_accounts[1].state = KfState::UnboundWaiting;
    shop.kf_accounts[2].state = KfState::Invalid;
    shop.kf_accounts[3].customers = Some(flow(3_600, 3_600));
    scenario
}

fn named_on(page: &Page, target: &Target<'_>) {
    let mut labels: BTreeSet<String> = ["job", "instance"].map(str::to_owned).into();
    let mut scraped = true;
    for selector in selectors(&target.expression) {
        if OF_PROMETHEUS.contains(&selector.metric.as_str()) {
            scraped = false;
            continue;
        }
        let family = page.family(&selector.metric);
        assert!(family.is_some(), "{}: no metric {}", target.place, selector.metric);
        let family = family.unwrap();
        let found: BTreeSet<String> =
            page.series_of(family).flat_map(|labels| labels.keys().cloned()).collect();
        assert!(page.series_of(family).count() > 0, "{}: {family} has no series", target.place);
        let scrape_labels = ["job", "instance"];
        let matched = selector.matchers.iter().map(|(label, ..)| label);
        for label in matched.filter(|label| !scrape_labels.contains(&label.as_str())) {
            assert!(found.contains(label), "{}: {family} has no label {label}", target.place);
        }
        labels.extend(found);
    }
    let grouped = grouping_labels(&target.expression);
    assert!(
        !scraped || grouped.is_subset(&labels),
        "{}: {grouped:?} are not all of {labels:?}",
        target.place
    );
    let legend = text(&target.json["legendFormat"]);
    for label in legend.split("{{").skip(1).map(|rest| rest.split_once("}}").unwrap().0) {
        assert!(labels.contains(label), "{}: the legend's {label} is no label", target.place);
    }
}
