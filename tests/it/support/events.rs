//! Events as a consumer sees them, and as the contract defines them: every key, and every id computed from the
//! published rule.

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::{Uuid, uuid};

const NAMESPACE: Uuid = uuid!("295cab85-1895-52db-88f3-16ee6b5ce921");

/// One line of the event log or of a sink's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) line: String,
    pub(crate) json: Value,
}

impl Event {
    pub(crate) fn parse(line: &str) -> Event {
        let json = serde_json::from_str(line);
        Event { line: line.to_owned(), json: json.unwrap_or_else(|error| panic!("{error}: {line}")) }
    }

    /// Returns the text at a JSON pointer, or an empty string.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn id(&self) -> &str {
        self.text("/id")
    }

    pub(crate) fn is_end(&self) -> bool {
        self.text("/type") == "kf.session.ended"
    }

    /// Appid and kf account.
    pub(crate) fn account(&self) -> (String, String) {
        (self.text("/data/appid").to_owned(), self.text("/data/kf_account").to_owned())
    }

    /// Returns the time at a JSON pointer in UNIX milliseconds.
    pub(crate) fn ms(&self, pointer: &str) -> Result<i64, String> {
        let time: Result<Timestamp, _> = self.text(pointer).parse();
        time.map(Timestamp::as_millisecond).map_err(|error| format!("{pointer}: {error}"))
    }
}

/// A kf account and the names that its events carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) official_account: String,
    pub(crate) appid: String,
    pub(crate) kf_account: String,
}

/// A customer with a createtime.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Session {
    pub(crate) openid: String,
    pub(crate) createtime: i64,
}

/// An event that should exist. [`Place`] adds what only the actual event shows: its position and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    Started { session: Session, baseline: bool },
    Ended { session: Session, reason: &'static str },
    StateChanged { from: &'static str, to: &'static str, errcode: Option<i64>, source: &'static str },
}

/// The position of an event, and when it was observed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) sequence: usize,
    /// The number of earlier events of the same type for the same session.
    pub(crate) repeats: usize,
    pub(crate) observed_ms: i64,
    /// The start of `ended_between`.
    pub(crate) lower_ms: i64,
}

impl Expected {
    /// Returns the whole event with all its keys.
    pub(crate) fn render(&self, account: &Account, place: Place) -> Value {
        let Account { official_account, appid, kf_account } = account;
        let time = millis(place.observed_ms);
        let mut data =
            json!({"official_account": official_account, "appid": appid, "kf_account": kf_account});
        let (subject, id) = match self {
            Expected::Started { session, .. } | Expected::Ended { session, .. } => {
                let session_id = account.session_id(session);
                let id = name_based(&[&session_id, self.event_type(), &place.repeats.to_string()]);
                data["session_id"] = json!(session_id);
                data["openid"] = json!(session.openid);
                data["started_at"] = json!(Timestamp::from_second(session.createtime).unwrap().to_string());
                (session_id, id)
            }
            Expected::StateChanged { from, to, .. } => {
                (kf_account.clone(), name_based(&[appid, kf_account, self.event_type(), from, to, &time]))
            }
        };
        let details = match self {
            Expected::Started { baseline, .. } => json!({"observed_at": time, "baseline": baseline}),
            Expected::Ended { session, reason } => json!({
                "ended_between": [millis(place.lower_ms), time],
                "duration_seconds": duration_seconds(session.createtime, place),
                "reason": reason,
            }),
            Expected::StateChanged { from, to, errcode, source } => {
                json!({"from": from, "to": to, "observed_at": time, "errcode": errcode, "source": source})
            }
        };
        data.as_object_mut().unwrap().extend(details.as_object().unwrap().clone());
        json!({
            "specversion": "1.0",
            "id": id,
            "type": self.event_type(),
            "source": format!("/wechat/official-accounts/{appid}/kf-accounts/{kf_account}"),
            "subject": subject,
            "time": time,
            "datacontenttype": "application/json",
            "sequence": format!("{:020}", place.sequence),
            "data": data,
        })
    }

    pub(crate) fn event_type(&self) -> &'static str {
        match self {
            Expected::Started { .. } => "kf.session.started",
            Expected::Ended { .. } => "kf.session.ended",
            Expected::StateChanged { .. } => "kf.account.state_changed",
        }
    }
}

impl Account {
    pub(crate) fn session_id(&self, session: &Session) -> String {
        name_based(&[&self.appid, &self.kf_account, &session.openid, &session.createtime.to_string()])
    }
}

pub(crate) fn name_based(fields: &[&str]) -> String {
    Uuid::new_v5(&NAMESPACE, fields.join("\n").as_bytes()).to_string()
}

/// `createtime` is truncated to whole seconds: the session may have started up to a second later.
fn duration_seconds(createtime: i64, place: Place) -> Value {
    let min = place.lower_ms.div_euclid(1_000) - createtime - 1;
    let max = (place.observed_ms + 999).div_euclid(1_000) - createtime;
    json!({"min": min.max(0), "max": max.max(0)})
}

fn millis(ms: i64) -> String {
    format!("{:.3}", Timestamp::from_millisecond(ms).unwrap())
}
