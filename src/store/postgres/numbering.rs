//! Numbers the events of a commit, before the commit is known to happen.
//!
//! The owner of a shard is the only one who writes to it, so it knows the next id of the log, and the sequence and the state of the
//! accounts that it has written before. It assumes the usual rest: a session that starts is not stored, one that ends is, and the log
//! has no event of that kind for it. The statement of the commit checks each assumption. If one is wrong, or nothing is known of the
//! account, what the store contains is read first ([`StoredSessions`]).

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::{
    domain::{
        account::AccountState,
        event::{Change, EventType, NumberedEvent, OwnedSession},
    },
    store::{accounts::RenderedCommit, convert},
};

/// What a commit continues from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AccountProgress {
    /// The sequence of the account's newest event.
    pub(super) sequence: i64,
    /// The state that is stored.
    pub(super) state: AccountState,
}

/// What the store contains of the sessions of one commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StoredSessions {
    /// Sessions that are stored.
    pub(super) sessions: HashSet<OwnedSession>,
    /// How many events of a type the log has for a session.
    pub(super) events: HashMap<(Uuid, EventType), i64>,
}

/// A commit whose events have their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NumberedCommit {
    pub(super) before: AccountProgress,
    pub(super) after: AccountProgress,
    /// Sessions to delete.
    pub(super) ended: Vec<OwnedSession>,
    /// Sessions to insert.
    pub(super) started: Vec<OwnedSession>,
    pub(super) events: Vec<NewEvent>,
}

/// An event to append to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NewEvent {
    pub(super) id: i64,
    pub(super) sequence: i64,
    pub(super) event_type: EventType,
    pub(super) session: Option<(i64, Uuid)>,
    /// How many events of this type the log has for this session before the commit.
    pub(super) logged: i64,
    pub(super) observed_at: i64,
    pub(super) json: String,
}

/// Numbers the events of a commit. A change that the store already shows makes no event. Without `found`, the usual is assumed.
pub(super) fn number_events(
    rendered: &RenderedCommit,
    before: AccountProgress,
    found: Option<&StoredSessions>,
    last_id: i64,
) -> NumberedCommit {
    let mut sessions: HashMap<&OwnedSession, Stored> = HashMap::new();
    let mut numbered_here: HashMap<(Uuid, EventType), i64> = HashMap::new();
    let mut numberer = Numberer { rendered, sequence: before.sequence, last_id, events: Vec::new() };
    for (n, change) in rendered.commit.changes.iter().enumerate() {
        let Some(session) = change.session() else {
            if matches!(change, Change::StateChanged { transition, .. } if transition.to != before.state) {
                numberer.add(n, None, 0, 0);
            }
            continue;
        };
        let starts = change.event_type() == EventType::SessionStarted;
        let stored = sessions.entry(session).or_insert_with(|| {
            let is_stored = found.map_or(!starts, |found| found.sessions.contains(session));
            Stored { before: is_stored, now: is_stored }
        });
        if std::mem::replace(&mut stored.now, starts) != starts {
            let id = rendered.drafts[n].session_id().unwrap_or_default();
            let key = (id, change.event_type());
            let logged = found.and_then(|found| found.events.get(&key)).copied().unwrap_or_default();
            let here = numbered_here.entry(key).or_default();
            numberer.add(n, Some((session.createtime, id)), logged, logged + *here);
            *here += 1;
        }
    }
    let changed = |now: bool| {
        let changed = sessions.iter().filter(move |(_, stored)| stored.now == now && stored.before != now);
        changed.map(|(session, _)| (*session).clone()).collect()
    };
    let after = AccountProgress { sequence: numberer.sequence, state: rendered.commit.record.state };
    NumberedCommit { before, after, ended: changed(false), started: changed(true), events: numberer.events }
}

/// Whether a commit has several changes of one session, so that nothing can be assumed about it.
pub(super) fn has_repeated_session(rendered: &RenderedCommit) -> bool {
    let mut seen = HashSet::new();
    rendered.commit.changes.iter().filter_map(Change::session).any(|session| !seen.insert(session))
}

/// Whether a session is stored.
struct Stored {
    before: bool,
    now: bool,
}

