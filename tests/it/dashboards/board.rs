//! A dashboard as a file of deploy/, and what the checks look at in it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// What `$__rate_interval` becomes for a parser: a duration that nobody would write.
pub(crate) const RATE_INTERVAL: u64 = 273;

/// Where the runbook is read.
pub(crate) const RUNBOOK: &str = "https://github.com/kfwatch/kfwatch/blob/main/deploy/runbook.md";

/// A dashboard.
#[derive(Clone)]
pub(crate) struct Board {
    /// The name of its file.
    pub(crate) file: String,
    pub(crate) json: Value,
}

/// A query of a panel.
pub(crate) struct Target<'a> {
    /// Dashboard, panel and query, for messages.
    pub(crate) place: String,
    pub(crate) json: &'a Value,
    /// The query with all variables at "All".
    pub(crate) expression: String,
}

/// A path in the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Both dashboards.
pub(crate) fn boards() -> Vec<Board> {
    ["customer-service.json", "kfwatch.json"].map(Board::read).into()
}

impl Board {
    fn read(file: &str) -> Self {
        let text = fs::read_to_string(repository("deploy/grafana/dashboards").join(file)).unwrap();
        Self { file: file.to_owned(), json: serde_json::from_str(&text).unwrap() }
    }

    /// Where its file is.
    pub(crate) fn path(&self) -> PathBuf {
        repository("deploy/grafana/dashboards").join(&self.file)
    }

    /// All panels, and rows among them.
    pub(crate) fn panels_and_rows(&self) -> &[Value] {
        list(&self.json["panels"])
    }

    /// The panels that show something.
    pub(crate) fn panels(&self) -> impl Iterator<Item = &Value> {
        self.panels_and_rows().iter().filter(|panel| panel["type"] != "row")
    }

    /// The panels that ask for data.
    pub(crate) fn panels_with_data(&self) -> impl Iterator<Item = &Value> {
        self.panels().filter(|panel| panel["type"] != "text")
    }

    /// A panel's name in messages.
    pub(crate) fn place(&self, panel: &Value) -> String {
        format!("{}, panel {} \"{}\"", self.file, panel["id"], text(&panel["title"]))
    }

    /// The queries of all panels.
    pub(crate) fn targets(&self) -> Vec<Target<'_>> {
        let mut found = Vec::new();
        for panel in self.panels() {
            for json in list(&panel["targets"]) {
                let place = format!("{}, query {}", self.place(panel), text(&json["refId"]));
                found.push(Target { place, expression: self.substituted(text(&json["expr"])), json });
            }
        }
        found
    }

    /// The variables of the dashboard.
    pub(crate) fn variables(&self) -> &[Value] {
        list(&self.json["templating"]["list"])
    }

    /// A variable by its name.
    pub(crate) fn variable(&self, name: &str) -> Option<&Value> {
        self.variables().iter().find(|variable| variable["name"] == name)
    }

    /// The selector and the label of each variable's query, which is `label_values(selector, label)`.
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

    /// The expression with all variables at "All".
    pub(crate) fn substituted(&self, expression: &str) -> String {
        let expression = expression.replace("$__rate_interval", &format!("{RATE_INTERVAL}s"));
        let mut variables: Vec<&Value> = self.variables().iter().collect();
        variables.sort_by_key(|variable| std::cmp::Reverse(text(&variable["name"]).len()));
        variables.into_iter().fold(expression, |expression, variable| {
            expression.replace(&format!("${}", text(&variable["name"])), text(&variable["allValue"]))
        })
    }
}

/// The elements of an array; none of anything else.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A string; empty of anything else.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
