//! What is known of one kf account, and the rules that decide which events an answer creates.
//!
//! Only a complete success answer changes the snapshot. A failure never ends a session. A success without a list ends
//! sessions only when the next good answer confirms it. Each `after_…` function is pure and returns a [`TrackerUpdate`],
//! which takes effect with [`AccountTracker::apply`], and not before the store has committed it.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use super::{
    account::{AccountCondition, AccountState, Conclusion, Transition},
    agents::Binding,
    clock::{Moment, MonotonicTime, UnixMs},
    diff::{EndReason, diff},
    event::{Change, OwnedSession},
    snapshot::{ObservedSessions, Session, Snapshot},
    transfer::{EndedSessions, LastListed},
};

/// What is known of one kf account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountTracker {
    /// What is concluded about the account.
    pub condition: AccountCondition,
    /// The sessions as last observed.
    pub snapshot: Snapshot,
    /// When the account was last seen.
    pub last_seen: LastSeen,
    /// The sessions that ended in the latest good answer; not stored.
    pub ended: Option<Arc<EndedSessions>>,
    /// The fingerprint of the answer that listed the snapshot; not stored, so `None` after a restart. An answer with the
    /// same fingerprint need not be parsed.
    pub fingerprint: Option<Fingerprint>,
    /// [`LastSeen::listed_sent_at`] by the monotonic clock of this process; not stored.
    pub listed_sent_monotonic: Option<MonotonicTime>,
}

/// A keyed hash of the body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(NonZeroU64);

impl Fingerprint {
    /// The fingerprint with this hash.
    pub fn new(hash: u64) -> Self {
        Self(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
    }
}

/// When the account was last seen, and what the good answers so far were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastSeen {
    /// Whether there was a good answer that became the baseline.
    pub baseline_taken: bool,
    /// Whether the last good answer had no list: an empty list that is not confirmed yet.
    pub keyless: bool,
    /// When the request was sent whose answer last determined the snapshot.
    pub listed_sent_at: Option<UnixMs>,
    /// When the last good answer was received.
    pub last_success_at: Option<UnixMs>,
}

/// A good answer of getsessionlist.
#[derive(Clone, Copy, Debug)]
pub struct SessionAnswer<'a> {
    /// What it lists.
    pub content: AnswerContent<'a>,
    /// When the request was sent.
    pub sent_at: Moment,
    /// When the answer had been received completely.
    pub received_at: Moment,
}

/// What a good answer lists.
#[derive(Clone, Copy, Debug)]
pub enum AnswerContent<'a> {
    /// The same text as the answer that listed the snapshot.
    Unchanged,
    /// These sessions.
    Sessions(&'a ObservedSessions<'a>, Fingerprint),
    /// A success without a list.
    NoList,
}

/// The cause of a failure, as events report it.
#[derive(Clone, Copy, Debug)]
pub struct FailureCause {
    pub(crate) errcode: Option<i64>,
    pub(crate) source: &'static str,
}

/// The next state of a tracker, and the changes that lead to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrackerUpdate {
    /// What happened, in the order in which the events are numbered.
    pub(crate) changes: Vec<Change>,
    pub(crate) condition: AccountCondition,
    /// The next snapshot; `None` if the sessions are the same.
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) last_seen: LastSeen,
    pub(crate) ended: Option<Arc<EndedSessions>>,
    /// The fingerprint of the answer that listed the next snapshot.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// See [`AccountTracker::listed_sent_monotonic`].
    pub(crate) listed_sent_monotonic: Option<MonotonicTime>,
    /// Whether more than times changed, so that the update must be stored before it takes effect.
    pub(crate) must_commit: bool,
}

impl AccountTracker {
    /// The update after a good answer. `source` is the call that answered.
    pub fn after_answer(&self, answer: SessionAnswer<'_>, source: &'static str) -> TrackerUpdate {
        let empty = ObservedSessions::default();
        let (confirmed, fingerprint) = match answer.content {
            AnswerContent::Unchanged => (None, self.fingerprint),
            AnswerContent::Sessions(observed, fingerprint) => (Some(observed), Some(fingerprint)),
            // A missing list counts as an empty one if the previous good answer had none either.
            AnswerContent::NoList if self.last_seen.keyless => (Some(&empty), None),
            AnswerContent::NoList => (None, self.fingerprint),
        };
        let keyless = matches!(answer.content, AnswerContent::NoList);
        let received_at = answer.received_at.ceil_ms();
        let cause = FailureCause { errcode: None, source };
        let mut update = self.after_conclusion(Conclusion::Ok, answer.received_at, cause);
        update.last_seen.keyless = keyless;
        update.last_seen.last_success_at = Some(received_at);
        update.fingerprint = fingerprint;
        if confirmed.is_some() || !keyless {
            update.last_seen.baseline_taken = true;
            update.last_seen.listed_sent_at = Some(answer.sent_at.floor_ms());
            update.listed_sent_monotonic = Some(answer.sent_at.into());
        }
        if let Some(observed) = confirmed
            && !self.snapshot.equals(observed)
        {
            update.changes.extend(self.session_changes(observed, answer.received_at));
            update.snapshot = Some(Snapshot::from(observed));
        }
        update.ended = EndedSessions::from_changes(&update.changes);
        update.must_commit = !update.changes.is_empty()
            || update.condition.state != self.condition.state
            || update.condition.conclusion != self.condition.conclusion
            || update.last_seen.keyless != self.last_seen.keyless
            || update.last_seen.baseline_taken != self.last_seen.baseline_taken;
        update
    }

