//! The rules of a dashboard: those of Grafana's dashboard-linter, and those that make a provisioned file work
//! everywhere. Each complaint names the dashboard and the panel, and says what to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use serde_json::{Value, json};

use super::board::{Board, RATE_INTERVAL, RUNBOOK, Target, list, text};
use crate::support::promql::{Selector, selectors};

/// A rule's name, and a function that returns the complaints about a dashboard.
pub(crate) type Rule = (&'static str, fn(&Board) -> Vec<String>);

/// All rules by name. Rules of dashboard-linter have the linter's names.
pub(crate) const RULES: &[Rule] = &[
    ("template-datasource-rule", template_datasource),
    ("template-job-rule", |board| template_label(board, "job", "Job", ".+")),
    ("template-instance-rule", |board| template_label(board, "instance", "Instance", ".+")),
    // Absent outside of Kubernetes, so "All" includes series without them.
    ("template-cluster", |board| template_label(board, "cluster", "Cluster", ".*")),
    ("template-namespace", |board| template_label(board, "namespace", "Namespace", ".*")),
    ("template-chain", template_chain),
    ("template-label-promql-rule", template_label_promql),
    ("template-on-time-change-reload-rule", template_reload),
    ("panel-datasource-rule", panel_datasource),
    ("panel-title-description-rule", panel_title_description),
    ("panel-units-rule", panel_units),
    ("panel-no-targets-rule", panel_targets),
    ("target-promql-rule", target_promql),
    ("target-rate-interval-rule", target_rate_interval),
    ("target-job-rule", |board| target_matcher(board, "job")),
    ("target-instance-rule", |board| target_matcher(board, "instance")),
    ("target-cluster", |board| target_matcher(board, "cluster")),
    ("target-namespace", |board| target_matcher(board, "namespace")),
    ("target-counter-agg-rule", target_counter),
    ("told apart", told_apart),
    ("columns", columns),
    ("only kfwatch", only_kfwatch),
    ("annotations", annotations),
    ("uneditable-dashboard", uneditable),
    ("provisioned", provisioned),
    ("unique ids", unique_ids),
    ("unique titles", unique_titles),
    ("grid", grid),
    ("links", links),
];

/// Fixed windows, with the reason for each.
const FIXED_WINDOWS: &[(&str, u64, &str)] = &[
    ("wechat_kf_sessions_started_total", 3600, "a number of an hour is what people plan with"),
    ("wechat_kf_sessions_ended_total", 3600, "a number of an hour is what people plan with"),
    ("wechat_kf_session_duration_seconds_bucket", 3600, "sessions end too rarely for a short window"),
    ("kfwatch_token_replaced_total", 3600, "tokens are fetched every two hours"),
    ("kfwatch_token_refresh_failures_total", 3600, "tokens are fetched every two hours"),
    ("kfwatch_token_refreshes_total", 3600, "tokens are fetched every two hours"),
    ("kfwatch_sink_expired_dead_letters_total", 86_400, "a day's dead letters expire at once"),
    ("kfwatch_sink_lost_events_total", 86_400, "losses of the night are read in the morning"),
    ("kfwatch_api_requests_total", 900, "a day's need is computed from more than one tick of a schedule"),
    ("process_cpu_seconds_total", 600, "it counts whole seconds, so that a short window shows spikes"),
    ("kfwatch_build_info", 86_400, "a target that is down for hours is still one of kfwatch"),
    ("kfwatch_cluster_shards", 86_400, "a replica that is down for hours is still one"),
    ("kfwatch_build_info", 900, "a version that was there before a restart is not new"),
];

/// Series that are not scraped from a kfwatch, so they may lack its job and instance.
const OTHERS_SERIES: &[(&str, &str)] = &[(
    "ALERTS",
    "made by Prometheus; alerts on official accounts have no instance, so that they outlive one",
)];

/// Suffixes of counter names.
const OF_COUNTERS: [&str; 4] = ["_total", "_bucket", "_count", "_sum"];

fn template_datasource(board: &Board) -> Vec<String> {
    let variable = board.variable("datasource");
    let wanted = json!(["datasource", "Data source", "prometheus"]);
    let found = variable
        .map(|variable| json!([variable["type"], variable["label"], variable["query"]]))
        .unwrap_or_default();
    complain(found != wanted, || {
        format!(
            "{}: make a variable `datasource` of type, label and query {wanted}; it is {found}",
            board.file
        )
    })
}

fn template_label(board: &Board, name: &str, label: &str, all: &str) -> Vec<String> {
    let wanted = json!(["query", label, "${datasource}", true, true, all]);
    let found = board.variable(name).map_or(Value::Null, |it| {
        json!([
            it["type"],
            it["label"],
            it["datasource"]["uid"],
            it["multi"],
            it["includeAll"],
            it["allValue"]
        ])
    });
    complain(found != wanted, || {
        format!(
            "{}: give the variable `{name}` type, label, data source, multi, includeAll, allValue {wanted}; it has {found}",
            board.file
        )
    })
}

/// Checks that each variable is limited by all variables before it, and by nothing else.
fn template_chain(board: &Board) -> Vec<String> {
    let mut before = Vec::new();
    let mut complaints = Vec::new();
    for (variable, selector, label) in board.variable_queries() {
        let found = read(&selector).unwrap_or_default();
        if found.iter().any(|selector| selector.matchers != before) || variable["name"] != label.as_str() {
            complaints.push(format!("{}: limit the variable {label} by all before it", board.file));
        }
        before.push((label, "=~".to_owned(), text(&variable["allValue"]).to_owned()));
    }
    complaints
}

fn template_label_promql(board: &Board) -> Vec<String> {
    let queried = board.variable_queries();
    let queries = board.variables().iter().filter(|variable| variable["type"] == "query").count();
    let mut complaints = complain(queried.len() != queries, || {
        format!("{}: write every variable's query as label_values(selector, label)", board.file)
    });
    for (variable, selector, _) in queried {
        if let Err(error) = read(&selector) {
            complaints
                .push(format!("{}: fix the query of the variable {}: {error}", board.file, variable["name"]));
        }
    }
    complaints
}

fn template_reload(board: &Board) -> Vec<String> {
    let queries = board.variables().iter().filter(|variable| variable["type"] == "query");
    let old = queries.filter(|variable| variable["refresh"] != 2);
    old.map(|variable| format!("{}: give the variable {} refresh 2", board.file, variable["name"])).collect()
}

fn panel_datasource(board: &Board) -> Vec<String> {
    let ours = ours();
    let panels = board.panels_with_data().filter(|panel| {
        panel["datasource"] != ours
            || list(&panel["targets"]).iter().any(|target| target["datasource"] != ours)
    });
    panels
        .map(|panel| format!("{}: set its datasource and its queries' to {ours}", board.place(panel)))
        .collect()
}

fn panel_title_description(board: &Board) -> Vec<String> {
    let bare = board
        .panels()
        .filter(|panel| [&panel["title"], &panel["description"]].iter().any(|words| text(words).len() < 4));
    bare.map(|panel| format!("{}: give it a title and a description", board.place(panel))).collect()
}

fn panel_units(board: &Board) -> Vec<String> {
    let bare = board.panels_with_data().filter(|panel| {
        let defaults = &panel["fieldConfig"]["defaults"];
        let axis = &panel["options"]["yAxis"]["unit"];
        text(&defaults["unit"]).is_empty() && list(&defaults["mappings"]).is_empty() && text(axis).is_empty()
    });
    bare.map(|panel| format!("{}: give it a unit or value mappings", board.place(panel))).collect()
}

fn panel_targets(board: &Board) -> Vec<String> {
    let bare = board.panels_with_data().filter(|panel| list(&panel["targets"]).is_empty());
    bare.map(|panel| format!("{}: give it a query", board.place(panel))).collect()
}

fn target_promql(board: &Board) -> Vec<String> {
    let mistake = |target: Target<'_>| {
        let expression = &target.expression;
        let error = match read(expression) {
            Err(error) => error,
            Ok(_) if expression.replace("\"$1\"", "").contains('$') => {
                "it has an unknown variable".to_owned()
            }
            Ok(_) => return None,
        };
        Some(format!("{}: fix the query: {error}", target.place))
    };
    board.targets().into_iter().filter_map(mistake).collect()
}

