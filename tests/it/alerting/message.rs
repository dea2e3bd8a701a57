//! The length of the message that WeCom shows, as rendered by Alertmanager's own tool.

use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use super::alerts::{Alert, list, yaml};
use crate::support::process::Home;

/// The maximum size of a text in WeCom. WeCom truncates longer texts; Alertmanager does not.
const MOST_BYTES: usize = 2048;

/// The maximum number of characters of a name in the configuration. Instances may be longer.
const LONGEST_NAME: usize = 64;
const LONGEST_INSTANCE: usize = 100;

/// The longest rendering of a value as a duration.
const LONGEST_VALUE: &str = "364d 23h 59m 59s";

#[test]
#[ignore = "needs prometheus-alertmanager; tests/run.sh runs it"]
fn longest_messages_fit_into_wecom() {
    let home = Home::new();
    for alert in Alert::all() {
        let described = description(&home, &alert, &longest_labels(&alert, 0));
        for (firing, resolved) in [(1, 0), (0, 1), (100, 0), (0, 100), (100, 100)] {
            let text = message(&home, &alert, &described, [firing, resolved]);
            assert!(text.ends_with(&format!("#{}", alert.name.to_lowercase())), "{text}");
            assert!(text.contains(&described), "{text}");
            assert!(text.len() <= MOST_BYTES, "{} bytes: {text}", text.len());
        }
    }
}

/// Renders the message for a group with these numbers of firing and resolved alerts. All have a description as long as
/// `described`.
fn message(home: &Home, alert: &Alert, described: &str, [firing, resolved]: [usize; 2]) -> String {
    let labels: Vec<_> = (0..firing + resolved).map(|number| longest_labels(alert, number)).collect();
    let alerts: Vec<Value> = labels
        .iter()
        .enumerate()
        .map(|(number, labels)| {
            let status = if number < firing { "firing" } else { "resolved" };
            json!({"status": status, "labels": labels, "annotations": {"description": described}})
        })
        .collect();
    let mut common = labels[0].clone();
    common.retain(|name, value| labels.iter().all(|labels| labels.get(name) == Some(value)));
    let data = json!({
        "commonLabels": common,
        "commonAnnotations": {"summary": alert.annotations["summary"], "runbook_url": alert.annotations["runbook_url"]},
        "alerts": alerts,
    });
    render(home, &data, r#"{{ template "kfwatch.message" . }}"#)
}

/// Labels of maximum length. All except those by which alerts are grouped are unique to the alert of this number.
fn longest_labels(alert: &Alert, number: usize) -> Map<String, Value> {
    let mut labels = alert.at(number);
    for label in &alert.labels {
        let value = match label.as_str() {
            // The rules select it.
            "job" => "kfwatch".to_owned(),
            "cluster" | "namespace" => "o".repeat(LONGEST_NAME),
            "official_account" if alert.severity == "warning" => "o".repeat(LONGEST_NAME),
            "instance" => format!("{number:i>LONGEST_INSTANCE$}"),
            _ => format!("{number:n>LONGEST_NAME$}"),
        };
        labels.insert(label.clone(), json!(value));
    }
    labels
}

/// The description as Prometheus renders it.
fn description(home: &Home, alert: &Alert, labels: &Map<String, Value>) -> String {
    let text = alert.annotations["description"].as_str().unwrap();
    // It may end with the reason.
    let reason = ["{{ with $labels.code }}", "{{ with printf "].iter().find_map(|start| text.find(start));
    let text = reason.map_or(text.to_owned(), |start| format!("{}{}", &text[..start], longest_reason()));
    let mut parts = text.split("{{ $value");
    let mut template = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (_how, rest) = part.split_once("}}").unwrap();
        template += LONGEST_VALUE;
        template += rest;
    }
    // What Prometheus calls labels are common labels here.
    render(home, &json!({"commonLabels": labels}), &template.replace("$labels.", "$.CommonLabels."))
}

/// The longest reason: an errcode with its meaning in both languages.
fn longest_reason() -> String {
    let file = yaml("prometheus/kfwatch.rules.yml");
    let rules = list(&file["groups"]).iter().flat_map(|group| list(&group["rules"]));
    let meanings = rules.filter(|rule| rule["record"] == "code:kfwatch_errcode:info").map(|rule| {
        let [code, en, zh] = ["code", "en", "zh"].map(|label| rule["labels"][label].as_str().unwrap());
        format!("Reason / 原因: {code}, {en} / {zh}。")
    });
    meanings.max_by_key(String::len).unwrap()
}

fn render(home: &Home, data: &Value, template: &str) -> String {
    home.write("data.json", &data.to_string());
    let templates = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/alertmanager/*.tmpl");
    let output = Command::new("amtool")
        .args(["template", "render"])
        .arg(format!("--template.glob={templates}"))
        .arg(format!("--template.data={}", home.path("data.json").display()))
        .arg(format!("--template.text={template}"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{template}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
