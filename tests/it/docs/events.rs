//! The reference lists every event type and every field of the demo's events.

use std::collections::BTreeSet;

use kfwatch::domain::event::EventType;
use serde_json::Value;

use super::markdown::{assert_same, code_spans, page};
use crate::support::process::Home;

const REFERENCE: &str = "docs/en/reference/events.md";

/// Returns the names in backticks in the first column of a table.
fn documented(heading: &str) -> BTreeSet<String> {
    let section = page(REFERENCE).sections().into_iter().find(|section| section.heading == heading).unwrap();
    section.rows.iter().flat_map(|row| code_spans(&row[0])).map(str::to_owned).collect()
}

fn keys(value: &Value) -> impl Iterator<Item = String> {
    value.as_object().unwrap().keys().cloned()
}

#[test]
fn reference_lists_exactly_the_event_types() {
    let defined = EventType::ALL.iter().map(|event_type| event_type.as_str().to_owned()).collect();
    assert_same(&documented("Event types"), &defined, REFERENCE);
}

#[test]
fn reference_lists_the_fields_of_the_events_of_the_demo() {
    let demo = Home::new().run("demo --for 5s --listen 127.0.0.1:0");
    let events: Vec<Value> = demo.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let attributes = events.iter().flat_map(keys).collect();
    assert_same(&documented("Attributes"), &attributes, REFERENCE);
    let fields: BTreeSet<String> = events.iter().flat_map(|event| keys(&event["data"])).collect();
    let unknown: Vec<_> = fields.difference(&documented("Fields of `data`")).cloned().collect();
    assert!(unknown.is_empty(), "not in {REFERENCE}: {unknown:?}");
}
