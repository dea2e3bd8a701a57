//! Which alert inhibits which, as a real Alertmanager decides: every alert of the rules file is tried as source and
//! target with every other, on the same official account, instance and kf account, and on others.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{
    alerts::{Alert, PREFIX, list, yaml},
    is_inhibited,
};
use crate::support::{alertmanager::Alertmanager, process::Home, wait::eventually};

/// The expected effect of one inhibit rule.
struct Row {
    /// Names of alerts without the prefix.
    sources: &'static [&'static str],
    silences: fn(&Alert) -> bool,
    /// Labels that must be equal, besides those of [`PLACE`].
    equal: &'static [&'static str],
}

/// Labels that Prometheus may add to all alerts, and that must be equal for every inhibition.
const PLACE: [&str; 2] = ["cluster", "namespace"];

/// One row for each inhibit rule, in the file's order. The rules of [`ABSENT`] come first.
const ROWS: [Row; 13] = [
    Row {
        sources: &["TargetDown", "ReplicaDown"],
        silences: |alert| {
            let of_sinks = &["SinkLagging", "SinkStopped", "SinkSuspended", "EventLogFilling", "DeadLetters"];
            let of_machine =
                &["TicksMissed", "StoreFailing", "ClockSkewed", "Restarting", "ConfigReloadFailed"];
            alert.is_one_of(of_sinks)
                || alert.is_one_of(of_machine)
                || alert.is("MostOfficialAccountsFailing")
        },
        equal: &["instance"],
    },
    Row {
        sources: &["TargetDownInhibitor"],
        silences: |alert| {
            alert.is_ours() && alert.has("official_account") && !alert.is("TargetDownInhibitor")
        },
        equal: &["official_account"],
    },
    Row {
        sources: &["MostFailingInhibitor"],
        silences: |alert| {
            alert.is_one_of(&WITHOUT_CALLS)
                || alert.is_one_of(&["TokenRefreshFailing", "NoAccountsWatched", "PollsOverrun"])
        },
        equal: &["official_account"],
    },
    Row {
        sources: &["TokenRefreshFailing"],
        silences: |alert| {
            alert.is_one_of(&WITHOUT_CALLS) || alert.is_one_of(&["NoAccountsWatched", "TokenReplaced"])
        },
        equal: &["official_account"],
    },
    Row {
        sources: &["QuotaExhausted"],
        silences: |alert| alert.is_one_of(&WITHOUT_CALLS) || alert.is("QuotaRunningOut"),
        equal: &["official_account"],
    },
    Row {
        sources: &["NoCallsInhibitor"],
        silences: |alert| alert.is_one_of(&WITHOUT_CALLS) || alert.is("NoAccountsWatched"),
        equal: &["official_account"],
    },
    Row {
        sources: &["OfficialAccountBlind", "AllBlindInhibitor"],
        silences: |alert| {
            alert.is_one_of(&["AccountBlind", "PollsFailing", "PollsOverrun", "CollectorStale"])
        },
        equal: &["official_account"],
    },
    Row {
        sources: &["NobodyOnline"],
        silences: |alert| alert.is_one_of(&["CustomersWaitLong", "SessionsOnOfflineAccount"]),
        equal: &["official_account"],
    },
    Row {
        sources: &["AccountBlind", "AccountUnbound", "AccountInvalid"],
        silences: |alert| alert.is("SessionOpenTooLong"),
        equal: &["official_account", "kf_account"],
    },
    Row {
        sources: &["SinkStopped"],
        silences: |alert| alert.is("SinkLagging"),
        equal: &["instance", "sink"],
    },
    Row {
        sources: &["SinkSuspended"],
        silences: |alert| alert.is_one_of(&["SinkLagging", "SinkStopped"]),
        equal: &["instance", "sink"],
    },
    Row {
        sources: &["PollerStalled"],
        silences: |alert| alert.is("PollsOverrun"),
        equal: &["official_account"],
    },
    Row { sources: &["DatabaseUnreachable"], silences: |alert| alert.is("StoreFailing"), equal: &[] },
];

/// The alert that inhibits all others, by two rules: with a namespace, only those of its namespace.
const ABSENT: &str = "Absent";

/// The alerts that follow when no call of an official account succeeds.
const WITHOUT_CALLS: [&str; 5] =
    ["AccountBlind", "OfficialAccountBlind", "PollsFailing", "PollerStalled", "CollectorStale"];

/// Added to the rules under test, and posted last: when its target is inhibited, all earlier alerts have been
/// processed.
const MARKER: [&str; 2] = ["FirstOfMark", "SecondOfMark"];

