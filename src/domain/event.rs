//! Events: immutable facts in the past tense, as CloudEvents 1.0 in structured JSON.
//!
//! A poll yields [`Change`]s. The store numbers them when it commits ([`Numbered`]): only then does the event exist, and
//! only then is its JSON complete, for good; every sink delivers the same bytes. Ids are UUIDv5 of what happened,
//! so that the same history always has the same ids and a consumer can drop duplicates.
//!
//! The openid is personal data: it stands in `data` alone, never in an attribute.

mod render;

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

pub use self::render::Draft;
use super::{
    account::{Account, Transition},
    agents::Binding,
    diff::EndReason,
};

/// The namespace of every id of ours.
pub const ID_NAMESPACE: Uuid = Uuid::from_u128(0x295c_ab85_1895_52db_88f3_16ee_6b5c_e921);

/// The kinds of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// A session is listed that was not.
    SessionStarted,
    /// A session is no longer listed.
    SessionEnded,
    /// What is concluded about a kf account changed.
    StateChanged,
}

impl EventType {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::SessionStarted, Self::SessionEnded, Self::StateChanged];

    /// The CloudEvents `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionStarted => "kf.session.started",
            Self::SessionEnded => "kf.session.ended",
            Self::StateChanged => "kf.account.state_changed",
        }
    }
}

/// Something that happened to an account, not yet committed. All moments are in whole milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A session began.
    SessionStarted {
        /// The session.
        session: OwnedSession,
        /// When the answer that lists it was received.
        observed_at: Timestamp,
        /// Whether the account's first good answer listed it, so that its beginning was not seen.
        baseline: bool,
        /// The kf account of the same official account that has, or just had, a session of this customer. Never known
        /// of a baseline.
        transferred_from: Option<Arc<str>>,
    },
    /// A session ended.
    SessionEnded {
        /// The session.
        session: OwnedSession,
        /// Why it counts as ended.
        reason: EndReason,
        /// From when the last request that listed it was sent to when the answer without it was received.
        ended_between: [Timestamp; 2],
    },
    /// What is concluded about the account changed.
    StateChanged {
        /// From which state to which.
        transition: Transition,
        /// When it was concluded.
        observed_at: Timestamp,
        /// The errcode behind it, if there is one.
        errcode: Option<i64>,
        /// The call that said so, or `configuration`.
        source: &'static str,
        /// Of a change to `unbound`: what getkflist last said of the binding, if it has said anything.
        binding: Option<Binding>,
    },
}

/// A session that outlives the answer it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedSession {
    /// The customer's id.
    pub openid: Box<str>,
    /// When the agent accepted it, in UNIX seconds.
    pub createtime: i64,
}

impl Change {
    /// The kind of event it becomes.
    pub fn event_type(&self) -> EventType {
        match self {
            Self::SessionStarted { .. } => EventType::SessionStarted,
            Self::SessionEnded { .. } => EventType::SessionEnded,
            Self::StateChanged { .. } => EventType::StateChanged,
        }
    }

    /// When it was observed: the event's `time`.
    pub fn observed_at(&self) -> Timestamp {
        match self {
            Self::SessionStarted { observed_at, .. } | Self::StateChanged { observed_at, .. } => *observed_at,
            Self::SessionEnded { ended_between: [_, observed_at], .. } => *observed_at,
        }
    }

    /// The session concerned, and its id.
    pub fn session_id(&self, account: &Account) -> Option<Uuid> {
        match self {
            Self::SessionStarted { session, .. } | Self::SessionEnded { session, .. } => {
                Some(session_id(account, &session.openid, session.createtime))
            }
            Self::StateChanged { .. } => None,
        }
    }
}

/// The id of a session: the same for its start, its end, and after any restart.
pub fn session_id(account: &Account, openid: &str, createtime: i64) -> Uuid {
    named(&[&account.appid, &account.kf_account, openid, &createtime.to_string()])
}

/// A change with its number in the account's history.
#[derive(Clone, Copy, Debug)]
pub struct Numbered<'a> {
    /// Whose event it is.
    pub account: &'a Account,
    /// What happened.
    pub change: &'a Change,
    /// The number of the event among all of the account's, from 1 without gaps.
    pub sequence: u64,
    /// How many events of this type the log already holds for this session. It is part of the id: a session that
    /// is listed again after its end was emitted starts a second time, with an id of its own.
    pub repeats: u64,
}

impl Numbered<'_> {
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

/// Seconds between which a duration lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bounds {
    /// At least so long.
    pub min: i64,
    /// At most so long.
    pub max: i64,
}

