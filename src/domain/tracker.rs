//! What is known of one kf account, and what an answer makes of it: the rules that decide which events there are.
//!
//! Only a complete success answer changes the snapshot. A failure never ends a session, and success without a list
//! ends sessions only when the next good answer confirms it. The result of an answer is a [`TrackerUpdate`], which takes
//! effect when the store has committed it and not before: see [`AccountTracker::apply`].

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use super::{
    account::{AccountCondition, AccountState, Conclusion, Transition},
    agents::Binding,
    clock::{Moment, UnixMs},
    diff::{EndReason, diff},
    event::{Change, OwnedSession},
    snapshot::{ObservedSessions, Session, Snapshot},
    transfer::Departed,
};

/// What is known of one kf account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountTracker {
    /// What is concluded about the account.
    pub condition: AccountCondition,
    /// Its sessions as last observed.
    pub snapshot: Snapshot,
    /// What is known of the answers behind the snapshot.
    pub last_seen: LastSeen,
    /// The sessions that ended in the latest good answer; not stored.
    pub departed: Option<Arc<Departed>>,
    /// Of the answer that listed the snapshot, if there was one since the start; not stored. Eight bytes for each account,
    /// for which an unchanged answer is not parsed.
    pub fingerprint: Option<Fingerprint>,
}

/// A hash of an answer's text, with a key of this process: no customer can choose an openid so that two answers share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(NonZeroU64);

impl Fingerprint {
    /// Takes the hash.
    pub fn new(hash: u64) -> Self {
        Self(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
    }
}

/// What is known of the answers behind a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastSeen {
    /// Whether a good answer was ever taken as the baseline.
    pub baseline_taken: bool,
    /// Whether the last good answer had no list: an empty list that is not confirmed yet.
    pub keyless: bool,
    /// When the request was sent whose answer last determined the snapshot.
    pub listed_sent_at: Option<UnixMs>,
    /// When the last good answer was received.
    pub last_success_at: Option<UnixMs>,
}

/// A good answer.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The sessions that it lists.
    pub listed: Listed<'a>,
    /// When its request was sent.
    pub sent_at: Moment,
    /// When it had been received whole.
    pub received_at: Moment,
}

/// What a good answer lists.
#[derive(Clone, Copy, Debug)]
pub enum Listed<'a> {
    /// The sessions of the snapshot: its text is that of the answer that listed them.
    Same,
    /// These sessions.
    Sessions(&'a ObservedSessions<'a>, Fingerprint),
    /// It is a success without a list.
    Nothing,
}

/// A failure as far as it is told to consumers.
#[derive(Clone, Copy, Debug)]
pub struct FailureCause {
    /// The errcode, if there was one.
    pub errcode: Option<i64>,
    /// The call that failed.
    pub source: &'static str,
}

/// From one knowledge of an account to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrackerUpdate {
    /// What happened, in the order in which the events are to be numbered.
    pub changes: Vec<Change>,
    /// The standing from now on.
    pub condition: AccountCondition,
    /// The sessions from now on, unless they are the same.
    pub snapshot: Option<Snapshot>,
    /// The sighting from now on.
    pub last_seen: LastSeen,
    /// The sessions that ended in the latest good answer.
    pub departed: Option<Arc<Departed>>,
    /// Of the answer that listed the sessions from now on.
    pub fingerprint: Option<Fingerprint>,
    /// Whether more than moments changed, so that it must be stored before it takes effect.
    pub must_commit: bool,
}

impl AccountTracker {
    /// What a good answer makes of it. `source` is the call that answered.
    pub fn answered(&self, answer: Answer<'_>, source: &'static str) -> TrackerUpdate {
        let nothing = ObservedSessions::default();
        let (confirmed, fingerprint) = match answer.listed {
            Listed::Same => (None, self.fingerprint),
            Listed::Sessions(observed, fingerprint) => (Some(observed), Some(fingerprint)),
            // An absent list counts as an empty one when the good answer before had none either.
            Listed::Nothing if self.last_seen.keyless => (Some(&nothing), None),
            Listed::Nothing => (None, self.fingerprint),
        };
        let keyless = matches!(answer.listed, Listed::Nothing);
        let received_at = answer.received_at.ceil_ms();
        let mut step =
            self.concluded(Conclusion::Ok, answer.received_at, FailureCause { errcode: None, source });
        step.last_seen.keyless = keyless;
        step.last_seen.last_success_at = Some(received_at);
        step.fingerprint = fingerprint;
        if confirmed.is_some() || !keyless {
            step.last_seen.baseline_taken = true;
            step.last_seen.listed_sent_at = Some(answer.sent_at.floor_ms());
        }
        if let Some(observed) = confirmed
            && !self.snapshot.equals(observed)
        {
            step.changes.extend(self.session_changes(observed, received_at));
            step.snapshot = Some(Snapshot::from(observed));
        }
        step.departed = Departed::among(&step.changes);
        step.must_commit = !step.changes.is_empty()
            || step.condition.state != self.condition.state
            || step.condition.conclusion != self.condition.conclusion
            || step.last_seen.keyless != self.last_seen.keyless
            || step.last_seen.baseline_taken != self.last_seen.baseline_taken;
        step
    }

