//! Events: immutable facts in the past tense, as CloudEvents 1.0 in structured JSON.
//!
//! A poll yields [`Change`]s. When the store commits a change, it assigns a sequence number ([`NumberedEvent`]). Only then
//! does the event exist and is its JSON complete. The JSON never changes, and every sink delivers the same bytes. Ids are
//! UUIDv5 of the content, so that the same history always has the same ids and a consumer can drop duplicates.
//!
//! The openid is personal data: it appears only in `data`, never in an attribute.

mod render;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use uuid::Uuid;

pub use self::render::EventDraft;
use super::{
    account::{Account, Transition},
    agents::Binding,
    diff::EndReason,
};

/// The namespace of all ids.
pub const ID_NAMESPACE: Uuid = Uuid::from_u128(0x295c_ab85_1895_52db_88f3_16ee_6b5c_e921);

/// The kinds of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// A session is listed that was not listed before.
    SessionStarted,
    /// A session is no longer listed.
    SessionEnded,
    /// The state of a kf account changed.
    StateChanged,
}

impl EventType {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::SessionStarted, Self::SessionEnded, Self::StateChanged];

    /// What a user may write for it, the shortest word first.
    pub(crate) fn words(self) -> [&'static str; 3] {
        match self {
            Self::SessionStarted => ["started", "session.started", "kf.session.started"],
            Self::SessionEnded => ["ended", "session.ended", "kf.session.ended"],
            Self::StateChanged => ["state_changed", "account.state_changed", "kf.account.state_changed"],
        }
    }

    /// The CloudEvents `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionStarted => "kf.session.started",
            Self::SessionEnded => "kf.session.ended",
            Self::StateChanged => "kf.account.state_changed",
        }
    }
}

/// A change of an account that is not committed yet. All times are in whole milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A session began.
    SessionStarted {
        /// The session.
        session: OwnedSession,
        /// When the response that lists it was received.
        observed_at: Timestamp,
        /// Whether the account's baseline listed it, so that its start was not observed.
        baseline: bool,
        /// The kf account of the same official account that has, or just had, a session with this customer. Always `None`
        /// in a baseline.
        transferred_from: Option<Arc<str>>,
    },
    /// A session ended.
    SessionEnded {
        /// The session.
        session: OwnedSession,
        /// Why it counts as ended.
        reason: EndReason,
        /// From sending the last request whose response listed it, to receiving the first response without it.
        ended_between: [Timestamp; 2],
    },
    /// The state of the account changed.
    StateChanged {
        /// The previous and the new state.
        transition: Transition,
        /// When the change was observed.
        observed_at: Timestamp,
        /// The errcode that caused it, if there is one.
        errcode: Option<i64>,
        /// The call whose response showed it, or `configuration`.
        source: &'static str,
        /// For a change to `unbound`: the binding in the latest getkflist response, if there was one.
        binding: Option<Binding>,
    },
}

/// A session that does not borrow from a response.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnedSession {
    /// The customer's id.
    pub openid: Box<str>,
    /// When the agent accepted it, in UNIX seconds.
    pub createtime: i64,
}

impl Change {
    /// The type of its event.
    pub fn event_type(&self) -> EventType {
        match self {
            Self::SessionStarted { .. } => EventType::SessionStarted,
            Self::SessionEnded { .. } => EventType::SessionEnded,
            Self::StateChanged { .. } => EventType::StateChanged,
        }
    }

    /// When the change was observed: the `time` of its event.
    pub fn observed_at(&self) -> Timestamp {
        match self {
            Self::SessionStarted { observed_at, .. } | Self::StateChanged { observed_at, .. } => *observed_at,
            Self::SessionEnded { ended_between: [_, observed_at], .. } => *observed_at,
        }
    }

    /// The session; `None` for a change of state.
    pub fn session(&self) -> Option<&OwnedSession> {
        match self {
            Self::SessionStarted { session, .. } | Self::SessionEnded { session, .. } => Some(session),
            Self::StateChanged { .. } => None,
        }
    }

    /// The id of the session; `None` for a change of state.
    pub fn session_id(&self, account: &Account) -> Option<Uuid> {
        self.session().map(|session| session_id(account, &session.openid, session.createtime))
    }
}

/// The id of a session: the same for its start, its end, and after any restart.
pub fn session_id(account: &Account, openid: &str, createtime: i64) -> Uuid {
    named(&[&account.appid, &account.kf_account, openid, &createtime.to_string()])
}

/// An event that shows whether a sink can be reached. It is no fact and not in the log, so it has no sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestEvent {
    /// The CloudEvents `id`: another one for each test.
    pub id: String,
    /// The whole event as one line of JSON.
    pub json: String,
}

impl TestEvent {
    /// A test of this sink.
    pub fn new(sink: &str, id: Uuid, now: Timestamp) -> Self {
        let id = id.to_string();
        let json = serde_json::json!({
            "specversion": "1.0",
            "id": id,
            "type": "kf.sink.test",
            "source": "/kfwatch",
            "time": millis(now),
            "datacontenttype": "application/json",
            "data": { "sink": sink },
        });
        Self { id, json: json.to_string() }
    }
}

