//! The reference lists exactly the fields of each JSON output and the columns of CSV.

use std::collections::BTreeSet;

use kfwatch::{
    control::{
        report::{CheckReport, KfAccountCheck, OfficialAccountCheck, PollReport},
        sessions::{KfAccountSessions, OpenSession, SessionReport},
    },
    dispatch::admin::{DeadLetterReport, SinkReport},
    reload::{ChangeAction, ChangedPart, PlannedChange},
};
use serde::Serialize;
use serde_json::Value;

use super::markdown::{assert_same, code_spans, page};
use crate::support::backup::{grow, home};

const REFERENCE: &str = "docs/en/reference/output.md";

/// Returns the names in the first column of the section, in order.
fn documented(command: &str) -> Vec<String> {
    let mut sections = page(REFERENCE).sections().into_iter();
    let section = sections.find(|section| code_spans(&section.heading) == [command]).unwrap();
    section.rows.iter().flat_map(|row| code_spans(&row[0])).map(str::to_owned).collect()
}

fn fields(row: &impl Serialize) -> BTreeSet<String> {
    serde_json::to_value(row).unwrap().as_object().unwrap().keys().cloned().collect()
}

fn assert_documented(command: &str, fields: &BTreeSet<String>) {
    assert_same(&documented(command).into_iter().collect(), fields, command);
}

#[test]
fn reference_lists_exactly_the_fields_of_polls_and_checks() {
    assert_documented("kfwatch poll", &fields(&PollReport::default()));
    let official_account = CheckReport::OfficialAccount(OfficialAccountCheck::default());
    let kf_account = CheckReport::KfAccount(KfAccountCheck::default());
    let of_checks = fields(&official_account).union(&fields(&kf_account)).cloned().collect();
    assert_documented("kfwatch check --online", &of_checks);
}

#[test]
fn reference_lists_exactly_the_fields_of_sessions() {
    let kf_account = SessionReport::KfAccount(KfAccountSessions::default());
    let session = SessionReport::Session(OpenSession::default());
    let both = fields(&kf_account).union(&fields(&session)).cloned().collect();
    assert_documented("kfwatch sessions", &both);
}

#[test]
fn reference_lists_exactly_the_fields_of_reloads() {
    let (action, part) = (ChangeAction::Start, ChangedPart::Sink);
    let change = PlannedChange { action, part, name: String::new(), details: Vec::new() };
    assert_documented("kfwatch reload", &fields(&change));
}

#[test]
fn reference_lists_exactly_the_fields_of_sinks_and_dead_letters() {
    let sink = SinkReport {
        sink: "crm".into(),
        state: "delivering".into(),
        stopped_reason: None,
        pending_events: 0,
        oldest_pending_at: None,
        dead_letters: 0,
        expired_dead_letters: 0,
        lost_events: 0,
        lost_between: None,
        last_delivery_at: None,
        last_failure_at: None,
        last_failure: None,
        store_failure: None,
    };
    assert_documented("kfwatch sinks", &fields(&sink));
    let letter =
        DeadLetterReport { died_at: String::new(), reason: String::new(), retry: false, event: Value::Null };
    assert_documented("kfwatch events dead", &fields(&letter));
}

#[test]
fn reference_lists_the_columns_of_csv_in_order() {
    let home = home();
    grow(&home.path("kfwatch.db"), 0, 1);
    for command in ["events", "sessions"] {
        let printed = home.run(&format!("{command} --format csv")).stdout;
        let header: Vec<&str> = printed.lines().next().unwrap().split(',').collect();
        assert_eq!(documented(&format!("kfwatch {command} --format csv")), header);
    }
}
