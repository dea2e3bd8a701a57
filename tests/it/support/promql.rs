//! The series and labels that a PromQL expression names, as found by a parser of the language.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    time::Duration,
};

use promql_parser::{
    label::{Labels, MatchOp},
    parser::{
        self, AggregateExpr, BinaryExpr, Expr, LabelModifier, VectorMatchCardinality, VectorSelector,
        value::ValueType,
    },
    util::{ExprVisitor, walk_expr},
};

/// Functions that take counters.
const OF_COUNTERS: [&str; 4] = ["rate", "irate", "increase", "resets"];

/// A series selector in an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    /// The metric's name, empty if the selector has none.
    pub(crate) metric: String,
    /// Label, operator (`=`, `!=`, `=~`, `!~`) and value.
    pub(crate) matchers: Vec<(String, String, String)>,
    /// Whether it is directly inside `rate`, `irate`, `increase` or `resets`.
    pub(crate) in_rate: bool,
    /// The window, as in `[5m]`.
    pub(crate) range: Option<Duration>,
}

/// Returns all selectors of an expression in order. Grafana variables must already be replaced.
pub(crate) fn selectors(expression: &str) -> Vec<Selector> {
    let mut visitor = Visitor::default();
    visitor.read(expression);
    visitor.selectors
}

/// Returns the labels that an expression groups, matches or joins by: those of `by`, `without`, `on`, `ignoring`,
/// `group_left` and `group_right`.
pub(crate) fn grouping_labels(expression: &str) -> BTreeSet<String> {
    let mut visitor = Visitor::default();
    visitor.read(expression);
    visitor.labels
}

/// Returns the labels of an expression's result: those that its outermost aggregation keeps, or those that `absent`
/// reads from its selector. `recorded` has the expressions of recording rules by name.
pub(crate) fn labels_found(expression: &str, recorded: &BTreeMap<String, String>) -> BTreeSet<String> {
    let parsed = parser::parse(expression).map_err(|error| format!("{expression}: {error}")).unwrap();
    kept_by(&parsed, recorded).ok_or_else(|| format!("{expression}: aggregate by labels")).unwrap()
}

/// Returns `None` if the labels depend on the series that are found.
fn kept_by(expression: &Expr, recorded: &BTreeMap<String, String>) -> Option<BTreeSet<String>> {
    match expression {
        Expr::Aggregate(AggregateExpr { modifier: Some(LabelModifier::Include(labels)), .. }) => {
            Some(labels.labels.iter().cloned().collect())
        }
        Expr::Aggregate(AggregateExpr { modifier: None, .. }) => Some(BTreeSet::new()),
        Expr::Binary(BinaryExpr { lhs, rhs, .. }) if lhs.value_type() == ValueType::Scalar => {
            kept_by(rhs, recorded)
        }
        Expr::Binary(BinaryExpr { lhs, .. }) => kept_by(lhs, recorded),
        Expr::Paren(inner) => kept_by(&inner.expr, recorded),
        Expr::Call(call) if call.func.name == "absent" => match call.args.first().as_deref()? {
            Expr::VectorSelector(selector) => {
                let matchers = &selector.matchers.matchers;
                let named = matchers.iter().filter(|matcher| matcher.op == MatchOp::Equal);
                let names = named.map(|matcher| matcher.name.clone());
                Some(names.filter(|name| name != "__name__").collect())
            }
            _ => None,
        },
        Expr::VectorSelector(VectorSelector { name: Some(name), .. }) => {
            recorded.get(name).map(|expression| labels_found(expression, recorded))
        }
        _ => None,
    }
}

#[derive(Default)]
struct Visitor {
    selectors: Vec<Selector>,
    labels: BTreeSet<String>,
    /// Whether the arguments being visited are those of a function that takes counters.
    in_rate: bool,
}

impl Visitor {
    fn read(&mut self, expression: &str) {
        let parsed = parser::parse(expression).map_err(|error| format!("{expression}: {error}")).unwrap();
        let Ok(_) = walk_expr(self, &parsed);
    }