/// A change with its sequence number.
#[derive(Clone, Copy, Debug)]
pub struct NumberedEvent<'a> {
    /// The account that changed.
    pub account: &'a Account,
    /// What happened.
    pub change: &'a Change,
    /// The number of the event among all events of the account, from 1 without gaps.
    pub sequence: u64,
    /// How many events of this type the log already contains for this session. It is part of the id: a session that is
    /// listed again after its end was emitted starts a second time, with a different id.
    pub repeats: u64,
}

impl NumberedEvent<'_> {
    /// The CloudEvents `id`.
    pub fn id(&self) -> Uuid {
        let Account { appid, kf_account, .. } = self.account;
        let event_type = self.change.event_type().as_str();
        match (self.change, self.change.session_id(self.account)) {
            (Change::StateChanged { transition: Transition { from, to }, observed_at, .. }, _) => {
                named(&[appid, kf_account, event_type, from.as_str(), to.as_str(), &millis(*observed_at)])
            }
            (_, session_id) => {
                named(&[&session_id.unwrap_or_default().to_string(), event_type, &self.repeats.to_string()])
            }
        }
    }
}

fn named(fields: &[&str]) -> Uuid {
    Uuid::new_v5(&ID_NAMESPACE, fields.join("\n").as_bytes())
}

/// RFC 3339 with milliseconds, in UTC.
pub fn millis(timestamp: Timestamp) -> String {
    format!("{timestamp:.3}")
}

/// Lower and upper bound of a duration, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DurationBounds {
    pub(crate) min: i64,
    pub(crate) max: i64,
}

/// How long a session lasted. `createtime` is rounded down to whole seconds, so the session may have started up to a second
/// later: the lower bound is one second less, and the upper bound is rounded up.
pub fn duration_bounds(createtime: i64, [earliest, latest]: [Timestamp; 2]) -> DurationBounds {
    let min = earliest.as_second().saturating_sub(createtime).saturating_sub(1);
    let max = latest
        .as_second()
        .saturating_add(i64::from(latest.subsec_nanosecond() > 0))
        .saturating_sub(createtime);
    DurationBounds { min: min.max(0), max: max.max(0) }
}

