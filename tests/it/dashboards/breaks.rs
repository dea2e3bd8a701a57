//! Violations of each rule, applied to a copy of the operator's dashboard.

use serde_json::{Value, json};

/// A rule, how it is violated, and the change that violates it once.
pub(crate) type Break = (&'static str, &'static str, fn(&mut Value));

/// The first panel that is not a row: a stat with one query.
const FIRST: usize = 1;

pub(crate) const BREAKS: &[Break] = &[
    ("template-datasource-rule", "another label", |board| {
        variable(board, "datasource")["label"] = json!("Source")
    }),
    ("template-datasource-rule", "another name", |board| variable(board, "datasource")["name"] = json!("ds")),
    ("template-job-rule", "one job alone", |board| variable(board, "job")["multi"] = json!(false)),
    ("template-job-rule", "no variable", |board| variable(board, "job")["name"] = json!("work")),
    ("template-instance-rule", "other value for all", |board| {
        variable(board, "instance")["allValue"] = json!(".*")
    }),
    ("template-instance-rule", "another label", |board| {
        variable(board, "instance")["label"] = json!("instance")
    }),
    ("template-cluster", "no variable", |board| variable(board, "cluster")["name"] = json!("region")),
    ("template-namespace", "only with the label", |board| {
        variable(board, "namespace")["allValue"] = json!(".+");
    }),
    ("template-chain", "the instance of any namespace", |board| {
        variable(board, "instance")["query"]["query"] =
            json!("label_values(kfwatch_build_info{cluster=~\"$cluster\", job=~\"$job\"}, instance)");
    }),
    ("template-label-promql-rule", "no PromQL", |board| {
        variable(board, "instance")["query"]["query"] = json!("label_values(up{job=}, instance)");
    }),
    ("template-label-promql-rule", "no label_values", |board| {
        variable(board, "instance")["query"]["query"] = json!("up");
    }),
    ("template-on-time-change-reload-rule", "never", |board| variable(board, "job")["refresh"] = json!(1)),
    ("panel-datasource-rule", "a fixed one", |board| panel(board)["datasource"]["uid"] = json!("prometheus")),
    ("panel-datasource-rule", "in a query", |board| panel(board)["targets"][0]["datasource"] = Value::Null),
    ("panel-title-description-rule", "no title", |board| panel(board)["title"] = json!("")),
    ("panel-title-description-rule", "no description", |board| panel(board)["description"] = Value::Null),
    ("panel-units-rule", "none", |board| {
        panel(board)["fieldConfig"]["defaults"] = json!({});
    }),
    ("panel-no-targets-rule", "none", |board| panel(board)["targets"] = json!([])),
    ("target-promql-rule", "no PromQL", |board| query(board, "min(up{")),
    ("target-promql-rule", "no such variable", |board| query(board, "up{x=\"$shop\"}")),
    ("target-rate-interval-rule", "a window", |board| query(board, "rate(kfwatch_polls_total{JI}[5m])")),
    ("target-job-rule", "none", |board| query(board, "up{instance=~\"$instance\"}")),
    ("target-job-rule", "a fixed one", |board| query(board, "up{job=\"kfwatch\", instance=~\"$instance\"}")),
    ("target-instance-rule", "none", |board| query(board, "up{job=~\"$job\"}")),
    ("target-cluster", "none", |board| query(board, &format!("up{{{NAMESPACE}}}"))),
    ("target-namespace", "none", |board| query(board, &format!("up{{{CLUSTER}}}"))),
    ("target-counter-agg-rule", "bare", |board| query(board, "sum(kfwatch_polls_total{JI})")),
    ("target-counter-agg-rule", "rate of a gauge", |board| query(board, "rate(up{JI}[$__rate_interval])")),
    ("told apart", "official accounts", |board| {
        query(board, "max by (official_account) (wechat_kf_account_up{JI})");
    }),
    ("told apart", "instances in a join", |board| {
        query(board, "kfwatch_store_events{JI} / on (instance, namespace) kfwatch_store_used_bytes{JI}");
    }),
    ("columns", "none", |board| {
        let panels = board["panels"].as_array_mut().unwrap();
        let table = panels.iter_mut().find(|panel| panel["type"] == "table").unwrap();
        table["transformations"] = json!([]);
    }),
    ("only kfwatch", "all targets", |board| query(board, "min(up{JI})")),
    ("annotations", "none of alerts", |board| {
        board["annotations"]["list"][0] = json!({});
        board["annotations"]["list"][1] = json!({});
    }),
    ("annotations", "no label in the text", |board| {
        board["annotations"]["list"][2]["textFormat"] = json!("a restart")
    }),
    ("annotations", "a fixed data source", |board| {
        board["annotations"]["list"][3]["datasource"]["uid"] = json!("x")
    }),
    ("uneditable-dashboard", "editable", |board| board["editable"] = json!(true)),
    ("provisioned", "another uid", |board| board["uid"] = json!("a1b2c3")),
    ("provisioned", "inputs", |board| board["__inputs"] = json!([])),
    ("provisioned", "an id", |board| board["id"] = json!(7)),
    ("provisioned", "no tags", |board| board["tags"] = json!([])),
    ("provisioned", "an old schema", |board| board["schemaVersion"] = json!(14)),
    ("unique ids", "one twice", |board| panel(board)["id"] = json!(1)),
    ("unique titles", "one twice", |board| panel(board)["title"] = json!("Version")),
    ("grid", "overlap", |board| panel(board)["gridPos"]["w"] = json!(4)),
    ("grid", "too far right", |board| panel(board)["gridPos"] = json!({"x": 20, "y": 500, "w": 5, "h": 4})),
    ("links", "no runbook", |board| board["links"][1]["url"] = json!("https://example.org")),
    ("links", "no other dashboard", |board| board["links"][0]["tags"] = json!([])),
];

fn panel(board: &mut Value) -> &mut Value {
    &mut board["panels"][FIRST]
}

const CLUSTER: &str = "cluster=~\"$cluster\"";
const NAMESPACE: &str = "namespace=~\"$namespace\"";

/// Replaces the query. `JI` in it stands for the matchers of cluster, namespace, job and instance.
fn query(board: &mut Value, expression: &str) {
    let all = format!("{CLUSTER}, {NAMESPACE}, job=~\"$job\", instance=~\"$instance\"");
    let expression = expression.replace("JI", &all);
    panel(board)["targets"][0]["expr"] = json!(expression);
}

fn variable<'a>(board: &'a mut Value, name: &str) -> &'a mut Value {
    let variables = board["templating"]["list"].as_array_mut().unwrap();
    variables.iter_mut().find(|variable| variable["name"] == name).unwrap()
}