    fn select(&mut self, selector: &VectorSelector, range: Option<Duration>) {
        let written = selector.matchers.matchers.iter().chain(selector.matchers.or_matchers.iter().flatten());
        let matchers = written
            .filter(|matcher| matcher.name != "__name__")
            .map(|matcher| (matcher.name.clone(), matcher.op.to_string(), matcher.value.clone()))
            .collect();
        let metric = selector.name.clone().unwrap_or_default();
        self.selectors.push(Selector { metric, matchers, in_rate: self.in_rate, range });
    }

    fn group(&mut self, labels: &Labels) {
        self.labels.extend(labels.labels.iter().cloned());
    }

    fn modified(&mut self, modifier: Option<&LabelModifier>) {
        if let Some(modifier) = modifier {
            self.group(modifier.labels());
        }
    }
}

impl ExprVisitor for Visitor {
    type Error = Infallible;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, Infallible> {
        match expression {
            Expr::VectorSelector(selector) => self.select(selector, None),
            Expr::MatrixSelector(matrix) => self.select(&matrix.vs, Some(matrix.range)),
            Expr::Call(call) => self.in_rate = OF_COUNTERS.contains(&call.func.name),
            Expr::Aggregate(AggregateExpr { modifier, param, .. }) => {
                self.modified(modifier.as_ref());
                // The walk skips parameters, such as that of topk.
                if let Some(param) = param {
                    walk_expr(self, param)?;
                }
            }
            Expr::Binary(BinaryExpr { modifier: Some(modifier), .. }) => {
                self.modified(modifier.matching.as_ref());
                if let VectorMatchCardinality::ManyToOne(labels) | VectorMatchCardinality::OneToMany(labels) =
                    &modifier.card
                {
                    self.group(labels);
                }
            }
            _ => {}
        }
        Ok(true)
    }

    fn post_visit(&mut self, expression: &Expr) -> Result<bool, Infallible> {
        if let Expr::Call(_) = expression {
            self.in_rate = false;
        }
        Ok(true)
    }
}

#[test]
fn promql_selectors_and_labels_are_found() {
    let found = selectors(
        "topk(scalar(c), sum by (a) (increase(x_total{job=\"j\", b!~\"k\"}[5m]))) / on (d) group_left (e) max_over_time(y[1h]) unless z",
    );
    let plain = |metric: &str| Selector {
        metric: metric.to_owned(),
        matchers: Vec::new(),
        in_rate: false,
        range: None,
    };
    let matcher = |label: &str, op: &str, value: &str| (label.to_owned(), op.to_owned(), value.to_owned());
    let counter = Selector {
        matchers: vec![matcher("job", "=", "j"), matcher("b", "!~", "k")],
        in_rate: true,
        range: Some(Duration::from_mins(5)),
        ..plain("x_total")
    };
    let gauge = Selector { range: Some(Duration::from_hours(1)), ..plain("y") };
    assert_eq!(found, [plain("c"), counter, gauge, plain("z")]);
    let labels =
        grouping_labels("sum by (a) (x) / on (d) group_left (e) y unless ignoring (f) max without (g) (z)");
    assert_eq!(labels.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "d", "e", "f", "g"]);
}

#[test]
fn promql_result_labels_follow_outermost_aggregation() {
    let recorded = BTreeMap::from([("a:r".to_owned(), "sum by (a) (x) / sum by (a) (y)".to_owned())]);
    let checks = [
        ("time() - max by (a, b) (max by (a, b, c) (x)) > 3", vec!["a", "b"]),
        ("(sum by (a) (x) or sum by (a) (y)) and on (a) count by (a, b) (z)", vec!["a"]),
        ("a:r > 0.5 and on (a) sum by (a) (x) > 5", vec!["a"]),
        ("absent(up{job=\"j\", instance!=\"i\"})", vec!["job"]),
        ("sum(x)", vec![]),
    ];
    for (expression, labels) in checks {
        let found = labels_found(expression, &recorded);
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), labels, "{expression}");
    }
}