    /// The update after an answer that says something about the account itself.
    pub fn after_conclusion(
        &self,
        conclusion: Conclusion,
        now: Moment,
        cause: FailureCause,
    ) -> TrackerUpdate {
        self.with_condition(self.condition.after_conclusion(conclusion), now, cause)
    }

    /// The update after a poll that failed or backed off.
    pub fn after_failure(&self, now: Moment, blind_after: Duration, cause: FailureCause) -> TrackerUpdate {
        self.with_condition(self.condition.after_failure(now, blind_after), now, cause)
    }

    /// The update after getkflist has said whether a WeChat user is bound. `source` is that call.
    pub fn after_binding(&self, binding: Binding, now: Moment, source: &'static str) -> TrackerUpdate {
        let cause = FailureCause { errcode: None, source };
        self.with_condition(self.condition.after_binding(binding), now, cause).with_binding(Some(binding))
    }

    /// The update after the account is no longer watched. No session ends. `source` is where the account is missing: the
    /// configuration, or the answers of a call.
    pub fn after_removal(&self, now: Moment, source: &'static str) -> TrackerUpdate {
        self.with_condition(self.condition.after_removal(), now, FailureCause { errcode: None, source })
    }

    /// Makes the update the present state. The caller has committed it if it had to be.
    pub fn apply(&mut self, update: TrackerUpdate) {
        self.condition = update.condition;
        self.last_seen = update.last_seen;
        self.ended = update.ended;
        self.fingerprint = update.fingerprint;
        self.listed_sent_monotonic = update.listed_sent_monotonic;
        if let Some(snapshot) = update.snapshot {
            self.snapshot = snapshot;
        }
    }

    /// When the customer was last listed here: in an open session, or in one that ended in the latest good answer.
    pub fn last_listed(&self, openid: &str) -> Option<LastListed> {
        let open = self
            .snapshot
            .createtime_of(openid)
            .map(|createtime| LastListed { sent_at: self.last_seen.listed_sent_at, createtime });
        open.max(self.ended.as_ref().and_then(|ended| ended.last_listed(openid)))
    }

    fn with_condition(
        &self,
        (condition, transition): (AccountCondition, Option<Transition>),
        now: Moment,
        cause: FailureCause,
    ) -> TrackerUpdate {
        let observed_at = now.ceil_ms().into();
        let change = transition.map(|transition| Change::StateChanged {
            transition,
            observed_at,
            errcode: cause.errcode,
            source: cause.source,
            binding: None,
        });
        let must_commit =
            condition.state != self.condition.state || condition.conclusion != self.condition.conclusion;
        TrackerUpdate {
            changes: Vec::from_iter(change),
            condition,
            snapshot: None,
            last_seen: self.last_seen,
            ended: self.ended.clone(),
            fingerprint: self.fingerprint,
            listed_sent_monotonic: self.listed_sent_monotonic,
            must_commit,
        }
    }

    /// Ends come first: a customer who is back must have left before.
    fn session_changes(&self, observed: &ObservedSessions<'_>, received_at: Moment) -> Vec<Change> {
        let difference = diff(&self.snapshot, observed);
        let baseline = !self.last_seen.baseline_taken;
        let last_listed = self.last_listed_before(received_at);
        let received_at = received_at.ceil_ms();
        let ended = difference
            .ended
            .iter()
            .map(|(session, reason)| session_ended(session, *reason, last_listed, received_at));
        let started = difference.started.iter().map(|session| Change::SessionStarted {
            session: owned(session),
            observed_at: received_at.into(),
            baseline,
            transferred_from: None,
        });
        ended.chain(started).collect()
    }

    /// When the request was sent whose answer last listed the snapshot, in any case before `received_at`: the wall clock may have
    /// been set back since.
    fn last_listed_before(&self, received_at: Moment) -> UnixMs {
        let latest = match self.listed_sent_monotonic {
            Some(sent) => received_at.wall_at(sent).floor_ms(),
            // An earlier process listed it, whose monotonic clock is unknown.
            None => received_at.ceil_ms().previous(),
        };
        // The monotonic clock stands still while the machine sleeps. The wall clock does not.
        self.last_seen.listed_sent_at.map_or(latest, |sent_at| sent_at.min(latest))
    }
}