fn target_rate_interval(board: &Board) -> Vec<String> {
    each_selector(board, |selector| {
        let range = selector.range?;
        let excepted = |(metric, seconds, _): &(&str, u64, &str)| {
            *metric == selector.metric && Duration::from_secs(*seconds) == range
        };
        let good = range == Duration::from_secs(RATE_INTERVAL) || FIXED_WINDOWS.iter().any(excepted);
        (!good).then(|| {
            format!("use [$__rate_interval] for {}, or list its window with a reason", selector.metric)
        })
    })
}

fn target_matcher(board: &Board, label: &str) -> Vec<String> {
    each_selector(board, |selector| {
        let all = board.variable(label).map_or("", |variable| text(&variable["allValue"]));
        let wanted = (label.to_owned(), "=~".to_owned(), all.to_owned());
        let excepted = ["job", "instance"].contains(&label)
            && OTHERS_SERIES.iter().any(|(metric, _)| *metric == selector.metric);
        (!excepted && !selector.matchers.contains(&wanted))
            .then(|| format!("give {} the matcher {label}=~\"${label}\"", selector.metric))
    })
}

fn target_counter(board: &Board) -> Vec<String> {
    each_selector(board, |selector| {
        let counts = OF_COUNTERS.iter().any(|end| selector.metric.ends_with(end));
        (counts != selector.in_rate).then(|| {
            format!("use rate, irate or increase with counters and with nothing else: {}", selector.metric)
        })
    })
}

