//! The dashboards with a real Prometheus and a real VictoriaMetrics that scrape a running kfwatch, in a scenario that fills
//! all panels.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
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
    metrics_page::{Page, labels_of_cluster},
    process::{Home, Process, WeChat, appid, quiet, secret},
    prometheus::Prometheus,
    promql::{grouping_labels, selectors},
    wait::eventually,
};

/// The number of kf accounts of the scenario.
const KF_ACCOUNTS: usize = 6;

/// The index of an official account that the scenario does not have.
const NOBODY: usize = 9;

/// Labels that Prometheus adds.
const SCRAPE_LABELS: [&str; 4] = ["cluster", "namespace", "job", "instance"];

/// Series that Prometheus itself creates.
const OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];

/// What has data only where alert rules are evaluated.
const OF_RULES: [&str; 5] =
    ["\"Active alerts\"", "\"Alerts\"", "\"Alerts · 告警\"", "\"Warnings\"", "\"Warnings · 警告\""];

/// Panels that have data only where replicas share a database.
const OF_REPLICAS: [&str; 6] = [
    "\"Shards by replica\"",
    "\"Living replicas\"",
    "\"Lease\"",
    "\"Shards acquired and lost\"",
    "\"Agreement\"",
    "\"Clocks of replicas and database\"",
];

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
#[ignore = "needs prometheus, victoria-metrics and matplotlib; tests/run.sh runs it"]
fn every_panel_shows_data_of_a_running_kfwatch() {
    let stage = Stage::set();
    let boards = boards();
    // A version is new only for five minutes, so the annotations come first.
    let annotations = boards.iter().flat_map(Board::annotation_targets);
    let of_replicas = |target: &Target<'_>| OF_REPLICAS.iter().any(|name| target.place.contains(name));
    for target in annotations.chain(boards.iter().flat_map(Board::panel_targets)) {
        if of_replicas(&target) {
            continue;
        }
        stage.has_data(&target);
        stage.tells_namespaces_apart(&target);
        stage.is_the_same_in_victoria_metrics(&target);
    }
    for board in boards {
        for (variable, selector, label) in board.variable_queries() {
            let query = format!("count by ({label}) ({selector})");
            for server in [&stage.shared, &stage.victoria_metrics] {
                let values = server.series(&query);
                let named = values.iter().filter(|series| !text(&series["metric"][&label]).is_empty());
                // Only the shared Prometheus has clusters and namespaces.
                let kubernetes = ["cluster", "namespace"].contains(&label.as_str());
                let expected = !kubernetes || server.address == stage.shared.address;
                assert_eq!(named.count() > 0, expected, "{}: variable {}", board.file, variable["name"]);
                let nobody = values.iter().any(|series| series["metric"]["official_account"] == "nobody");
                assert_eq!(nobody, label == "official_account", "{}: nobody", variable["name"]);
            }
        }
    }
    stage.has_named_metrics_and_labels();
    stage.names_every_kf_account_once();
    stage.lists_official_account_without_kf_accounts();
    stage.is_drawn();
    stage.shows_absent_kfwatch();
}

/// A daemon with something to show in every panel, and the servers that scrape it.
struct Stage {
    wechat: WeChat,
    daemon: Process,
    /// Scrapes only the daemon, and evaluates the alerts.
    prometheus: Prometheus,
    /// Scrapes the daemon as if there were one in each of two namespaces, and also another program and a target that is down.
    shared: Prometheus,
    /// Scrapes only the daemon, and has no rules.
    victoria_metrics: Prometheus,
    /// Removed after the servers have ended.
    _homes: [Home; 2],
}

