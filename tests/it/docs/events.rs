//! The reference lists exactly the event types, the attributes and the fields of `data`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kfwatch::domain::{
    account::{Account, AccountState, Transition},
    agents::{Binding, Invitation, InvitationStatus},
    diff::EndReason,
    event::{Change, EventType, NumberedEvent, OwnedSession},
};
use serde_json::Value;

use super::markdown::{assert_same, code_spans, page};

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

/// Returns an event of each type with all optional fields.
fn events() -> [Value; 3] {
    let account = Account { official_account: "shop".into(), appid: "wx1".into(), kf_account: "a@b".into() };
    let session = || OwnedSession { openid: "o1".into(), createtime: 1 };
    let at = Timestamp::UNIX_EPOCH;
    let invitation = Invitation { status: InvitationStatus::Waiting, expires_at: Some(at.into()) };
    let changes = [
        Change::SessionStarted {
            session: session(),
            observed_at: at,
            baseline: false,
            transferred_from: Some("c@b".into()),
        },
        Change::SessionEnded { session: session(), reason: EndReason::Absent, ended_between: [at; 2] },
        Change::StateChanged {
            transition: Transition { from: AccountState::Unknown, to: AccountState::Unbound },
            observed_at: at,
            errcode: Some(65402),
            source: "getsessionlist",
            binding: Some(Binding::Unbound(Some(invitation))),
        },
    ];
    changes.map(|change| {
        let event = NumberedEvent { account: &account, change: &change, sequence: 1, repeats: 0 };
        serde_json::from_str(&event.render()).unwrap()
    })
}

#[test]
fn reference_lists_exactly_the_attributes_and_fields() {
    let events = events();
    let attributes = events.iter().flat_map(keys).collect();
    assert_same(&documented("Attributes"), &attributes, REFERENCE);
    let fields = events.iter().flat_map(|event| keys(&event["data"])).collect();
    assert_same(&documented("Fields of `data`"), &fields, REFERENCE);
}
