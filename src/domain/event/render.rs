//! Renders an event as JSON. Consumers see the order of the keys, so it must not change.
//!
//! Rendering is the most expensive computation of a commit, and one thread makes all commits. So the caller renders each
//! change before the commit ([`EventDraft`]), and the store only inserts the sequence number.

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::{Change, DurationBounds, NumberedEvent, duration_bounds, millis};
use crate::domain::{
    account::{Account, AccountState},
    agents::{Binding, InvitationStatus},
};

impl NumberedEvent<'_> {
    /// The event as one line of JSON, without a newline.
    pub fn render(&self) -> String {
        let session_id = self.change.session_id(self.account).map(|id| id.to_string());
        let event = CloudEvent {
            specversion: "1.0",
            id: self.id().to_string(),
            event_type: self.change.event_type().as_str(),
            source: format!(
                "/wechat/official-accounts/{}/kf-accounts/{}",
                self.account.appid, self.account.kf_account
            ),
            subject: session_id.as_deref().unwrap_or(&self.account.kf_account),
            time: millis(self.change.observed_at()),
            datacontenttype: "application/json",
            sequence: format!("{:0SEQUENCE_DIGITS$}", self.sequence),
            data: Data {
                official_account: &self.account.official_account,
                appid: &self.account.appid,
                kf_account: &self.account.kf_account,
                details: details(self.change, session_id.as_deref()),
            },
        };
        // Serializing strings, numbers and lists of strings cannot fail.
        serde_json::to_string(&event).unwrap_or_default()
    }
}

/// An event that is rendered before its sequence number is known: with sequence 0 and without repeats.
#[derive(Clone, Debug)]
pub struct EventDraft {
    json: String,
    /// The position of the sequence's digits in `json`.
    sequence_at: Option<usize>,
    session_id: Option<Uuid>,
}

/// The text before the sequence. It occurs only once, because quotes within strings are escaped.
const BEFORE_SEQUENCE: &str = "\"sequence\":\"";

/// How many digits a sequence has, with leading zeros.
const SEQUENCE_DIGITS: usize = 20;

impl EventDraft {
    /// Renders a change.
    pub fn new(account: &Account, change: &Change) -> Self {
        let json = NumberedEvent { account, change, sequence: 0, repeats: 0 }.render();
        let sequence_at = json.find(BEFORE_SEQUENCE).map(|at| at + BEFORE_SEQUENCE.len());
        Self { json, sequence_at, session_id: change.session_id(account) }
    }

    /// The id of the session; `None` for a change of state.
    pub fn session_id(&self) -> Option<Uuid> {
        self.session_id
    }

    /// Inserts the number of the event. Returns what [`NumberedEvent::render`] returns. The draft must be of the same change.
    pub fn numbered(mut self, event: &NumberedEvent<'_>) -> String {
        match self.sequence_at {
            Some(at) if event.repeats == 0 => {
                let digits = format!("{:0SEQUENCE_DIGITS$}", event.sequence);
                self.json.replace_range(at..at + SEQUENCE_DIGITS, &digits);
                self.json
            }
            // Repeats change the id. They are rare.
            _ => event.render(),
        }
    }
}

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    #[serde(rename = "type")]
    event_type: &'static str,
    source: String,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    sequence: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    official_account: &'a str,
    appid: &'a str,
    kf_account: &'a str,
    #[serde(flatten)]
    details: Details<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Details<'a> {
    Started {
        session_id: &'a str,
        openid: &'a str,
        started_at: String,
        observed_at: String,
        baseline: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        transferred_from: Option<&'a str>,
    },
    Ended {
        session_id: &'a str,
        openid: &'a str,
        started_at: String,
        ended_between: [String; 2],
        duration_seconds: DurationBounds,
        reason: &'static str,
    },
    StateChanged {
        from: AccountState,
        to: AccountState,
        observed_at: String,
        errcode: Option<i64>,
        source: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        invitation: Option<InvitationData>,
    },
}

/// The invitation of an account without a bound WeChat user, from getkflist.
#[derive(Serialize)]
struct InvitationData {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

impl InvitationData {
    /// `None` without a binding from getkflist, or if a WeChat user is bound.
    fn from_binding(binding: Option<Binding>) -> Option<Self> {
        let Some(Binding::Unbound(invitation)) = binding else { return None };
        Some(Self {
            status: invitation.map_or("none", |invitation| InvitationStatus::as_str(invitation.status)),
            expires_at: invitation.and_then(|invitation| invitation.expires_at).map(|at| at.to_string()),
        })
    }
}

fn details<'a>(change: &'a Change, session_id: Option<&'a str>) -> Details<'a> {
    let session_id = session_id.unwrap_or_default();
    match change {
        Change::SessionStarted { session, observed_at, baseline, transferred_from } => Details::Started {
            session_id,
            openid: &session.openid,
            started_at: seconds(session.createtime),
            observed_at: millis(*observed_at),
            baseline: *baseline,
            transferred_from: transferred_from.as_deref(),
        },
        Change::SessionEnded { session, reason, ended_between } => Details::Ended {
            session_id,
            openid: &session.openid,
            started_at: seconds(session.createtime),
            ended_between: ended_between.map(millis),
            duration_seconds: duration_bounds(session.createtime, *ended_between),
            reason: reason.as_str(),
        },
        Change::StateChanged { transition, observed_at, errcode, source, binding } => Details::StateChanged {
            from: transition.from,
            to: transition.to,
            observed_at: millis(*observed_at),
            errcode: *errcode,
            source,
            invitation: InvitationData::from_binding(*binding),
        },
    }
}

fn seconds(createtime: i64) -> String {
    // The response parser rejects times that a timestamp cannot represent.
    Timestamp::from_second(createtime).unwrap_or_default().to_string()
}