impl Stage {
    /// Starts everything, then causes the events that need a daemon that was scraped before.
    fn set() -> Self {
        let wechat = WeChat::play(scenario());
        // An official account for which no kf account is found, because WeChat does not know it.
        let (appid, secret) = (appid(NOBODY), secret(NOBODY));
        let nobody = format!(
            "[[official_accounts]]\nname = \"nobody\"\nappid = \"{appid}\"\nkf_accounts = [\"*\"]\n\
             [official_accounts.token]\nsource = \"stable\"\nsecret = \"{secret}\"\n"
        );
        let sinks = "[[sinks]]\nname = \"archive\"\ntype = \"jsonl\"\npath = \"events.jsonl\"\n\
                     [[sinks]]\nname = \"warehouse\"\ntype = \"jsonl\"\npath = \"/dev/full\"\n";
        let home = ["KF_LIST", "ONLINE", "WAITING", "QUOTA"].into_iter().fold(
            Home::watching(&wechat, &format!("{sinks}{nobody}")).set("KFWATCH__POLL__BLIND_AFTER", "1s"),
            |home, collector| home.set(&format!("KFWATCH__COLLECTORS__{collector}"), "10s"),
        );
        let daemon = home.daemon();
        let rules = fs::read_to_string(repository("deploy/prometheus/kfwatch.rules.yml")).unwrap();
        // Without `for`, so that alerts fire at once.
        let rules: Vec<&str> = rules.lines().filter(|line| !line.trim_start().starts_with("for: ")).collect();
        home.write("kfwatch.rules.yml", &rules.join("\n"));
        let target = daemon.address();
        let scraping = format!(
            "scrape_configs:\n  - job_name: kfwatch\n    static_configs: [{{targets: [\"{target}\"]}}]\n"
        );
        let prometheus = Prometheus::start(
            &home,
            &format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [kfwatch.rules.yml]\n{scraping}"
            ),
        );
        let victoria_metrics =
            Prometheus::victoria_metrics(&home, &format!("global: {{scrape_interval: 1s}}\n{scraping}"));
        let shared_home = Home::new();
        let shared = Prometheus::start(&shared_home, &shared_configuration(target, prometheus.address));
        let stage =
            Self { wechat, daemon, prometheus, shared, victoria_metrics, _homes: [home, shared_home] };
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

    /// Asserts that a query has data where two daemons in two namespaces, and other programs, are scraped, and that what it
    /// shows of each official account or instance, it shows for both namespaces.
    fn tells_namespaces_apart(&self, target: &Target<'_>) {
        if OF_RULES.iter().any(|name| target.place.contains(name)) {
            return;
        }
        eventually(&format!("{} of two namespaces", target.place), || {
            let series = self.shared.series(&target.expression);
            let labels = |name: &str| -> BTreeSet<&str> {
                series.iter().map(|series| text(&series["metric"][name])).collect()
            };
            let alone =
                ["official_account", "instance", "sink"].iter().all(|name| labels(name) == [""].into());
            let namespaces = labels("namespace");
            let both = namespaces == ["north", "south"].into();
            (!series.is_empty() && (both || alone)).then_some(())
        });
    }

    /// Asserts that VictoriaMetrics finds the same series, and for alerts none.
    fn is_the_same_in_victoria_metrics(&self, target: &Target<'_>) {
        if OF_RULES.iter().any(|name| target.place.contains(name)) {
            assert_eq!(self.victoria_metrics.series(&target.expression), Vec::<Value>::new());
            return;
        }
        // VictoriaMetrics keeps the name of a metric in more functions, and leaves out what is not a number.
        let found = |server: &Prometheus| -> BTreeSet<String> {
            let series = server.series(&target.expression).into_iter();
            let labels = series.filter(|series| series["value"][1] != "NaN").map(|mut series| {
                series["metric"].as_object_mut().unwrap().remove("__name__");
                series["metric"].to_string()
            });
            labels.collect()
        };
        eventually(&format!("{} in VictoriaMetrics", target.place), || {
            let (prometheus, victoria_metrics) = (found(&self.prometheus), found(&self.victoria_metrics));
            (prometheus == victoria_metrics && !prometheus.is_empty()).then_some(())
        });
    }

    /// Asserts that every metric and label that a query names is on the page, or on that of a replica.
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

    /// Asserts that both tables of what needs attention have an official account for which no kf account is found.
    fn lists_official_account_without_kf_accounts(&self) {
        let boards = boards();
        let tables: Vec<_> = boards
            .iter()
            .flat_map(Board::panel_targets)
            .filter(|target| {
                ["\"Needs attention\"", "\"Kf accounts that need"].iter().any(|it| target.place.contains(it))
            })
            .collect();
        assert_eq!(tables.len(), 2);
        for (table, server) in
            tables.iter().flat_map(|table| [(table, &self.prometheus), (table, &self.victoria_metrics)])
        {
            let series = server.series(&table.expression);
            let nobody = series.iter().any(|series| {
                series["metric"]["official_account"] == "nobody"
                    && series["metric"]["section"] == "wechatkfnoaccountswatched"
            });
            assert!(nobody, "{}: {series:?}", table.place);
        }
    }

