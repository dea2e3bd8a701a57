//! The alerts and routes in the files of deploy/, and synthetic alerts with the same names and labels.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::support::{
    kit::{read_yaml, shipped},
    promql::labels_found,
};

/// The prefix of all alert names of kfwatch.
pub(crate) const PREFIX: &str = "WechatKf";

/// An alert of the rules file.
pub(crate) struct Alert {
    pub(crate) name: String,
    pub(crate) severity: String,
    /// The names of its labels, except `alertname` and `severity`.
    pub(crate) labels: BTreeSet<String>,
    pub(crate) annotations: Value,
}

impl Alert {
    /// Returns all alerts of the rules file.
    pub(crate) fn all() -> Vec<Self> {
        let file = yaml("prometheus/kfwatch.rules.yml");
        let groups = list(&file["groups"]);
        let rules: Vec<&Value> = groups.iter().flat_map(|group| list(&group["rules"])).collect();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let records = rules.iter().filter(|rule| rule["record"].is_string());
        let recorded: BTreeMap<String, String> =
            records.map(|rule| (text(&rule["record"]), text(&rule["expr"]))).collect();
        let alerts: Vec<Self> = rules
            .iter()
            .filter(|rule| rule["alert"].is_string())
            .map(|rule| Self {
                name: text(&rule["alert"]),
                severity: text(&rule["labels"]["severity"]),
                labels: labels_found(&text(&rule["expr"]), &recorded),
                annotations: rule["annotations"].clone(),
            })
            .collect();
        assert!(alerts.len() > 20, "{}", alerts.len());
        alerts
    }

    /// An alert that other rules could raise on the same targets.
    pub(crate) fn foreign() -> Self {
        let labels = ["official_account", "kf_account", "instance", "job", "collector", "sink"];
        Self {
            name: "HostDown".to_owned(),
            severity: "warning".to_owned(),
            labels: labels.map(str::to_owned).into(),
            annotations: json!({}),
        }
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.name.starts_with(PREFIX)
    }

    /// Whether it is the alert of this name without [`PREFIX`].
    pub(crate) fn is(&self, short_name: &str) -> bool {
        self.name.strip_prefix(PREFIX) == Some(short_name)
    }

    pub(crate) fn is_one_of(&self, short_names: &[&str]) -> bool {
        short_names.iter().any(|name| self.is(name))
    }

    pub(crate) fn has(&self, label: &str) -> bool {
        self.labels.contains(label)
    }

    /// Returns its labels at this place. Two places have no label value in common.
    pub(crate) fn at(&self, place: usize) -> Map<String, Value> {
        let mut labels: Map<String, Value> =
            self.labels.iter().map(|label| (label.clone(), json!(format!("{label}-{place}")))).collect();
        labels.insert("alertname".to_owned(), json!(self.name));
        labels.insert("severity".to_owned(), json!(self.severity));
        labels
    }
}

/// Reads a YAML file of deploy/.
pub(crate) fn yaml(name: &str) -> Value {
    read_yaml(&shipped(name))
}

/// Returns the elements of a list, or none for any other value.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