    /// What a refusal that says something about the account makes of it: unbound, or invalid.
    pub fn concluded(&self, conclusion: Conclusion, now: Moment, cause: FailureCause) -> TrackerUpdate {
        self.moved(self.condition.concluded(conclusion), now, cause)
    }

    /// What a failed poll, or one that was held back, makes of it.
    pub fn failed(&self, now: Moment, blind_after: Duration, cause: FailureCause) -> TrackerUpdate {
        self.moved(self.condition.failed(now, blind_after), now, cause)
    }

    /// What getkflist makes of it by saying whether a WeChat user is bound. `source` is that call.
    pub fn listed(&self, binding: Binding, now: Moment, source: &'static str) -> TrackerUpdate {
        self.moved(self.condition.listed(binding), now, FailureCause { errcode: None, source })
            .telling(Some(binding))
    }

    /// What leaving makes of it: its sessions do not end. `source` is what it left: the configuration, or the answers
    /// of a call.
    pub fn unwatched(&self, now: Moment, source: &'static str) -> TrackerUpdate {
        self.moved(self.condition.unwatched(), now, FailureCause { errcode: None, source })
    }

    /// Takes the step, after it was committed if it had to be.
    pub fn apply(&mut self, step: TrackerUpdate) {
        self.condition = step.condition;
        self.last_seen = step.last_seen;
        self.departed = step.departed;
        self.fingerprint = step.fingerprint;
        if let Some(snapshot) = step.snapshot {
            self.snapshot = snapshot;
        }
    }

    fn moved(
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
            departed: self.departed.clone(),
            fingerprint: self.fingerprint,
            must_commit,
        }
    }

    /// Ends first: a customer who comes back has left before.
    fn session_changes(&self, observed: &ObservedSessions<'_>, received_at: UnixMs) -> Vec<Change> {
        let difference = diff(&self.snapshot, observed);
        let baseline = !self.last_seen.baseline_taken;
        // The wall clock may have been set back between the two: bounds stay in order even then.
        let last_listed = self.last_seen.listed_sent_at.unwrap_or(received_at).min(received_at);
        let ended = difference
            .ended
            .iter()
            .map(|(session, reason)| ended(session, *reason, last_listed, received_at));
        let started = difference.started.iter().map(|session| Change::SessionStarted {
            session: owned(session),
            observed_at: received_at.into(),
            baseline,
            transferred_from: None,
        });
        ended.chain(started).collect()
    }
}

impl TrackerUpdate {
    /// Tells along with a change to `unbound` what getkflist last said of the binding, if it has said anything.
    pub fn telling(mut self, said: Option<Binding>) -> Self {
        for change in &mut self.changes {
            if let Change::StateChanged { transition, binding, .. } = change
                && transition.to == AccountState::Unbound
            {
                *binding = said;
            }
        }
        self
    }
}

fn ended(session: &Session<'_>, reason: EndReason, last_listed: UnixMs, received_at: UnixMs) -> Change {
    let ended_between = [last_listed, received_at].map(UnixMs::timestamp);
    Change::SessionEnded { session: owned(session), reason, ended_between }
}

