//! A dashboard file of deploy/, and the parts of it that the checks read.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// Replaces `$__rate_interval` for the parser: a duration that no dashboard uses.
pub(crate) const RATE_INTERVAL: u64 = 273;

/// The URL of the runbook.
pub(crate) const RUNBOOK: &str = "https://github.com/kfwatch/kfwatch/blob/main/deploy/runbook.md";

/// A dashboard.
#[derive(Clone)]
pub(crate) struct Board {
    /// Its file name.
    pub(crate) file: String,
    pub(crate) json: Value,
}

/// A query of a panel or an annotation.
pub(crate) struct Target<'a> {
    /// Dashboard, panel and query, or dashboard and annotation, for messages.
    pub(crate) place: String,
    pub(crate) json: &'a Value,
    /// The query with all variables at "All".
    pub(crate) expression: String,
}

/// Returns the absolute path of a file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Reads both dashboards.
pub(crate) fn boards() -> Vec<Board> {
    ["customer-service.json", "kfwatch.json"].map(Board::read).into()
}

impl Board {
    fn read(file: &str) -> Self {
        let text = fs::read_to_string(repository("deploy/grafana/dashboards").join(file)).unwrap();
        Self { file: file.to_owned(), json: serde_json::from_str(&text).unwrap() }
    }

    /// Returns the path of its file.
    pub(crate) fn path(&self) -> PathBuf {
        repository("deploy/grafana/dashboards").join(&self.file)
    }

    /// Returns all panels, including rows.
    pub(crate) fn panels_and_rows(&self) -> &[Value] {
        list(&self.json["panels"])
    }

    /// Returns the panels except rows.
    pub(crate) fn panels(&self) -> impl Iterator<Item = &Value> {
        self.panels_and_rows().iter().filter(|panel| panel["type"] != "row")
    }

    /// Returns the panels that query data.
    pub(crate) fn panels_with_data(&self) -> impl Iterator<Item = &Value> {
        self.panels().filter(|panel| panel["type"] != "text")
    }

    /// Returns a panel's name for messages.
    pub(crate) fn place(&self, panel: &Value) -> String {
        format!("{}, panel {} \"{}\"", self.file, panel["id"], text(&panel["title"]))
    }

    /// Returns the annotations.
    pub(crate) fn annotations(&self) -> &[Value] {
        list(&self.json["annotations"]["list"])
    }

    /// Returns the queries of all annotations and panels.
    pub(crate) fn targets(&self) -> Vec<Target<'_>> {
        let mut found = self.annotation_targets();
        found.extend(self.panel_targets());
        found
    }

    /// Returns the queries of all panels.
    pub(crate) fn panel_targets(&self) -> Vec<Target<'_>> {
        let mut found = Vec::new();
        for panel in self.panels() {
            for json in list(&panel["targets"]) {
                let place = format!("{}, query {}", self.place(panel), text(&json["refId"]));
                found.push(Target { place, expression: self.substituted(text(&json["expr"])), json });
            }
        }
        found
    }

    /// Returns the queries of all annotations.
    pub(crate) fn annotation_targets(&self) -> Vec<Target<'_>> {
        let mut found = Vec::new();
        for json in self.annotations() {
            let place = format!("{}, annotation {}", self.file, json["name"]);
            found.push(Target { place, expression: self.substituted(text(&json["expr"])), json });
        }
        found
    }

    /// Returns the variables of the dashboard.
    pub(crate) fn variables(&self) -> &[Value] {
        list(&self.json["templating"]["list"])
    }

    /// Returns the variable of this name.
    pub(crate) fn variable(&self, name: &str) -> Option<&Value> {
        self.variables().iter().find(|variable| variable["name"] == name)
    }

    /// Returns the selector and the label of each variable's query, which is `label_values(selector, label)`.
    pub(crate) fn variable_queries(&self) -> Vec<(&Value, String, String)> {
        let query = |variable: &'_ Value| {
            let inner = text(&variable["query"]["query"]).strip_prefix("label_values(")?.strip_suffix(')')?;
            let (selector, label) = inner.rsplit_once(", ")?;
            Some((self.substituted(selector), label.to_owned()))
        };
        let variables = self.variables().iter();
        variables
            .filter_map(|variable| query(variable).map(|(selector, label)| (variable, selector, label)))
            .collect()
    }

    /// Returns the expression with all variables at "All".
    pub(crate) fn substituted(&self, expression: &str) -> String {
        let expression = expression.replace("$__rate_interval", &format!("{RATE_INTERVAL}s"));
        let mut variables: Vec<&Value> = self.variables().iter().collect();
        variables.sort_by_key(|variable| std::cmp::Reverse(text(&variable["name"]).len()));
        variables.into_iter().fold(expression, |expression, variable| {
            expression.replace(&format!("${}", text(&variable["name"])), text(&variable["allValue"]))
        })
    }
}

impl Target<'_> {
    /// Returns the text with names of labels in it: the legend, or the annotation's text.
    pub(crate) fn legend(&self) -> &str {
        let key = if self.json["textFormat"].is_null() { "legendFormat" } else { "textFormat" };
        text(&self.json[key])
    }
}

/// Returns the elements of an array, or none for any other value.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Returns a string, or an empty one for any other value.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
