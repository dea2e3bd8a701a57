//! The messages of a stack, and the rows of the table.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{support::alertmanager::Receiver, ten_faults::Report};

pub(super) const PREFIX: &str = "WechatKf";

/// How much shorter all intervals are.
const SHORTER: f64 = 10.0;

/// An alert that people must get, once.
pub(super) struct Expected {
    pub(super) fault: &'static str,
    /// Without [`PREFIX`].
    pub(super) alert: &'static str,
    /// A label that tells it from others of its name.
    pub(super) label: Option<(&'static str, String)>,
    pub(super) to: &'static [&'static str],
    /// Whether it ends with the repair.
    pub(super) resolves: bool,
}

/// Receivers, as [`Notification::to`] names them.
pub(super) const OPERATORS: &[&str] = &["operators"];
pub(super) const EVERYBODY: &[&str] = &["everybody", "WeCom of team-lead"];

/// When a stack was broken and when it was repaired.
pub(super) struct Times {
    pub(super) broken: Instant,
    pub(super) repaired: Instant,
}

/// A message that a receiver got.
struct Notification {
    at: Instant,
    to: String,
    /// Without [`PREFIX`].
    alert: String,
    /// The alerts of a webhook's message, or nothing.
    alerts: Vec<Value>,
    /// The text of WeCom's message, or nothing.
    text: String,
}

impl Notification {
    fn all(receiver: &Receiver) -> Vec<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let short = |name: &str| name.trim_start_matches(PREFIX).to_owned();
        let webhook = receiver.timed_messages("/kfwatch").into_iter().map(|(at, message)| Self {
            at,
            to: text(&message["receiver"]),
            alert: short(&text(&message["groupLabels"]["alertname"])),
            alerts: message["alerts"].as_array().cloned().unwrap_or_default(),
            text: String::new(),
        });
        let wecom = receiver.timed_messages("/message/send").into_iter().map(|(at, message)| {
            let text = text(&message["text"]["content"]);
            let section = text.rsplit("#wechatkf").next().unwrap_or_default().trim().to_owned();
            let user = message["touser"].as_str().unwrap_or_default();
            Self { at, to: format!("WeCom of {user}"), alert: section, alerts: Vec::new(), text }
        });
        let mut all: Vec<Self> = webhook.chain(wecom).collect();
        all.sort_by_key(|notification| notification.at);
        all
    }

    fn is_about(&self, expected: &Expected) -> bool {
        self.alert.eq_ignore_ascii_case(expected.alert) && expected.to.contains(&self.to.as_str())
    }

    /// Whether it says that this alert has this status.
    fn says(&self, expected: &Expected, status: &str) -> bool {
        let has = |alert: &Value| {
            let label = expected.label.as_ref();
            alert["status"] == status && label.is_none_or(|(name, value)| alert["labels"][name] == **value)
        };
        let heading = if status == "firing" { "Firing / " } else { "Resolved / " };
        self.text.contains(heading) || self.alerts.iter().any(has)
    }

    /// Its alerts' status and labels other than names.
    fn states(&self) -> String {
        let states = self.alerts.iter().map(|alert| {
            let labels = alert["labels"].as_object().into_iter().flatten();
            let values =
                labels.filter(|(name, _)| !["alertname", "severity", "job"].contains(&name.as_str()));
            let values: Vec<&str> = values.filter_map(|(_, value)| value.as_str()).collect();
            format!("{} {}", alert["status"].as_str().unwrap_or_default(), values.join(" "))
        });
        states.chain(self.text.lines().nth(1).map(str::to_owned)).collect::<Vec<_>>().join(", ")
    }

    fn official_accounts(&self) -> impl Iterator<Item = &str> {
        self.alerts.iter().filter_map(|alert| alert["labels"]["official_account"].as_str())
    }
}

/// Compares the messages with what is expected. `faulty` are the official accounts with a fault.
pub(super) fn report(
    receiver: &Receiver,
    expected: &[Expected],
    faulty: &[String],
    times: &Times,
    inhibited: &str,
) -> Report {
    let mut report = Report::default();
    let all = Notification::all(receiver);
    let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for notification in &all {
        let at = shown(notification.at.saturating_duration_since(times.broken));
        let mut add = |why: &str| {
            let what = format!("{why}: {} to {}", notification.alert, notification.to);
            wrong.entry(what).or_default().push(format!("{at}: {}", notification.states()));
        };
        if notification.at < times.broken {
            add("before any fault");
        } else if !expected.iter().any(|expected| notification.is_about(expected)) {
            add("unexpected");
        }
        let healthy = notification.official_accounts().find(|account| !faulty.iter().any(|it| it == account));
        if let Some(healthy) = healthy {
            add(&format!("{healthy} is healthy"));
        }
    }
    report
        .problems
        .extend(wrong.into_iter().map(|(what, messages)| format!("{what}: {}", messages.join("; "))));
    for (index, expected) in expected.iter().enumerate() {
        for (number, to) in expected.to.iter().enumerate() {
            // The same for all of this stack.
            let inhibited = if index + number == 0 { inhibited } else { "" };
            add(&mut report, &all, (expected, to), times, inhibited);
        }
    }
    report
}

/// Adds the row of an alert and a receiver.
fn add(
    report: &mut Report,
    all: &[Notification],
    (expected, to): (&Expected, &str),
    times: &Times,
    inhibited: &str,
) {
    let (mut sent, mut resolved, mut fires, mut messages) = (Vec::new(), Vec::new(), false, 0);
    for notification in all.iter().filter(|it| it.is_about(expected) && it.to == to) {
        messages += 1;
        let is_firing = notification.says(expected, "firing");
        if is_firing && !fires {
            sent.push(shown(notification.at.duration_since(times.broken)));
        } else if fires && !is_firing && notification.says(expected, "resolved") {
            resolved.push(shown(notification.at.saturating_duration_since(times.repaired)));
        }
        fires = is_firing || fires && !notification.says(expected, "resolved");
    }
    let Expected { fault, alert, label, resolves, .. } = expected;
    let about = label.as_ref().map(|(_, value)| format!(" ({value})")).unwrap_or_default();
    report.rows.push(format!(
        "| {fault} | {PREFIX}{alert}{about} | {to} | {} | {} | {} | {} | {messages} | {inhibited} |",
        sent.len(),
        sent.join(", "),
        resolved.len(),
        resolved.join(", "),
    ));
    if sent.len() != 1 || resolved.len() != usize::from(*resolves) {
        report
            .problems
            .push(format!("{fault}: {alert}{about} to {to}: sent {sent:?}, resolved {resolved:?}"));
    }
}

/// A time as it is with the shipped intervals.
fn shown(time: Duration) -> String {
    format!("{:.1} min", time.as_secs_f64() * SHORTER / 60.0)
}