fn owned(session: &Session<'_>) -> OwnedSession {
    OwnedSession { openid: session.openid.as_ref().into(), createtime: session.createtime }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

    use super::*;

    const SOURCE: &str = "getsessionlist";

    /// A watch and a clock that runs a second with every answer.
    struct Rehearsal {
        watch: AccountTracker,
        now: Moment,
    }

    impl Rehearsal {
        fn new() -> Self {
            let wall = "2026-11-22T07:00:00Z".parse().unwrap();
            Self { watch: AccountTracker::default(), now: Moment { wall, monotonic: Duration::ZERO } }
        }

        fn pass(&mut self, duration: Duration) -> Moment {
            self.now = Moment { wall: self.now.wall + duration, monotonic: self.now.monotonic + duration };
            self.now
        }

        /// The answer lists these; `None`: success without a list. Gives the changes in a short form.
        fn answer(&mut self, openids: Option<&[&str]>) -> Vec<String> {
            let sent_at = self.pass(Duration::from_millis(990));
            let received_at = self.pass(Duration::from_millis(10));
            let observed = openids.map(|openids| {
                ObservedSessions::new(
                    openids.iter().map(|&openid| Session { openid: openid.into(), createtime: 7 }).collect(),
                )
            });
            let listed = observed.as_ref().map_or(Listed::Nothing, |observed| {
                // As an answer of the same text is met with.
                let fingerprint = fingerprint(observed);
                match self.watch.fingerprint == Some(fingerprint) {
                    true => Listed::Same,
                    false => Listed::Sessions(observed, fingerprint),
                }
            });
            let step = self.watch.answered(Answer { listed, sent_at, received_at }, SOURCE);
            self.take(step)
        }

        fn fail(&mut self, after: Duration) -> Vec<String> {
            let now = self.pass(after);
            let step = self.watch.failed(
                now,
                Duration::from_secs(300),
                FailureCause { errcode: Some(-1), source: SOURCE },
            );
            self.take(step)
        }

        fn take(&mut self, step: TrackerUpdate) -> Vec<String> {
            assert!(step.must_commit || step.changes.is_empty(), "a change that is not stored");
            let changes = step.changes.iter().map(short).collect();
            self.watch.apply(step);
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
    fn the_first_answer_is_the_baseline() {
        let mut rehearsal = Rehearsal::new();
        assert_eq!(rehearsal.answer(Some(&["a", "b"])), ["=a", "=b"]);
        assert_eq!(rehearsal.answer(Some(&["b", "c"])), ["-a within 1010ms", "+c"]);
        assert_eq!(rehearsal.answer(Some(&["b", "c"])), NONE);
    }

    #[test]
    fn an_empty_baseline_is_one_too() {
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
    fn ended_between_begins_when_the_session_was_last_asked_for_and_listed() {
        let mut rehearsal = Rehearsal::new();
        rehearsal.answer(Some(&["a"]));
        rehearsal.fail(Duration::from_secs(60));
        assert_eq!(rehearsal.answer(Some(&[])), ["-a within 61010ms"]);
    }

    #[test]
    fn an_absent_list_ends_sessions_only_when_confirmed() {
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
    fn an_unconfirmed_first_answer_is_no_baseline() {
        let mut rehearsal = Rehearsal::new();
        assert_eq!(rehearsal.answer(None), NONE);
        assert_eq!(rehearsal.answer(Some(&["a"])), ["=a"]);
        let mut rehearsal = Rehearsal::new();
        assert_eq!(rehearsal.answer(None), NONE);
        assert_eq!(rehearsal.answer(None), NONE);
        assert_eq!(rehearsal.answer(Some(&["a"])), ["+a"]);
    }

    #[test]
    fn leaving_the_configuration_ends_no_session_and_coming_back_compares() {
        let mut rehearsal = Rehearsal::new();
        rehearsal.answer(Some(&["a", "b"]));
        let step = rehearsal.watch.unwatched(rehearsal.now, "configuration");
        assert_eq!(rehearsal.take(step), ["ok>unwatched"]);
        assert_eq!(rehearsal.watch.snapshot.len(), 2);
        assert_eq!(rehearsal.answer(Some(&["b"])), ["unwatched>ok", "-a within 1010ms"]);
    }

    #[test]
    fn an_unbound_account_keeps_its_sessions() {
        let mut rehearsal = Rehearsal::new();
        rehearsal.answer(Some(&["a"]));
        let cause = FailureCause { errcode: Some(65402), source: SOURCE };
        let step = rehearsal.watch.concluded(Conclusion::Unbound, rehearsal.now, cause);
        assert_eq!(rehearsal.take(step), ["ok>unbound"]);
        assert_eq!(rehearsal.watch.condition.state, AccountState::Unbound);
        assert_eq!(rehearsal.answer(Some(&["a"])), ["unbound>ok"]);
    }

    #[test]
    fn a_clock_set_back_keeps_bounds_in_order() {
        let mut rehearsal = Rehearsal::new();
        rehearsal.answer(Some(&["a"]));
        rehearsal.now.wall -= Duration::from_secs(3600);
        assert_eq!(rehearsal.answer(Some(&[])), ["-a within 0ms"]);
    }
}