/// Assigns ids and sequences.
struct Numberer<'a> {
    rendered: &'a RenderedCommit,
    sequence: i64,
    last_id: i64,
    events: Vec<NewEvent>,
}

impl Numberer<'_> {
    fn add(&mut self, n: usize, session: Option<(i64, Uuid)>, logged: i64, repeats: i64) {
        let change = &self.rendered.commit.changes[n];
        self.sequence += 1;
        self.last_id += 1;
        let event = NumberedEvent {
            account: &self.rendered.commit.account,
            change,
            sequence: self.sequence.unsigned_abs(),
            repeats: repeats.unsigned_abs(),
        };
        self.events.push(NewEvent {
            id: self.last_id,
            sequence: self.sequence,
            event_type: change.event_type(),
            session,
            logged,
            observed_at: convert::ms(change.observed_at()),
            json: self.rendered.drafts[n].clone().numbered(&event),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            account::{Account, Transition},
            diff::EndReason,
        },
        store::{AccountId, AccountRecord, PollCommit},
    };

    fn session(openid: &str) -> OwnedSession {
        OwnedSession { openid: openid.into(), createtime: 7 }
    }

    fn started(openid: &str) -> Change {
        let observed_at = jiff::Timestamp::UNIX_EPOCH;
        Change::SessionStarted {
            session: session(openid),
            observed_at,
            baseline: false,
            transferred_from: None,
        }
    }

    fn ended(openid: &str) -> Change {
        let ended_between = [jiff::Timestamp::UNIX_EPOCH; 2];
        Change::SessionEnded { session: session(openid), reason: EndReason::Absent, ended_between }
    }

    fn became(to: AccountState) -> Change {
        Change::StateChanged {
            transition: Transition { from: AccountState::Unknown, to },
            observed_at: jiff::Timestamp::UNIX_EPOCH,
            errcode: None,
            source: "configuration",
            binding: None,
        }
    }

    fn rendered(changes: Vec<Change>) -> RenderedCommit {
        let account =
            Account { official_account: "shop".into(), appid: "wx".into(), kf_account: "kf1@shop".into() };
        let record = AccountRecord { state: AccountState::Ok, ..AccountRecord::default() };
        RenderedCommit::unlimited(PollCommit { id: AccountId(1), account, changes, record })
    }

    const BEFORE: AccountProgress = AccountProgress { sequence: 4, state: AccountState::Unknown };

    fn ids(numbered: &NumberedCommit) -> Vec<(i64, i64)> {
        numbered.events.iter().map(|event| (event.id, event.sequence)).collect()
    }

    #[test]
    fn usual_commit_is_numbered_without_looking() {
        let rendered = rendered(vec![became(AccountState::Ok), started("a"), ended("b")]);
        let numbered = number_events(&rendered, BEFORE, None, 10);
        assert_eq!(ids(&numbered), [(11, 5), (12, 6), (13, 7)]);
        assert_eq!((numbered.started, numbered.ended), (vec![session("a")], vec![session("b")]));
        assert_eq!(numbered.after, AccountProgress { sequence: 7, state: AccountState::Ok });
    }

    #[test]
    fn change_that_is_stored_makes_no_event() {
        let rendered = rendered(vec![became(AccountState::Unknown), started("a"), ended("b"), started("c")]);
        let found = StoredSessions { sessions: [session("a")].into(), ..StoredSessions::default() };
        let numbered = number_events(&rendered, BEFORE, Some(&found), 10);
        assert_eq!(ids(&numbered), [(11, 5)]);
        assert_eq!((numbered.started, numbered.ended), (vec![session("c")], vec![]));
    }

    #[test]
    fn session_that_ends_and_starts_again_is_stored_as_before() {
        let rendered = rendered(vec![ended("a"), started("a"), ended("a"), started("a")]);
        assert!(has_repeated_session(&rendered));
        let found = StoredSessions { sessions: [session("a")].into(), ..StoredSessions::default() };
        let numbered = number_events(&rendered, BEFORE, Some(&found), 10);
        assert_eq!(ids(&numbered).len(), 4);
        assert_eq!((&*numbered.started, &*numbered.ended), (&[][..], &[][..]));
        let distinct: HashSet<_> = numbered.events.iter().map(|event| event.json.clone()).collect();
        assert_eq!(distinct.len(), 4, "each has an id of its own");
    }
}