/// Checks that official accounts and instances of the same name in two clusters or namespaces stay two.
fn told_apart(board: &Board) -> Vec<String> {
    let merges = |labels: &str| {
        let labels: BTreeSet<&str> = labels.split(", ").collect();
        (labels.contains("official_account") || labels.contains("instance"))
            && !(labels.contains("cluster") && labels.contains("namespace"))
    };
    let groups = |expression: &str| -> Vec<String> {
        let starts = [" by (", " on ("].iter().flat_map(|start| expression.split(start).skip(1));
        starts.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
    };
    let bad =
        board.targets().into_iter().filter(|target| groups(&target.expression).iter().any(|it| merges(it)));
    bad.map(|target| format!("{}: group by cluster and namespace as well", target.place)).collect()
}

/// Checks that tables have titles for the columns of clusters and namespaces.
fn columns(board: &Board) -> Vec<String> {
    let bare = board.panels().filter(|panel| {
        let organized = list(&panel["transformations"]).iter().find(|one| one["id"] == "organize");
        let titles = organized.map(|organized| &organized["options"]["renameByName"]);
        panel["type"] == "table"
            && ["cluster", "namespace"]
                .iter()
                .any(|label| titles.is_none_or(|titles| titles.get(label).is_none()))
    });
    bare.map(|panel| format!("{}: give it columns for cluster and namespace", board.place(panel))).collect()
}

/// Checks that series of other programs are left out: with "All", the variable of the job selects every job.
fn only_kfwatch(board: &Board) -> Vec<String> {
    let everybodys = |metric: &str| metric == "up" || metric.starts_with("process_");
    let mut complaints = Vec::new();
    for target in board.targets() {
        let read = read(&target.expression).unwrap_or_default();
        let ours = read.iter().filter(|selector| selector.metric == "kfwatch_build_info").count();
        if read.iter().filter(|selector| everybodys(&selector.metric)).count() > ours {
            complaints
                .push(format!("{}: leave out other programs: join with kfwatch_build_info", target.place));
        }
    }
    complaints
}

/// Checks that restarts, versions and alerts are marked, with a text.
fn annotations(board: &Board) -> Vec<String> {
    let marks = |metric: &str, text_of: &str| {
        board.annotations().iter().any(|annotation| {
            annotation["datasource"] == ours()
                && text(&annotation["expr"]).contains(metric)
                && text(&annotation["textFormat"]).contains(text_of)
        })
    };
    let wanted = [
        ("process_start_time_seconds{", "{{instance}}"),
        ("kfwatch_build_info{", "{{version}}"),
        ("ALERTS{", "{{alertname}}"),
    ];
    let missing = wanted.iter().filter(|(metric, text)| !marks(metric, text));
    missing.map(|(metric, text)| format!("{}: mark {metric}…}} with the text {text}", board.file)).collect()
}

