//! The reference lists exactly the metrics of a live page, with their types and labels.

use std::collections::{BTreeMap, BTreeSet};

use super::markdown::{assert_same, code_spans, page};
use crate::support::{metrics_page::Page, process::Home, wait::eventually};

const REFERENCE: &str = "docs/en/reference/metrics.md";

/// Families that may have no series, because no event is pending and no customer waits.
const SOMETIMES: [&str; 2] =
    ["kfwatch_sink_oldest_pending_timestamp_seconds", "wechat_kf_waiting_oldest_message_timestamp_seconds"];

/// Labels with a closed set of values, which the reference lists.
const CLOSED: [&str; 3] = ["endpoint", "collector", "event_type"];

/// A family as the reference describes it.
struct Documented {
    kind: String,
    labels: BTreeSet<String>,
}

/// The heading of the families that only replicas have.
const CLUSTER: &str = "Cluster";

/// The families in the sections whose headings `is_meant` selects.
fn documented(is_meant: impl Fn(&str) -> bool) -> BTreeMap<String, Documented> {
    let sections = page(REFERENCE).sections().into_iter().filter(|section| is_meant(&section.heading));
    let rows = sections.flat_map(|section| section.rows);
    let families = rows.filter_map(|row| {
        let name = row[0].strip_prefix('`')?.strip_suffix('`')?.to_owned();
        let labels = row[2].split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
        Some((name, Documented { kind: row[1].clone(), labels }))
    });
    families.collect()
}

#[test]
fn reference_lists_exactly_the_metrics_of_a_live_page() {
    let demo = Home::new().spawn("demo --listen 127.0.0.1:0");
    let documented = documented(|heading| heading != CLUSTER);
    let has_series = |page: &Page, name: &String| page.series_of(name).next().is_some();
    // Families of collectors and of the clock appear one after the other.
    let page_of_demo = eventually("series of each documented family", || {
        let page = Page::of(&demo);
        let is_whole = |name: &String| SOMETIMES.contains(&name.as_str()) || has_series(&page, name);
        let is_defined = |name: &String| page.types.contains_key(name);
        documented.keys().filter(|name| is_defined(name)).all(is_whole).then_some(page)
    });
    let names = documented.keys().cloned().collect();
    assert_same(&names, &page_of_demo.types.keys().cloned().collect(), REFERENCE);
    for (name, Documented { kind, labels }) in &documented {
        assert_eq!(kind, &page_of_demo.types[name], "type of {name}");
        for series in page_of_demo.series_of(name) {
            let found = series.keys().filter(|label| *label != "le").cloned().collect();
            assert_same(labels, &found, name);
        }
    }
    let reference = page(REFERENCE).text;
    let codes = code_spans(&reference);
    for (label, value) in page_of_demo.series.iter().flat_map(|(_, labels)| labels) {
        let is_known = !CLOSED.contains(&label.as_str()) || codes.contains(&value.as_str());
        assert!(is_known, "{label}=\"{value}\" is not in {REFERENCE}");
    }
}

/// Asserts that the reference lists exactly the families that a replica has in addition to a daemon with SQLite.
pub(crate) fn assert_cluster_families(page_of_replica: &Page) {
    let (of_cluster, of_all) = (documented(|heading| heading == CLUSTER), documented(|_| true));
    let found = page_of_replica
        .types
        .keys()
        .filter(|name| !of_all.contains_key(*name) || of_cluster.contains_key(*name));
    assert_same(&of_cluster.keys().cloned().collect(), &found.cloned().collect(), REFERENCE);
    for (name, Documented { kind, labels }) in &of_cluster {
        assert_eq!(kind, &page_of_replica.types[name], "type of {name}");
        for series in page_of_replica.series_of(name) {
            assert_same(labels, &series.keys().cloned().collect(), name);
        }
    }
}
