//! Compares a snapshot with the next response: which sessions ended and which started. Pure.

use std::cmp::Ordering;

use super::snapshot::{ObservedSessions, Session, Snapshot};

/// Why a session counts as ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// It is no longer listed.
    Absent,
    /// The same customer is listed with a new createtime.
    Replaced,
}

impl EndReason {
    /// The name used in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Replaced => "replaced",
        }
    }
}

/// The difference between a snapshot and the next response of one account. Both lists are sorted like snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff<'a> {
    /// Sessions that are no longer listed.
    pub ended: Vec<(Session<'a>, EndReason)>,
    /// Sessions that were not listed before.
    pub started: Vec<Session<'a>>,
}

impl Diff<'_> {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.started.is_empty()
    }
}

/// Compares a snapshot with the next response of the same account. Allocates nothing for unchanged sessions.
pub fn diff<'a>(previous: &'a Snapshot, current: &'a ObservedSessions<'_>) -> Diff<'a> {
    let mut difference = merge(previous, current);
    let started = &difference.started;
    for (session, reason) in &mut difference.ended {
        if started.binary_search_by(|candidate| candidate.openid.cmp(&session.openid)).is_ok() {
            *reason = EndReason::Replaced;
        }
    }
    difference
}

/// Merges both sorted lists in one pass. Every end has the reason `Absent`; the caller finds the replaced sessions.
fn merge<'a>(previous: &'a Snapshot, current: &'a ObservedSessions<'_>) -> Diff<'a> {
    let mut result = Diff::default();
    let mut old = previous.iter().peekable();
    let mut new = current.sessions().iter().peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return result,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(known), Some(seen)) => known.cmp(seen),
        };
        if order.is_ge() {
            let seen = new.next();
            if order.is_gt() {
                result.started.extend(seen.map(borrow));
            }
        }
        if order.is_le() {
            let known = old.next();
            if order.is_lt() {
                result.ended.extend(known.map(|session| (session, EndReason::Absent)));
            }
        }
    }
}

fn borrow<'a>(session: &'a Session<'_>) -> Session<'a> {
    Session { openid: session.openid.as_ref().into(), createtime: session.createtime }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few openids and createtimes, so that replacements and duplicates are common.
    fn sessions() -> impl Strategy<Value = Vec<(String, i64)>> {
        prop::collection::vec(("[a-e]{1,2}", 0..4i64), 0..12)
    }

    fn observed(sessions: &[(String, i64)]) -> ObservedSessions<'_> {
        ObservedSessions::new(
            sessions.iter().map(|(openid, createtime)| session(openid, *createtime)).collect(),
        )
    }

    fn session(openid: &str, createtime: i64) -> Session<'_> {
        Session { openid: openid.into(), createtime }
    }

    /// Removes the ended sessions and adds the started ones.
    fn apply<'a>(previous: &'a Snapshot, difference: &Diff<'a>) -> ObservedSessions<'a> {
        let stayed =
            previous.iter().filter(|session| !difference.ended.iter().any(|(ended, _)| ended == session));
        ObservedSessions::new(stayed.chain(difference.started.iter().cloned()).collect())
    }

    proptest! {
        #[test]
        fn diff_with_itself_is_empty(a in sessions()) {
            let seen = observed(&a);
            prop_assert!(diff(&Snapshot::from(&seen), &seen).is_empty());
        }

        #[test]
        fn applying_diff_gives_new_response(a in sessions(), b in sessions()) {
            let (previous, current) = (Snapshot::from(&observed(&a)), observed(&b));
            let difference = diff(&previous, &current);
            prop_assert_eq!(&apply(&previous, &difference), &current);
        }

        #[test]
        fn only_known_sessions_end_and_only_listed_ones_start(a in sessions(), b in sessions()) {
            let (previous, current) = (Snapshot::from(&observed(&a)), observed(&b));
            let difference = diff(&previous, &current);
            for (ended, reason) in &difference.ended {
                prop_assert!(previous.iter().any(|known| known == *ended));
                prop_assert!(!current.sessions().contains(ended));
                let listed_again = difference.started.iter().any(|started| started.openid == ended.openid);
                prop_assert_eq!(*reason == EndReason::Replaced, listed_again);
            }
            for started in &difference.started {
                prop_assert!(current.sessions().contains(started));
                prop_assert!(!previous.iter().any(|known| known == *started));
            }
        }
    }
}