fn ours() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

fn uneditable(board: &Board) -> Vec<String> {
    complain(board.json["editable"] != false, || format!("{}: set editable to false", board.file))
}

/// Checks what a file needs in order to be the same dashboard in every Grafana.
fn provisioned(board: &Board) -> Vec<String> {
    let uid = match board.file.as_str() {
        "customer-service.json" => "kfwatch-customer-service",
        _ => "kfwatch",
    };
    let of_one_grafana: Vec<&str> = ["id", "__inputs", "__requires", "gnetId", "iteration"]
        .into_iter()
        .filter(|key| board.json.get(key).is_some())
        .collect();
    let mut complaints = complain(board.json["uid"] != uid, || format!("{}: set uid to {uid}", board.file));
    complaints.extend(complain(!of_one_grafana.is_empty(), || {
        format!("{}: remove {of_one_grafana:?}, which belong to one Grafana or to an import", board.file)
    }));
    complaints.extend(complain(!list(&board.json["tags"]).contains(&json!("kfwatch")), || {
        format!("{}: give it the tag kfwatch, by which the dashboards find each other", board.file)
    }));
    complaints.extend(complain(board.json["schemaVersion"] != 39, || {
        format!(
            "{}: set schemaVersion to 39: newer Grafanas migrate it, those from 10 on read it",
            board.file
        )
    }));
    complaints
}

fn unique_ids(board: &Board) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let second = board
        .panels_and_rows()
        .iter()
        .filter(|panel| !panel["id"].as_u64().is_some_and(|id| seen.insert(id)));
    second.map(|panel| format!("{}: give it an id of its own", board.place(panel))).collect()
}

fn unique_titles(board: &Board) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let second = board.panels_and_rows().iter().filter(|panel| !seen.insert(text(&panel["title"])));
    second.map(|panel| format!("{}: give it a title of its own", board.place(panel))).collect()
}

fn grid(board: &Board) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut complaints = Vec::new();
    for panel in board.panels_and_rows() {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap_or(99));
        let cells: BTreeSet<_> =
            (x..x + w).flat_map(|column| (y..y + h).map(move |line| (column, line))).collect();
        let free = taken.is_disjoint(&cells);
        taken.extend(cells);
        if !free || x + w > 24 || w == 0 || h == 0 {
            complaints
                .push(format!("{}: move it: it overlaps, or leaves the 24 columns", board.place(panel)));
        }
    }
    complaints
}

fn links(board: &Board) -> Vec<String> {
    let links = list(&board.json["links"]);
    let each_other =
        links.iter().any(|link| link["type"] == "dashboards" && link["tags"] == json!(["kfwatch"]));
    let runbook = links.iter().any(|link| link["type"] == "link" && link["url"] == RUNBOOK);
    let mut complaints =
        complain(!each_other, || format!("{}: link the dashboards with the tag kfwatch", board.file));
    complaints.extend(complain(!runbook, || format!("{}: link the runbook, {RUNBOOK}", board.file)));
    complaints
}

fn each_selector(board: &Board, check: impl Fn(&Selector) -> Option<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for target in board.targets() {
        for selector in read(&target.expression).unwrap_or_default() {
            complaints.extend(check(&selector).map(|complaint| format!("{}: {complaint}", target.place)));
        }
    }
    complaints
}

/// Returns the selectors of an expression, or why it cannot be parsed. Many rules read the same expressions, and without
/// optimization the parser is slow.
fn read(expression: &str) -> Result<Vec<Selector>, String> {
    type Read = BTreeMap<String, Result<Vec<Selector>, String>>;
    static READ: Mutex<Read> = Mutex::new(BTreeMap::new());
    let parse = || promql_parser::parser::parse(expression).map(|_| selectors(expression));
    READ.lock().unwrap().entry(expression.to_owned()).or_insert_with(parse).clone()
}

fn complain(wrong: bool, complaint: impl FnOnce() -> String) -> Vec<String> {
    if wrong { vec![complaint()] } else { Vec::new() }
}
