//! Where a customer was before: what tells a transfer from a new session.
//!
//! WeChat lists open sessions and nothing else, so a transfer shows as an end on one kf account and a start on
//! another, whichever is polled first; polls are not simultaneous, so for a moment both may list the customer, or
//! neither. A start therefore counts as transferred from where the customer is still known to be, or was until the
//! latest poll there. Of several such accounts it is the one whose answers listed the customer last: a snapshot that
//! stands still because its account is refused is passed over for one that is newer.

use std::sync::Arc;

use super::{
    clock::UnixMs,
    event::Change,
    snapshot::{ObservedSessions, Session, Snapshot},
    tracker::AccountTracker,
};

/// The sessions that ended in an account's latest good answer. There are never more than one answer had listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    sessions: Snapshot,
    /// When the last request that listed them was sent.
    last_listed: UnixMs,
}

/// When a customer was last seen on a kf account: the greater, the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LastSeen {
    /// When the last request was sent whose answer listed the customer.
    sent_at: Option<UnixMs>,
    /// The session's createtime, which decides between answers of the same moment.
    createtime: i64,
}

impl Departed {
    /// The sessions that end by these changes of one answer, if any do.
    pub fn among(changes: &[Change]) -> Option<Arc<Self>> {
        let mut last_listed = None;
        let ended = changes.iter().filter_map(|change| match change {
            Change::SessionEnded { session, ended_between: [listed, _], .. } => {
                last_listed = Some(UnixMs::from(*listed));
                Some(Session { openid: (&*session.openid).into(), createtime: session.createtime })
            }
            Change::SessionStarted { .. } | Change::StateChanged { .. } => None,
        });
        let sessions = Snapshot::from(&ObservedSessions::new(ended.collect()));
        last_listed.map(|last_listed| Arc::new(Self { sessions, last_listed }))
    }
}

impl AccountTracker {
    /// When the customer was last seen here, if a session stands or ended in the latest good answer.
    pub fn last_seen(&self, openid: &str) -> Option<LastSeen> {
        let stands = self
            .snapshot
            .createtime_of(openid)
            .map(|createtime| LastSeen { sent_at: self.last_seen.listed_sent_at, createtime });
        let ended = self.departed.as_ref().and_then(|departed| {
            let createtime = departed.sessions.createtime_of(openid)?;
            Some(LastSeen { sent_at: Some(departed.last_listed), createtime })
        });
        stands.max(ended)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        clock::Moment,
        tracker::{Answer, Fingerprint, Listed},
    };

    fn at(seconds: u64) -> Moment {
        let since_start = Duration::from_secs(seconds);
        Moment { wall: jiff::Timestamp::UNIX_EPOCH + since_start, monotonic: since_start }
    }

    /// The answer to a request sent at this second.
    fn answer(watch: &mut AccountTracker, second: u64, openids: Option<&[&str]>) {
        let observed = openids.map(|openids| {
            ObservedSessions::new(
                openids.iter().map(|&openid| Session { openid: openid.into(), createtime: 7 }).collect(),
            )
        });
        let text = Fingerprint::new(second);
        let listed = observed.as_ref().map_or(Listed::Nothing, |observed| Listed::Sessions(observed, text));
        let answer = Answer { listed, sent_at: at(second), received_at: at(second + 1) };
        let step = watch.answered(answer, "getsessionlist");
        watch.apply(step);
    }

    fn seen_at(watch: &AccountTracker, openid: &str) -> Option<i64> {
        watch.last_seen(openid).and_then(|seen| seen.sent_at).map(|at| at.timestamp().as_second())
    }

    proptest! {
        #[test]
        fn known_are_those_who_are_there_and_those_whom_the_latest_answer_ended(
            answers in prop::collection::vec(prop::option::of(prop::collection::btree_set("[a-d]", 0..4)), 1..8),
        ) {
            let mut watch = AccountTracker::default();
            let mut before = BTreeSet::new();
            for (second, openids) in (0..).zip(&answers) {
                before = watch.snapshot.iter().map(|session| session.openid.into_owned()).collect();
                let openids: Option<Vec<&str>> = openids.as_ref().map(|set| set.iter().map(String::as_str).collect());
                answer(&mut watch, second, openids.as_deref());
            }
            let there: BTreeSet<String> = watch.snapshot.iter().map(|session| session.openid.into_owned()).collect();
            let known: BTreeSet<String> =
                ["a", "b", "c", "d"].map(str::to_owned).into_iter().filter(|openid| watch.last_seen(openid).is_some()).collect();
            prop_assert_eq!(known, &there | &before);
        }
    }

    #[test]
    fn a_customer_who_left_is_known_until_the_next_good_answer() {
        let mut watch = AccountTracker::default();
        answer(&mut watch, 10, Some(&["a", "b"]));
        answer(&mut watch, 20, Some(&["b"]));
        assert_eq!((seen_at(&watch, "a"), seen_at(&watch, "b")), (Some(10), Some(20)));
        answer(&mut watch, 30, Some(&["b"]));
        assert_eq!((seen_at(&watch, "a"), seen_at(&watch, "b")), (None, Some(30)));
    }

    #[test]
    fn a_failure_forgets_nobody_and_an_unconfirmed_empty_list_is_a_good_answer() {
        let mut watch = AccountTracker::default();
        answer(&mut watch, 10, Some(&["a"]));
        answer(&mut watch, 20, Some(&[]));
        let cause = crate::domain::tracker::FailureCause { errcode: Some(-1), source: "getsessionlist" };
        let failed = watch.failed(at(30), Duration::from_secs(300), cause);
        watch.apply(failed);
        assert_eq!(seen_at(&watch, "a"), Some(10));
        answer(&mut watch, 40, None);
        assert_eq!(seen_at(&watch, "a"), None);
    }

    #[test]
    fn a_customer_who_came_back_is_there_now() {
        let mut watch = AccountTracker::default();
        answer(&mut watch, 10, Some(&["a"]));
        answer(&mut watch, 20, Some(&[]));
        answer(&mut watch, 30, Some(&["a"]));
        assert_eq!(seen_at(&watch, "a"), Some(30));
    }
}