    /// Asserts that no panel is empty when it is drawn with the data of each server.
    fn is_drawn(&self) {
        for (name, server) in [("prometheus", &self.prometheus), ("victoria-metrics", &self.victoria_metrics)]
        {
            let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboards").join(name);
            fs::create_dir_all(&pictures).unwrap();
            let drawn = python("render.py")
                .arg(format!("http://{}", server.address))
                .args(["30", "1"])
                .arg(&pictures)
                .args(boards().iter().map(Board::path))
                .output()
                .unwrap();
            assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
            let shown: Value = serde_json::from_slice(&drawn.stdout).unwrap();
            for board in boards() {
                let uid = text(&board.json["uid"]);
                for title in board.panels().map(|panel| &panel["title"]) {
                    let count = shown[uid][text(title)].as_u64().unwrap();
                    let without_rules =
                        name != "prometheus" && OF_RULES.contains(&title.to_string().as_str());
                    let is_empty = without_rules || OF_REPLICAS.contains(&title.to_string().as_str());
                    assert_eq!(count == 0, is_empty, "{uid}: {count} in {title} with {name}");
                }
                let picture = fs::metadata(pictures.join(format!("{uid}.png"))).unwrap();
                assert!(picture.len() > 50_000, "{uid}: {} bytes", picture.len());
            }
            let agents = &shown["kfwatch-customer-service"]["Agents · 客服一览"];
            assert_eq!(agents, KF_ACCOUNTS, "one row for each kf account, joined from all queries");
        }
    }

    /// Asserts that without a kfwatch the table of actions says so instead of "nothing to do", and that no number
    /// remains.
    fn shows_absent_kfwatch(self) {
        let Self { daemon, prometheus, shared, .. } = self;
        let all = boards();
        let [board, operators] = all.as_slice() else { panic!("two dashboards") };
        let of_operators = operators.targets();
        let scraped = of_operators.iter().find(|target| target.place.contains("\"Scraped\"")).unwrap();
        assert_eq!(shared.query(&scraped.expression), [1.0], "another target is down");
        drop(daemon);
        let targets = board.targets();
        let of = |title: &str| {
            let found = targets.iter().find(|target| target.place.contains(&format!("\"{title}")));
            &found.unwrap().expression
        };
        let sections = || -> Vec<String> {
            let rows = prometheus.series(of("Kf accounts that need attention")).into_iter();
            rows.map(|row| text(&row["metric"]["section"]).to_owned()).collect()
        };
        eventually("the target is down", || (shared.query(&scraped.expression) == [0.0]).then_some(()));
        eventually("a row for the absent kfwatch", || (sections() == ["wechatkfabsent"]).then_some(()));
        for title in
            ["Open sessions", "Waiting", "Longest wait", "Online", "Longest session", "Unbound", "Blind"]
        {
            assert!(prometheus.query(of(title)).is_empty(), "{title}");
        }
    }
}

/// A Prometheus that scrapes more than one kfwatch.
fn shared_configuration(kfwatch: SocketAddr, other: SocketAddr) -> String {
    let targets = [
        ("kfwatch", kfwatch, "cluster: east, namespace: north"),
        ("kfwatch", kfwatch, "cluster: east, namespace: south"),
        ("other", other, "namespace: monitoring"),
        ("other", ([127, 0, 0, 1], 1).into(), "namespace: monitoring"),
    ];
    let mut configuration = "global: {scrape_interval: 1s}\nscrape_configs:\n".to_owned();
    for job in ["kfwatch", "other"] {
        configuration.push_str(&format!("  - job_name: {job}\n    static_configs:\n"));
        for (_, target, labels) in targets.iter().filter(|(of, ..)| *of == job) {
            configuration.push_str(&format!("      - {{targets: [\"{target}\"], labels: {{{labels}}}}}\n"));
        }
    }
    configuration
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
    let mut labels: BTreeSet<String> = SCRAPE_LABELS.map(str::to_owned).into();
    let mut scraped = true;
    for selector in selectors(&target.expression) {
        if OF_PROMETHEUS.contains(&selector.metric.as_str()) {
            scraped = false;
            continue;
        }
        if let Some(own) = labels_of_cluster(&selector.metric) {
            labels.extend(own.iter().map(|label| (*label).to_owned()));
            continue;
        }
        let family = page.family(&selector.metric);
        assert!(family.is_some(), "{}: no metric {}", target.place, selector.metric);
        let family = family.unwrap();
        let found: BTreeSet<String> =
            page.series_of(family).flat_map(|labels| labels.keys().cloned()).collect();
        assert!(page.series_of(family).count() > 0, "{}: {family} has no series", target.place);
        let matched = selector.matchers.iter().map(|(label, ..)| label);
        for label in matched.filter(|label| !SCRAPE_LABELS.contains(&label.as_str())) {
            assert!(found.contains(label), "{}: {family} has no label {label}", target.place);
        }
        labels.extend(found);
    }
    if scraped {
        let grouped = grouping_labels(&target.expression);
        assert!(grouped.is_subset(&labels), "{}: {grouped:?} are not all of {labels:?}", target.place);
        for label in target.legend().split("{{").skip(1).map(|rest| rest.split_once("}}").unwrap().0) {
            assert!(labels.contains(label), "{}: the legend's {label} is no label", target.place);
        }
    }
}