/// Whether the bounds of an end say how long the session lasted. They do not after the clock was set back: then the session ends
/// before it started, or the bounds are those of an [end after a restart](super::tracker), which could be any time before.
pub fn is_duration_known(createtime: i64, [earliest, latest]: [Timestamp; 2]) -> bool {
    latest.as_second() >= createtime && latest.duration_since(earliest) > SignedDuration::from_millis(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        account::AccountState,
        agents::{Invitation, InvitationStatus},
    };

    fn account() -> Account {
        Account {
            official_account: "shop".into(),
            appid: "wx0123456789abcdef".into(),
            kf_account: "test1@test".into(),
        }
    }

    fn session() -> OwnedSession {
        OwnedSession { openid: "oDF3iY9P32sK_5GgYiRkjsabcdef".into(), createtime: 1795331551 }
    }

    fn ended() -> Change {
        let ended_between =
            ["2026-11-22T07:22:30.080Z", "2026-11-22T07:22:45.123Z"].map(|time| time.parse().unwrap());
        Change::SessionEnded { session: session(), reason: EndReason::Absent, ended_between }
    }

    #[test]
    fn ids_match_published_test_vector() {
        let (account, ended) = (account(), ended());
        let started = Change::SessionStarted {
            session: session(),
            observed_at: Timestamp::UNIX_EPOCH,
            baseline: false,
            transferred_from: None,
        };
        let number = |change| NumberedEvent { account: &account, change, sequence: 1, repeats: 0 };
        assert_eq!(ended.session_id(&account).unwrap().to_string(), "bb990e79-eb52-5233-a363-a2cf2b13422f");
        assert_eq!(number(&started).id().to_string(), "53bf2e6f-2586-56e7-801b-0ef62536be36");
        assert_eq!(number(&ended).id().to_string(), "af546c58-71de-57cd-b56c-6bd11593a69f");
    }

    #[test]
    fn session_end_is_rendered_as_documented() {
        let (account, change) = (account(), ended());
        let event = NumberedEvent { account: &account, change: &change, sequence: 42, repeats: 0 };
        let expected = concat!(
            r#"{"specversion":"1.0","id":"af546c58-71de-57cd-b56c-6bd11593a69f","type":"kf.session.ended","#,
            r#""source":"/wechat/official-accounts/wx0123456789abcdef/kf-accounts/test1@test","#,
            r#""subject":"bb990e79-eb52-5233-a363-a2cf2b13422f","time":"2026-11-22T07:22:45.123Z","#,
            r#""datacontenttype":"application/json","sequence":"00000000000000000042","#,
            r#""data":{"official_account":"shop","appid":"wx0123456789abcdef","kf_account":"test1@test","#,
            r#""session_id":"bb990e79-eb52-5233-a363-a2cf2b13422f","openid":"oDF3iY9P32sK_5GgYiRkjsabcdef","#,
            r#""started_at":"2026-11-22T07:12:31Z","#,
            r#""ended_between":["2026-11-22T07:22:30.080Z","2026-11-22T07:22:45.123Z"],"#,
            r#""duration_seconds":{"min":598,"max":615},"reason":"absent"}}"#,
        );
        assert_eq!(event.render(), expected);
    }

    #[test]
    fn state_change_contains_no_session() {
        let account = account();
        let change = Change::StateChanged {
            transition: Transition { from: AccountState::Ok, to: AccountState::Unbound },
            observed_at: "2026-11-22T07:22:45.123Z".parse().unwrap(),
            errcode: Some(65402),
            source: "getsessionlist",
            binding: None,
        };
        let json = NumberedEvent { account: &account, change: &change, sequence: 1, repeats: 0 }.render();
        assert!(json.contains(r#""subject":"test1@test""#), "{json}");
        assert!(json.ends_with(concat!(
            r#""from":"ok","to":"unbound","observed_at":"2026-11-22T07:22:45.123Z","errcode":65402,"#,
            r#""source":"getsessionlist"}}"#
        )));
    }

    #[test]
    fn change_to_unbound_contains_known_invitation() {
        let check = |binding, expected: &str| {
            let change = Change::StateChanged {
                transition: Transition { from: AccountState::Unknown, to: AccountState::Unbound },
                observed_at: Timestamp::UNIX_EPOCH,
                errcode: None,
                source: "getkflist",
                binding,
            };
            let json =
                NumberedEvent { account: &account(), change: &change, sequence: 1, repeats: 0 }.render();
            assert!(
                json.ends_with(&format!(r#""errcode":null,"source":"getkflist"{expected}}}}}"#)),
                "{json}"
            );
        };
        let invited = |status, expires_at: Option<&str>| {
            let expires_at = expires_at.map(|time| time.parse::<Timestamp>().unwrap().into());
            Some(Binding::Unbound(Some(Invitation { status, expires_at })))
        };
        check(None, "");
        check(Some(Binding::Bound), "");
        check(Some(Binding::Unbound(None)), r#","invitation":{"status":"none"}"#);
        check(invited(InvitationStatus::Expired, None), r#","invitation":{"status":"expired"}"#);
        check(
            invited(InvitationStatus::Waiting, Some("2026-11-23T07:00:00Z")),
            r#","invitation":{"status":"waiting","expires_at":"2026-11-23T07:00:00Z"}"#,
        );
    }

    #[test]
    fn session_start_contains_transferred_from_only_if_known() {
        let started = |transferred_from: Option<&str>| {
            let change = Change::SessionStarted {
                session: session(),
                observed_at: Timestamp::UNIX_EPOCH,
                baseline: false,
                transferred_from: transferred_from.map(Arc::from),
            };
            NumberedEvent { account: &account(), change: &change, sequence: 1, repeats: 0 }.render()
        };
        assert!(started(None).ends_with(r#""baseline":false}}"#));
        assert!(
            started(Some("test2@test")).ends_with(r#""baseline":false,"transferred_from":"test2@test"}}"#)
        );
    }

    proptest! {
        #[test]
        fn numbered_draft_equals_rendered_event(sequence in any::<u64>(), repeats in 0..3u64, tricky in "[a-z\"\\\\:]{0,9}") {
            let account = Account { kf_account: format!("\"sequence\":\"{tricky}").into(), ..account() };
            let change = ended();
            let event = NumberedEvent { account: &account, change: &change, sequence, repeats };
            prop_assert_eq!(EventDraft::new(&account, &change).numbered(&event), event.render());
        }

        #[test]
        fn duration_bounds_are_ordered_for_any_clock(createtime in -10_000_000_000..10_000_000_000i64, a in 0..9_999_999_999_999i64, b in 0..9_999_999_999_999i64) {
            let between = [a.min(b), a.max(b)].map(|ms| Timestamp::from_millisecond(ms).unwrap());
            let DurationBounds { min, max } = duration_bounds(createtime, between);
            prop_assert!(0 <= min && min <= max);
        }

        #[test]
        fn same_history_has_same_ids_and_another_has_others(openid in "[A-Za-z0-9_-]{1,28}", createtime in 0..4_000_000_000i64, repeats in 0..3u64) {
            let account = account();
            let id = |openid: &str, createtime, repeats| {
                let session = OwnedSession { openid: openid.into(), createtime };
                let observed_at = Timestamp::UNIX_EPOCH;
                let change = Change::SessionStarted { session, observed_at, baseline: true, transferred_from: None };
                NumberedEvent { account: &account, change: &change, sequence: 9, repeats }.id()
            };
            prop_assert_eq!(id(&openid, createtime, repeats), id(&openid, createtime, repeats));
            prop_assert_ne!(id(&openid, createtime, repeats), id(&openid, createtime + 1, repeats));
            prop_assert_ne!(id(&openid, createtime, repeats), id(&openid, createtime, repeats + 1));
        }
    }
}
