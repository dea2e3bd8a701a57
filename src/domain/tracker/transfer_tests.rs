//! Where customers are known to be, for transfers.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::domain::clock::at;

/// The answer to a request sent at this second.
fn answer(tracker: &mut AccountTracker, second: u64, openids: Option<&[&str]>) {
    let observed = openids.map(|openids| {
        ObservedSessions::new(
            openids.iter().map(|&openid| Session { openid: openid.into(), createtime: 7 }).collect(),
        )
    });
    let text = Fingerprint::new(second);
    let content =
        observed.as_ref().map_or(AnswerContent::NoList, |observed| AnswerContent::Sessions(observed, text));
    let answer = SessionAnswer { content, sent_at: at(second), received_at: at(second + 1) };
    let update = tracker.after_answer(answer, "getsessionlist");
    tracker.apply(update);
}

fn seen_at(tracker: &AccountTracker, openid: &str) -> Option<i64> {
    tracker.last_listed(openid).and_then(|seen| seen.sent_at).map(|at| at.timestamp().as_second())
}

proptest! {
    #[test]
    fn customers_of_open_and_just_ended_sessions_are_known(
        answers in prop::collection::vec(prop::option::of(prop::collection::btree_set("[a-d]", 0..4)), 1..8),
    ) {
        let mut tracker = AccountTracker::default();
        let mut before = BTreeSet::new();
        for (second, openids) in (0..).zip(&answers) {
            before = tracker.snapshot.iter().map(|session| session.openid.into_owned()).collect();
            let openids: Option<Vec<&str>> = openids.as_ref().map(|set| set.iter().map(String::as_str).collect());
            answer(&mut tracker, second, openids.as_deref());
        }
        let there: BTreeSet<String> = tracker.snapshot.iter().map(|session| session.openid.into_owned()).collect();
        let known: BTreeSet<String> =
            ["a", "b", "c", "d"].map(str::to_owned).into_iter().filter(|openid| tracker.last_listed(openid).is_some()).collect();
        prop_assert_eq!(known, &there | &before);
    }
}

#[test]
fn customer_who_left_is_known_until_next_good_answer() {
    let mut tracker = AccountTracker::default();
    answer(&mut tracker, 10, Some(&["a", "b"]));
    answer(&mut tracker, 20, Some(&["b"]));
    assert_eq!((seen_at(&tracker, "a"), seen_at(&tracker, "b")), (Some(10), Some(20)));
    answer(&mut tracker, 30, Some(&["b"]));
    assert_eq!((seen_at(&tracker, "a"), seen_at(&tracker, "b")), (None, Some(30)));
}

#[test]
fn failure_forgets_no_customer_but_missing_list_does() {
    let mut tracker = AccountTracker::default();
    answer(&mut tracker, 10, Some(&["a"]));
    answer(&mut tracker, 20, Some(&[]));
    let cause = FailureCause { errcode: Some(-1), source: "getsessionlist" };
    let failed = tracker.after_failure(at(30), Duration::from_secs(300), cause);
    tracker.apply(failed);
    assert_eq!(seen_at(&tracker, "a"), Some(10));
    answer(&mut tracker, 40, None);
    assert_eq!(seen_at(&tracker, "a"), None);
}

#[test]
fn customer_who_came_back_is_listed_again() {
    let mut tracker = AccountTracker::default();
    answer(&mut tracker, 10, Some(&["a"]));
    answer(&mut tracker, 20, Some(&[]));
    answer(&mut tracker, 30, Some(&["a"]));
    assert_eq!(seen_at(&tracker, "a"), Some(30));
}