#[test]
#[ignore = "needs prometheus-alertmanager; tests/run.sh runs it"]
fn alerts_inhibit_only_what_they_explain_on_the_same_target() {
    let home = Home::new();
    let alertmanager = Alertmanager::start(&home, &rules_and_marker());
    let alerts = Alert::all();
    // The next test is about this one.
    let others: Vec<&Alert> = alerts.iter().filter(|alert| !alert.is(ABSENT)).collect();
    let foreign = Alert::foreign();
    let mut cases = Vec::new();
    for source in &others {
        for target in others.iter().copied().chain([&foreign]) {
            let first_place = 10 * cases.len();
            cases.extend(pair(source, target, first_place));
        }
    }
    for row in &ROWS {
        for name in row.sources {
            assert!(cases.iter().any(|case| case.silenced && case.what.starts_with(name)), "{name}");
        }
    }
    alertmanager.send(&cases.iter().flat_map(Case::alerts).collect::<Vec<_>>());
    let inhibited = inhibited(&alertmanager);
    let wrong = cases.iter().filter(|case| inhibited[&key(&case.target)] != case.silenced);
    let wrong: Vec<_> = wrong.map(|case| (&case.what, case.silenced)).collect();
    assert!(wrong.is_empty(), "{} of {} differ: {wrong:#?}", wrong.len(), cases.len());
}

#[test]
#[ignore = "needs prometheus-alertmanager; tests/run.sh runs it"]
fn absent_alert_inhibits_all_others_of_its_place() {
    let home = Home::new();
    let alertmanager = Alertmanager::start(&home, &rules_and_marker());
    let mut alerts = Alert::all();
    alerts.push(Alert::foreign());
    let places =
        [["", ""], ["", "a"], ["", "b"], ["north", ""], ["north", "a"], ["north", "b"], ["south", "a"]];
    let at = |alert: &Alert, number: usize, place: [&str; 2]| {
        // Alerts of different numbers inhibit each other only by these two rules.
        let mut labels = alert.at(number);
        for (label, value) in PLACE.into_iter().zip(place) {
            labels.insert(label.to_owned(), json!(value));
        }
        // An empty label is no label.
        labels.retain(|_, value| value != "");
        labels
    };
    let (absent, others): (Vec<&Alert>, Vec<&Alert>) = alerts.iter().partition(|alert| alert.is(ABSENT));
    let all_at = |place| others.iter().enumerate().map(move |(number, alert)| at(alert, number, place));
    let posted = places.into_iter().flat_map(all_at);
    alertmanager.send(&posted.map(|labels| json!({ "labels": labels })).collect::<Vec<_>>());
    // The only other rule that needs no label in common but these: the database is unreachable in every place.
    let all = places.into_iter().flat_map(all_at);
    let explained = all.filter(|labels| labels["alertname"] == format!("{PREFIX}StoreFailing"));
    let mut expected: BTreeSet<String> = explained.map(|labels| key(&labels)).collect();
    // Without a namespace it is about all namespaces of its cluster.
    for (of_absent, of_others) in
        [(["north", "a"], &places[4..5]), (["", "b"], &places[2..3]), (["north", ""], &places[3..6])]
    {
        alertmanager.send(&[json!({"labels": at(absent[0], others.len(), of_absent)})]);
        let labels = of_others.iter().flat_map(|&place| all_at(place));
        let ours =
            labels.filter(|labels| labels["alertname"].as_str().is_some_and(|name| name.starts_with(PREFIX)));
        expected.extend(ours.map(|labels| key(&labels)));
        eventually("the inhibition of all others", || {
            let inhibited = alertmanager.all_alerts().into_iter().filter(is_inhibited);
            let found: BTreeSet<String> =
                inhibited.map(|alert| key(alert["labels"].as_object().unwrap())).collect();
            (found == expected).then_some(())
        });
    }
}

#[test]
fn every_inhibit_rule_is_tested_and_its_source_labels_exist() {
    let file = yaml("alertmanager/alertmanager.yml");
    let rules = list(&file["inhibit_rules"]);
    let (of_absent, rules) = rules.split_at(2);
    assert!(
        of_absent.iter().all(|rule| rule["source_matchers"][0] == format!("alertname = {PREFIX}{ABSENT}"))
    );
    assert_eq!(
        rules.len(),
        ROWS.len(),
        "add a row here for each inhibit rule of the file, in the same order"
    );
    let alerts = Alert::all();
    let mut sources = BTreeSet::new();
    for (rule, row) in rules.iter().zip(&ROWS) {
        let equal: Vec<&str> = list(&rule["equal"]).iter().filter_map(Value::as_str).collect();
        assert_eq!(equal, [&PLACE, row.equal].concat(), "{rule}");
        for name in row.sources {
            let source = alerts.iter().find(|alert| alert.is(name)).unwrap();
            // Alertmanager treats a label that both lack as equal.
            assert!(row.equal.iter().all(|label| source.has(label)), "{name} lacks one of {equal:?}");
            // So that it is clear which rule inhibits.
            assert!(sources.insert(name), "{name} is a source of two rules");
        }
    }
}

#[test]
fn every_alert_has_cluster_and_namespace() {
    // The routes and inhibitions that the Prometheus Operator makes of an AlertmanagerConfig ignore alerts without a namespace.
    for alert in Alert::all() {
        assert!(PLACE.iter().all(|label| alert.has(label)), "{} has only {:?}", alert.name, alert.labels);
    }
}