/// How long a session lasted. `createtime` is cut to whole seconds, so the session may have begun up to a second
/// later: the minimum is rounded down less one, the maximum up.
pub fn duration_bounds(createtime: i64, [earliest, latest]: [Timestamp; 2]) -> Bounds {
    let min = earliest.as_second().saturating_sub(createtime).saturating_sub(1);
    let max = latest
        .as_second()
        .saturating_add(i64::from(latest.subsec_nanosecond() > 0))
        .saturating_sub(createtime);
    Bounds { min: min.max(0), max: max.max(0) }
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
    fn ids_are_those_of_the_published_test_vector() {
        let (account, ended) = (account(), ended());
        let started = Change::SessionStarted {
            session: session(),
            observed_at: Timestamp::UNIX_EPOCH,
            baseline: false,
            transferred_from: None,
        };
        let number = |change| Numbered { account: &account, change, sequence: 1, repeats: 0 };
        assert_eq!(ended.session_id(&account).unwrap().to_string(), "bb990e79-eb52-5233-a363-a2cf2b13422f");
        assert_eq!(number(&started).id().to_string(), "53bf2e6f-2586-56e7-801b-0ef62536be36");
        assert_eq!(number(&ended).id().to_string(), "af546c58-71de-57cd-b56c-6bd11593a69f");
    }

    #[test]
    fn an_end_is_rendered_as_the_contract_shows_it() {
        let (account, change) = (account(), ended());
        let event = Numbered { account: &account, change: &change, sequence: 42, repeats: 0 };
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
    fn a_state_change_names_no_session() {
        let account = account();
        let change = Change::StateChanged {
            transition: Transition { from: AccountState::Ok, to: AccountState::Unbound },
            observed_at: "2026-11-22T07:22:45.123Z".parse().unwrap(),
            errcode: Some(65402),
            source: "getsessionlist",
            binding: None,
        };
        let json = Numbered { account: &account, change: &change, sequence: 1, repeats: 0 }.render();
        assert!(json.contains(r#""subject":"test1@test""#), "{json}");
        assert!(json.ends_with(concat!(
            r#""from":"ok","to":"unbound","observed_at":"2026-11-22T07:22:45.123Z","errcode":65402,"#,
            r#""source":"getsessionlist"}}"#
        )));
    }

    #[test]
    fn a_change_to_unbound_tells_what_is_known_of_the_invitation() {
        let check = |binding, expected: &str| {
            let change = Change::StateChanged {
                transition: Transition { from: AccountState::Unknown, to: AccountState::Unbound },
                observed_at: Timestamp::UNIX_EPOCH,
                errcode: None,
                source: "getkflist",
                binding,
            };
            let json = Numbered { account: &account(), change: &change, sequence: 1, repeats: 0 }.render();
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
    fn a_start_says_where_the_customer_came_from_only_if_that_is_known() {
        let started = |transferred_from: Option<&str>| {
            let change = Change::SessionStarted {
                session: session(),
                observed_at: Timestamp::UNIX_EPOCH,
                baseline: false,
                transferred_from: transferred_from.map(Arc::from),
            };
            Numbered { account: &account(), change: &change, sequence: 1, repeats: 0 }.render()
        };
        assert!(started(None).ends_with(r#""baseline":false}}"#));
        assert!(
            started(Some("test2@test")).ends_with(r#""baseline":false,"transferred_from":"test2@test"}}"#)
        );
    }

    proptest! {
        #[test]
        fn a_draft_with_its_number_is_the_event(sequence in any::<u64>(), repeats in 0..3u64, tricky in "[a-z\"\\\\:]{0,9}") {
            let account = Account { kf_account: format!("\"sequence\":\"{tricky}").into(), ..account() };
            let change = ended();
            let event = Numbered { account: &account, change: &change, sequence, repeats };
            prop_assert_eq!(Draft::of(&account, &change).numbered(&event), event.render());
        }

        #[test]
        fn durations_hold_for_any_clock(createtime in -10_000_000_000..10_000_000_000i64, a in 0..9_999_999_999_999i64, b in 0..9_999_999_999_999i64) {
            let between = [a.min(b), a.max(b)].map(|ms| Timestamp::from_millisecond(ms).unwrap());
            let Bounds { min, max } = duration_bounds(createtime, between);
            prop_assert!(0 <= min && min <= max);
        }

        #[test]
        fn the_same_history_has_the_same_ids_and_another_has_others(openid in "[A-Za-z0-9_-]{1,28}", createtime in 0..4_000_000_000i64, repeats in 0..3u64) {
            let account = account();
            let id = |openid: &str, createtime, repeats| {
                let session = OwnedSession { openid: openid.into(), createtime };
                let observed_at = Timestamp::UNIX_EPOCH;
                let change = Change::SessionStarted { session, observed_at, baseline: true, transferred_from: None };
                Numbered { account: &account, change: &change, sequence: 9, repeats }.id()
            };
            prop_assert_eq!(id(&openid, createtime, repeats), id(&openid, createtime, repeats));
            prop_assert_ne!(id(&openid, createtime, repeats), id(&openid, createtime + 1, repeats));
            prop_assert_ne!(id(&openid, createtime, repeats), id(&openid, createtime, repeats + 1));
        }
    }
}