impl TrackerUpdate {
    /// Adds what getkflist last said about the binding to a change to `unbound`.
    pub fn with_binding(mut self, known: Option<Binding>) -> Self {
        for change in &mut self.changes {
            if let Change::StateChanged { transition, binding, .. } = change
                && transition.to == AccountState::Unbound
            {
                *binding = known;
            }
        }
        self
    }
}

fn session_ended(
    session: &Session<'_>,
    reason: EndReason,
    last_listed: UnixMs,
    received_at: UnixMs,
) -> Change {
    let ended_between = [last_listed, received_at].map(UnixMs::timestamp);
    Change::SessionEnded { session: owned(session), reason, ended_between }
}

fn owned(session: &Session<'_>) -> OwnedSession {
    OwnedSession { openid: session.openid.as_ref().into(), createtime: session.createtime }
}

#[cfg(test)]
mod transfer_tests;

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

    use super::*;

    const SOURCE: &str = "getsessionlist";

    /// A tracker, and a clock that advances a second with every answer.
    struct Rehearsal {
        tracker: AccountTracker,
        now: Moment,
    }

    impl Rehearsal {
        fn new() -> Self {
            let wall = "2026-11-22T07:00:00Z".parse().unwrap();
            Self { tracker: AccountTracker::default(), now: Moment { wall, monotonic: Duration::ZERO } }
        }

        fn pass(&mut self, duration: Duration) -> Moment {
            self.now = Moment { wall: self.now.wall + duration, monotonic: self.now.monotonic + duration };
            self.now
        }

        /// An answer that lists these openids, or none; returns the changes in a short form.
        fn answer(&mut self, openids: Option<&[&str]>) -> Vec<String> {
            let sent_at = self.pass(Duration::from_millis(990));
            let received_at = self.pass(Duration::from_millis(10));
            let observed = openids.map(|openids| {
                ObservedSessions::new(
                    openids.iter().map(|&openid| Session { openid: openid.into(), createtime: 7 }).collect(),
                )
            });
            let content = observed.as_ref().map_or(AnswerContent::NoList, |observed| {
                let fingerprint = fingerprint(observed);
                match self.tracker.fingerprint == Some(fingerprint) {
                    true => AnswerContent::Unchanged,
                    false => AnswerContent::Sessions(observed, fingerprint),
                }
            });
            let update = self.tracker.after_answer(SessionAnswer { content, sent_at, received_at }, SOURCE);
            self.apply(update)
        }

        fn fail(&mut self, after: Duration) -> Vec<String> {
            let now = self.pass(after);
            let update = self.tracker.after_failure(
                now,
                Duration::from_secs(300),
                FailureCause { errcode: Some(-1), source: SOURCE },
            );
            self.apply(update)
        }

        fn apply(&mut self, update: TrackerUpdate) -> Vec<String> {
            assert!(update.must_commit || update.changes.is_empty(), "a change must be stored");
            let changes = update.changes.iter().map(short).collect();
            self.tracker.apply(update);
            changes
        }
    }

    fn fingerprint(observed: &ObservedSessions<'_>) -> Fingerprint {
        Fingerprint::new(BuildHasherDefault::<DefaultHasher>::default().hash_one(observed.sessions()))
    }

    fn short(change: &Change) -> String {
        match change {
            Change::SessionStarted { session, baseline, .. } => {
                format!("{}{}", if *baseline { "=" } else { "+" }, session.openid)
            }
            Change::SessionEnded { session, ended_between: [from, to], .. } => {
                format!("-{} within {}ms", session.openid, to.duration_since(*from).as_millis())
            }
            Change::StateChanged { transition, .. } => {
                format!("{}>{}", transition.from.as_str(), transition.to.as_str())
            }
        }
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn first_answer_is_the_baseline() {
        let mut rehearsal = Rehearsal::new();
        assert_eq!(rehearsal.answer(Some(&["a", "b"])), ["=a", "=b"]);
        assert_eq!(rehearsal.answer(Some(&["b", "c"])), ["-a within 1010ms", "+c"]);
        assert_eq!(rehearsal.answer(Some(&["b", "c"])), NONE);
    }

    #[test]
    fn first_answer_may_be_empty() {
        let mut rehearsal = Rehearsal::new();
        assert_eq!(rehearsal.answer(Some(&[])), NONE);
        assert_eq!(rehearsal.answer(Some(&["a"])), ["+a"]);
    }

    #[test]
    fn failures_end_no_session() {
        let mut rehearsal = Rehearsal::new();
        rehearsal.answer(Some(&["a"]));
        assert_eq!(rehearsal.fail(Duration::from_secs(1)), NONE);
        assert_eq!(rehearsal.fail(Duration::from_secs(299)), NONE);
        assert_eq!(rehearsal.fail(Duration::from_secs(1)), ["ok>blind"]);
        assert_eq!(rehearsal.answer(Some(&["a"])), ["blind>ok"]);
        assert_eq!(rehearsal.answer(Some(&[])), ["-a within 1010ms"]);
    }

    #[test]
    fn ended_between_starts_at_last_request_that_listed_it() {
        let mut rehearsal = Rehearsal::new();
        rehearsal.answer(Some(&["a"]));
        rehearsal.fail(Duration::from_secs(60));
        assert_eq!(rehearsal.answer(Some(&[])), ["-a within 61010ms"]);
    }

    #[test]
    fn missing_list_ends_sessions_only_when_confirmed() {
        let mut rehearsal = Rehearsal::new();
        rehearsal.answer(Some(&["a"]));
        assert_eq!(rehearsal.answer(None), NONE);
        assert_eq!(rehearsal.fail(Duration::from_secs(1)), NONE, "a failure neither confirms nor clears it");
        assert_eq!(rehearsal.answer(None), ["-a within 3010ms"]);
        rehearsal.answer(Some(&["b"]));
        assert_eq!(rehearsal.answer(None), NONE);
        assert_eq!(rehearsal.answer(Some(&["b"])), NONE, "a list that still has it clears it");
        assert_eq!(rehearsal.answer(None), NONE);
        assert_eq!(rehearsal.answer(Some(&[])), ["-b within 2010ms"]);
    }

    #[test]
    fn first_answer_without_list_is_no_baseline() {
        let mut rehearsal = Rehearsal::new();
        assert_eq!(rehearsal.answer(None), NONE);
        assert_eq!(rehearsal.answer(Some(&["a"])), ["=a"]);
        let mut rehearsal = Rehearsal::new();
        assert_eq!(rehearsal.answer(None), NONE);
        assert_eq!(rehearsal.answer(None), NONE);
        assert_eq!(rehearsal.answer(Some(&["a"])), ["+a"]);
    }

    #[test]
    fn removed_account_keeps_sessions_until_it_is_back() {
        let mut rehearsal = Rehearsal::new();
        rehearsal.answer(Some(&["a", "b"]));
        let update = rehearsal.tracker.after_removal(rehearsal.now, "configuration");
        assert_eq!(rehearsal.apply(update), ["ok>unwatched"]);
        assert_eq!(rehearsal.tracker.snapshot.len(), 2);
        assert_eq!(rehearsal.answer(Some(&["b"])), ["unwatched>ok", "-a within 1010ms"]);
    }

    #[test]
    fn unbound_account_keeps_sessions() {
        let mut rehearsal = Rehearsal::new();
        rehearsal.answer(Some(&["a"]));
        let cause = FailureCause { errcode: Some(65402), source: SOURCE };
        let update = rehearsal.tracker.after_conclusion(Conclusion::Unbound, rehearsal.now, cause);
        assert_eq!(rehearsal.apply(update), ["ok>unbound"]);
        assert_eq!(rehearsal.tracker.condition.state, AccountState::Unbound);
        assert_eq!(rehearsal.answer(Some(&["a"])), ["unbound>ok"]);
    }

    #[test]
    fn bounds_stay_as_far_apart_when_clock_is_set_back() {
        for set_back in [1, 30, 3600] {
            let mut rehearsal = Rehearsal::new();
            rehearsal.answer(Some(&["a"]));
            rehearsal.now.wall -= Duration::from_secs(set_back);
            assert_eq!(rehearsal.answer(Some(&[])), ["-a within 1010ms"]);
        }
    }

    #[test]
    fn bounds_include_the_time_that_the_machine_slept() {
        let mut rehearsal = Rehearsal::new();
        rehearsal.answer(Some(&["a"]));
        rehearsal.now.wall += Duration::from_secs(3600);
        assert_eq!(rehearsal.answer(Some(&[])), ["-a within 3601010ms"]);
    }

    #[test]
    fn bounds_are_a_millisecond_apart_when_clock_was_set_back_before_a_restart() {
        for (set_back, expected) in [(30, "-a within 1ms"), (0, "-a within 1010ms")] {
            let mut rehearsal = Rehearsal::new();
            rehearsal.answer(Some(&["a"]));
            rehearsal.tracker.listed_sent_monotonic = None;
            rehearsal.now.wall -= Duration::from_secs(set_back);
            assert_eq!(rehearsal.answer(Some(&[])), [expected]);
        }
    }
}