#[test]
fn unbound_and_invalid_alerts_are_never_inhibited() {
    let alerts = Alert::all();
    for alert in alerts.iter().filter(|alert| alert.is_one_of(&["AccountUnbound", "AccountInvalid"])) {
        let silencers = ROWS.iter().filter(|row| (row.silences)(alert)).flat_map(|row| row.sources);
        // This one, and that of ABSENT, mean that kfwatch itself is unreachable.
        assert_eq!(silencers.collect::<Vec<_>>(), [&"TargetDownInhibitor"], "{}", alert.name);
    }
}

/// A source and a target that fire together.
#[derive(Debug)]
struct Case {
    what: String,
    source: Map<String, Value>,
    target: Map<String, Value>,
    silenced: bool,
}

impl Case {
    fn alerts(&self) -> [Value; 2] {
        [&self.source, &self.target].map(|labels| json!({ "labels": labels }))
    }
}

/// Returns all cases for one source and one target. Each case has its own place, starting with `first_place`.
fn pair(source: &Alert, target: &Alert, first_place: usize) -> Vec<Case> {
    let row = ROWS.iter().find(|row| row.sources.iter().any(|name| source.is(name)));
    let row = row.filter(|row| (row.silences)(target));
    let with = |how: &str, source_labels, target_labels, silenced| Case {
        what: format!("{} {how} {}", source.name.trim_start_matches(PREFIX), target.name),
        source: source_labels,
        target: target_labels,
        silenced,
    };
    let mut places = first_place..;
    let mut place = || places.next().unwrap_or_default();
    let mut cases = Vec::new();
    let here = place();
    cases.push(with("and, of the same,", source.at(here), target.at(here), row.is_some()));
    for label in source.labels.intersection(&target.labels).filter(|label| !PLACE.contains(&label.as_str())) {
        let here = place();
        let mut elsewhere = target.at(here);
        elsewhere.insert(label.clone(), json!(format!("another-{here}")));
        let silenced = row.is_some_and(|row| !row.equal.contains(&label.as_str()));
        cases.push(with(&format!("and, of another {label},"), source.at(here), elsewhere, silenced));
    }
    // Whether the rules keep a label or Prometheus adds it as an external label.
    for label in PLACE.into_iter().filter(|_| row.is_some()) {
        for (how, of_source, of_target) in
            [("the same", "a", "a"), ("another", "a", "b"), ("no", "a", ""), ("a", "", "a")]
        {
            let here = place();
            let [mut first, mut second] = [source.at(here), target.at(here)];
            for (labels, value) in [(&mut first, of_source), (&mut second, of_target)] {
                labels.insert(label.to_owned(), json!(value));
                labels.retain(|_, value| value != "");
            }
            cases.push(with(&format!("and, of {how} {label},"), first, second, of_source == of_target));
        }
    }
    // With metrics.per_account = false no alert has this label.
    const LEFT_OUT: &str = "kf_account";
    for (how, of_source, of_target) in
        [("and, as sums,", true, true), ("as sum and", true, false), ("and, as sum,", false, true)]
    {
        if (of_source && !source.has(LEFT_OUT)) || (of_target && !target.has(LEFT_OUT)) {
            continue;
        }
        let here = place();
        let [mut first, mut second] = [source.at(here), target.at(here)];
        for (labels, left_out) in [(&mut first, of_source), (&mut second, of_target)] {
            if left_out {
                labels.remove(LEFT_OUT);
            }
        }
        let silenced = row.is_some_and(|row| !row.equal.contains(&LEFT_OUT));
        cases.push(with(how, first, second, silenced));
    }
    cases
}

/// Returns which alerts are inhibited, by their labels, once all posted alerts have been processed.
fn inhibited(alertmanager: &Alertmanager) -> BTreeMap<String, bool> {
    alertmanager.send(&MARKER.map(|name| json!({"labels": {"alertname": name}})));
    eventually("the inhibition of the marker", || {
        alertmanager.alerts(MARKER[1]).iter().any(is_inhibited).then_some(())
    });
    let alerts = alertmanager.all_alerts();
    alerts.iter().map(|alert| (key(alert["labels"].as_object().unwrap()), is_inhibited(alert))).collect()
}

/// The shipped file, with receivers that send nothing, and a rule for [`MARKER`].
fn rules_and_marker() -> String {
    let mut file = yaml("alertmanager/alertmanager.yml");
    let [first, second] = MARKER.map(|name| format!("alertname = {name}"));
    let mark = json!({"source_matchers": [first], "target_matchers": [second]});
    file["inhibit_rules"].as_array_mut().unwrap().push(mark);
    // routes.rs tests which messages arrive.
    file["receivers"] = list(&file["receivers"]).iter().map(|it| json!({"name": it["name"]})).collect();
    // JSON is YAML.
    file.to_string()
}

fn key(labels: &Map<String, Value>) -> String {
    json!(labels).to_string()
}
