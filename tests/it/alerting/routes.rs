//! Which receiver gets which alert, and when, as shown by the messages that a real Alertmanager sends to a webhook and
//! to WeCom.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use serde_json::{Value, json};

use super::{
    RUNBOOK,
    alerts::{Alert, PREFIX, list},
};
use crate::support::{
    alertmanager::{Alertmanager, Receiver},
    kit::{minutes_as_seconds, routes_to, shipped},
    process::Home,
    wait::eventually,
};

/// Warnings whose cause often concerns many official accounts at once.
const OF_ALL_ACCOUNTS: [&str; 4] = ["TwoDaemons", "NoAccountsWatched", "PollsFailing", "TokenReplaced"];

/// Names without the prefix: alerts for the leader of the customer service team.
const OF_CUSTOMERS: [&str; 4] =
    ["CustomersWaitLong", "NobodyOnline", "SessionsOnOfflineAccount", "SessionOpenTooLong"];

const MINUTES_OF_DAY: u64 = 24 * 60;

#[test]
#[ignore = "needs prometheus-alertmanager; tests/run.sh runs it"]
fn alerts_reach_only_their_receivers_in_business_hours() {
    let now_in_china = minute_of_day() + 8 * 60;
    check(now_in_china, receivers);
}

#[test]
#[ignore = "needs prometheus-alertmanager; tests/run.sh runs it"]
fn customer_alerts_are_muted_outside_business_hours() {
    // What the clock shows in UTC is eight hours from now in China, so the intervals' location matters.
    let eight_hours_ago_in_china = minute_of_day();
    check(eight_hours_ago_in_china, |alert| match alert.is_one_of(&OF_CUSTOMERS) {
        true => BTreeSet::new(),
        false => receivers(alert),
    });
}

/// Fires every alert of the rules file once, with business hours around this minute of the day in China, and compares
/// the receivers.
fn check(open_around: u64, expected: impl Fn(&Alert) -> BTreeSet<String>) {
    let site = Site::open_around(open_around);
    let mut alerts = Alert::all();
    alerts.push(Alert::foreign());
    let expected: Arrivals = alerts.iter().map(|alert| (alert.name.clone(), expected(alert))).collect();
    site.send(&alerts);
    site.settle();
    let missing = |arrived: &Arrivals| expected.iter().any(|(name, to)| !to.is_subset(&arrived[name]));
    let arrived = eventually("every alert", || Some(site.arrivals(&alerts)).filter(|it| !missing(it)));
    let surplus: Vec<_> = arrived.iter().filter(|(name, to)| **to != expected[*name]).collect();
    assert!(surplus.is_empty(), "unexpected: {surplus:?}");
    for message in site.webhook.messages("/kfwatch") {
        let alert_labels = &message["alerts"][0]["labels"];
        if let Some(alert) = alerts.iter().find(|alert| alert_labels["alertname"] == alert.name.as_str()) {
            // A hundred unbound kf accounts are one message. Those about one cause in all official accounts, and those of
            // severity info, are one message for all official accounts.
            let by_account = alert.severity == "warning"
                && alert.has("official_account")
                && !alert.is_one_of(&OF_ALL_ACCOUNTS);
            let labels = message["groupLabels"].as_object().unwrap();
            let of_place = ["cluster", "namespace"].into_iter().filter(|label| alert.has(label));
            let of_account = by_account.then_some("official_account");
            let expected: Vec<_> = ["alertname"].into_iter().chain(of_place).chain(of_account).collect();
            assert_eq!(labels.keys().collect::<Vec<_>>(), expected, "{}", alert.name);
        }
    }
}

/// Where an alert arrived: at the webhook of a receiver, or at a WeCom user.
type Arrivals = BTreeMap<String, BTreeSet<String>>;

/// Where an alert should arrive in business hours.
fn receivers(alert: &Alert) -> BTreeSet<String> {
    let receivers: &[&str] = match alert.severity.as_str() {
        _ if !alert.is_ours() => &[],
        "none" => &[],
        "critical" => &["webhook of everybody", "WeCom of team-lead"],
        _ if alert.is_one_of(&OF_CUSTOMERS) => &["WeCom of team-lead"],
        "warning" | "info" => &["webhook of operators"],
        other => return BTreeSet::from([format!("no receiver for severity {other}")]),
    };
    receivers.iter().map(|&receiver| receiver.to_owned()).collect()
}

/// An Alertmanager with the shipped routes and message, and one HTTP server for each type of receiver.
struct Site {
    alertmanager: Alertmanager,
    webhook: Receiver,
    wecom: Receiver,
    _home: Home,
}

