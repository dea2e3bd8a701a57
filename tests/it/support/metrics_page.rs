//! A strict parser for a page of metrics.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::process::Process;

/// Names and values.
pub(crate) type Labels = BTreeMap<String, String>;

/// Families that only a replica of a cluster exports, each with its labels: the page of a daemon with an SQLite store lacks them.
pub(crate) const OF_CLUSTER: [(&str, &[&str]); 9] = [
    ("kfwatch_cluster_shards", &[]),
    ("kfwatch_cluster_shards_unowned", &[]),
    ("kfwatch_cluster_replicas", &[]),
    ("kfwatch_cluster_config_mismatch", &[]),
    ("kfwatch_cluster_clock_skew_seconds", &[]),
    ("kfwatch_shards_owned", &[]),
    ("kfwatch_lease_trusted", &[]),
    ("kfwatch_shards_lost_total", &[]),
    ("kfwatch_shard_takeovers_total", &["reason"]),
];

/// Returns the labels of a family of [`OF_CLUSTER`], or `None` for any other.
pub(crate) fn labels_of_cluster(family: &str) -> Option<&'static [&'static str]> {
    OF_CLUSTER.iter().find(|(name, _)| *name == family).map(|(_, labels)| *labels)
}

/// A parsed page of metrics.
pub(crate) struct Page {
    /// Types of the families, by name.
    pub(crate) types: BTreeMap<String, String>,
    /// Series, by name and labels.
    pub(crate) series: BTreeSet<(String, Labels)>,
}

impl Page {
    pub(crate) fn of(daemon: &Process) -> Self {
        Self::read(&daemon.get("/metrics").text())
    }

    pub(crate) fn read(text: &str) -> Self {
        let mut page = Self { types: BTreeMap::new(), series: BTreeSet::new() };
        let mut helped = BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(
                    !help.is_empty() && helped.insert(name.to_owned()),
                    "duplicate or empty help: {line}"
                );
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(helped.contains(name), "no help line before: {line}");
                let second = page.types.insert(name.to_owned(), kind.to_owned());
                assert!(second.is_none(), "duplicate family: {line}");
            } else {
                let series = series(line);
                assert!(page.family(&series.0).is_some(), "no type line before: {line}");
                assert!(page.series.insert(series), "duplicate series: {line}");
            }
        }
        assert!(helped.iter().eq(page.types.keys()), "each family has help and type");
        page
    }

    /// Returns the family that a series of this name belongs to.
    pub(crate) fn family<'a>(&self, name: &'a str) -> Option<&'a str> {
        let stems = ["_bucket", "_sum", "_count"].into_iter().filter_map(|end| name.strip_suffix(end));
        let histogram =
            stems.into_iter().find(|stem| self.types.get(*stem).is_some_and(|kind| kind == "histogram"));
        histogram.or_else(|| self.types.contains_key(name).then_some(name))
    }

    pub(crate) fn series_of<'a>(&'a self, family: &'a str) -> impl Iterator<Item = &'a Labels> {
        let series = self.series.iter();
        series.filter(move |(name, _)| self.family(name) == Some(family)).map(|(_, labels)| labels)
    }
}

/// Parses the name and labels of a line.
fn series(line: &str) -> (String, Labels) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    value.parse::<f64>().unwrap();
    let Some((name, labels)) = series.split_once('{') else { return (series.to_owned(), Labels::new()) };
    let labels = labels.strip_suffix('}').unwrap();
    // In these tests no label value has a quote followed by a comma.
    let pairs = labels.split("\",").map(|pair| pair.trim_end_matches('"').split_once("=\"").unwrap());
    (name.to_owned(), pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}