impl Site {
    /// Business hours start two hours before this minute of the day in China and end two hours after it.
    fn open_around(minute: u64) -> Self {
        let [webhook, wecom] = [Receiver::start(), Receiver::start()];
        let home = Home::new();
        home.write("kfwatch.tmpl", &shipped("alertmanager/kfwatch.tmpl"));
        let mut file = routes_to(webhook.address, wecom.address, minutes_as_seconds);
        let routes = file["route"]["routes"][0]["routes"].as_array_mut().unwrap();
        let info = routes.last_mut().unwrap();
        assert_eq!(info["matchers"], json!(["severity = info"]));
        // Was ten minutes.
        info["group_wait"] = json!("1s");
        // inhibitions.rs tests inhibition.
        file["inhibit_rules"] = json!([]);
        let intervals = &mut file["time_intervals"][0];
        assert_eq!(intervals["name"], "business-hours");
        let hours = &mut intervals["time_intervals"][0];
        assert_eq!(hours["location"], "Asia/Shanghai");
        assert_eq!(list(&hours["times"]).len(), 1);
        hours["times"] = times(minute + MINUTES_OF_DAY - 120, 240);
        let alertmanager = Alertmanager::start(&home, &file.to_string());
        Self { alertmanager, webhook, wecom, _home: home }
    }

    fn send(&self, alerts: &[Alert]) {
        let alerts: Vec<Value> = alerts
            .iter()
            .map(|alert| json!({"labels": alert.at(0), "annotations": alert.annotations}))
            .collect();
        self.alertmanager.send(&alerts);
    }

    /// Waits until all posted alerts have been sent, if they are to be sent. Twice the group wait has passed when another
    /// alert has arrived that was posted after the first such alert had arrived.
    fn settle(&self) {
        let later = Alert { name: format!("{PREFIX}Later"), ..Alert::foreign() };
        for place in 0..2 {
            self.alertmanager.send(&[json!({"labels": later.at(place)})]);
            eventually("a later alert", || {
                let arrived = self.webhook.alerts(&later.name, "firing");
                arrived.into_iter().find(|alert| alert["labels"] == json!(later.at(place)))
            });
        }
    }

    fn arrivals(&self, alerts: &[Alert]) -> Arrivals {
        let mut arrivals: Arrivals =
            alerts.iter().map(|alert| (alert.name.clone(), BTreeSet::new())).collect();
        for message in self.webhook.messages("/kfwatch") {
            for alert in list(&message["alerts"]) {
                let name = alert["labels"]["alertname"].as_str().unwrap_or_default();
                let receiver = message["receiver"].as_str().unwrap_or_default();
                if let Some(arrivals) = arrivals.get_mut(name) {
                    arrivals.insert(format!("webhook of {receiver}"));
                }
            }
        }
        for message in self.wecom.messages("/message/send") {
            let text = message["text"]["content"].as_str().unwrap_or_default();
            let section = text.rsplit(RUNBOOK).next().unwrap_or_default();
            let alert = alerts.iter().find(|alert| alert.name.to_lowercase() == section);
            let name = &alert.ok_or_else(|| format!("of which alert is {text:?}?")).unwrap().name;
            let user = message["touser"].as_str().unwrap_or_default();
            arrivals.entry(name.clone()).or_default().insert(format!("WeCom of {user}"));
        }
        arrivals
    }
}

/// A time range of a day from this minute on, for this number of minutes. It is split in two at midnight.
fn times(from: u64, minutes: u64) -> Value {
    let from = from % MINUTES_OF_DAY;
    let to = from + minutes;
    let parts = [(from, to.min(MINUTES_OF_DAY)), (0, to.saturating_sub(MINUTES_OF_DAY))];
    let clock = |minute: u64| format!("{:02}:{:02}", minute / 60, minute % 60);
    let times = parts.iter().filter(|(from, to)| from < to);
    times.map(|(from, to)| json!({"start_time": clock(*from), "end_time": clock(*to)})).collect()
}

/// In UTC.
#[expect(clippy::disallowed_methods, reason = "Alertmanager goes by the machine's clock")]
fn minute_of_day() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    since_1970.as_secs() / 60 % MINUTES_OF_DAY
}

#[test]
fn test_business_hours_cross_midnight() {
    let time = |from: &str, to: &str| json!({"start_time": from, "end_time": to});
    assert_eq!(times(10 * 60, 240), json!([time("10:00", "14:00")]));
    assert_eq!(times(20 * 60, 240), json!([time("20:00", "24:00")]));
    assert_eq!(
        times(MINUTES_OF_DAY + 22 * 60 + 30, 240),
        json!([time("22:30", "24:00"), time("00:00", "02:30")])
    );
}
