//! Consecutive failures of one thing, and which of them are logged.
//!
//! The first failure, each new reason and the recovery are logged, the recovery with a count. A failure within
//! [`QUIET_PERIOD`] after a logged recovery is only counted; failures that last longer are logged. So something that
//! alternates between failure and success writes at most two lines in that time, and the last line about a lasting failure
//! reports the failure. Each reason is logged once, and again only when it has not occurred for [`REASON_EXPIRY`].

use std::time::Duration;

use super::clock::Moment;

/// How long after a logged recovery failures are only counted.
const QUIET_PERIOD: Duration = Duration::from_secs(60);

/// A reason is logged again if it has not occurred for this time.
const REASON_EXPIRY: Duration = Duration::from_secs(3600);

/// How many reasons are distinguished. Failures with further reasons are only counted.
const MAX_REASONS: usize = 8;

/// The consecutive failures of one thing, such as a kf account, an official account or the store. Takes only a pointer
/// while nothing fails.
#[derive(Debug)]
pub struct FailureStreak<R>(Option<Box<Failures<R>>>);

#[derive(Debug)]
struct Failures<R> {
    /// Since the last logged recovery.
    count: u64,
    first_at: Moment,
    last_at: Moment,
    /// The reasons logged since the last logged recovery, each with its latest occurrence.
    logged: Vec<(R, Moment)>,
    recovered_at: Option<Moment>,
}

/// The end of a streak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    pub(crate) failures: u64,
    /// From the first failure to the success.
    pub(crate) lasted: Duration,
}

impl<R> Default for FailureStreak<R> {
    fn default() -> Self {
        Self(None)
    }
}

impl<R: PartialEq> FailureStreak<R> {
    /// Records a failure at `now`. Returns whether to log it.
    pub fn failed(&mut self, reason: R, now: Moment) -> bool {
        let streak = self.0.get_or_insert_with(|| Box::new(Failures::new(now)));
        if streak.count == 0 {
            streak.first_at = now;
        }
        streak.count += 1;
        let previous = std::mem::replace(&mut streak.last_at, now);
        if streak.recovered_at.is_some_and(|recovered_at| now.since(&recovered_at) < QUIET_PERIOD) {
            return false;
        }
        let is_expired = |seen_at: &Moment| now.since(seen_at) >= REASON_EXPIRY;
        if let Some((_, seen_at)) = streak.logged.iter_mut().find(|(logged, _)| *logged == reason) {
            // If the previous failure had the same reason, nothing changed, however long ago that was.
            let is_news = is_expired(seen_at) && *seen_at != previous;
            *seen_at = now;
            return is_news;
        }
        streak.logged.retain(|(_, seen_at)| !is_expired(seen_at));
        let is_news = streak.logged.len() < MAX_REASONS;
        if is_news {
            streak.logged.push((reason, now));
        }
        is_news
    }

    /// The reason of the last failure, unless it was only counted or a success came after it.
    pub fn latest_reason(&self) -> Option<&R> {
        let logged = self.0.as_ref()?.logged.iter();
        logged.max_by_key(|(_, seen_at)| seen_at.monotonic).map(|(reason, _)| reason)
    }

    /// Records the success of a call that started at `begun_at`. Returns the recovery if it must be logged. A call that
    /// started before the last failure does not end the streak.
    pub fn succeeded(&mut self, begun_at: Moment) -> Option<Recovery> {
        let streak = self.0.as_mut()?;
        if begun_at.monotonic < streak.last_at.monotonic {
            return None;
        }
        if streak.logged.is_empty() {
            if streak.recovered_at.is_none_or(|recovered_at| begun_at.since(&recovered_at) >= QUIET_PERIOD) {
                self.0 = None;
            }
            return None;
        }
        let recovery = Recovery { failures: streak.count, lasted: begun_at.since(&streak.first_at) };
        streak.count = 0;
        streak.logged.clear();
        streak.recovered_at = Some(begun_at);
        Some(recovery)
    }
}

impl<R> Failures<R> {
    fn new(now: Moment) -> Self {
        Self { count: 0, first_at: now, last_at: now, logged: Vec::new(), recovered_at: None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::clock::at;

    /// What is logged for outcomes at these seconds: `.` is a success, a letter is a failure with that reason.
    fn logged(outcomes: &[(u64, char)]) -> Vec<String> {
        let mut failure_streak = FailureStreak::default();
        let log = |&(second, outcome): &(u64, char)| match outcome {
            '.' => failure_streak
                .succeeded(at(second))
                .map(|recovery| format!("{second}: {} in {}s", recovery.failures, recovery.lasted.as_secs())),
            reason => failure_streak.failed(reason, at(second)).then(|| format!("{second}: {reason}")),
        };
        outcomes.iter().filter_map(log).collect()
    }

    fn every(seconds: u64, outcomes: &str) -> Vec<(u64, char)> {
        outcomes.chars().enumerate().map(|(n, outcome)| (n as u64 * seconds, outcome)).collect()
    }

    #[test]
    fn failure_is_logged_once_and_recovery_with_count() {
        assert_eq!(logged(&every(15, "..aaaa..")), ["30: a", "90: 4 in 60s"]);
    }

    #[test]
    fn new_reason_is_logged_and_alternating_reasons_once_each() {
        assert_eq!(logged(&every(15, "aabbabababcac.")), ["0: a", "30: b", "150: c", "195: 13 in 195s"]);
    }

    #[test]
    fn reason_absent_for_an_hour_is_logged_again() {
        let outcomes = [(0, 'a'), (15, 'b'), (1800, 'b'), (3500, 'b'), (3700, 'a'), (3715, 'b'), (3730, '.')];
        assert_eq!(logged(&outcomes), ["0: a", "15: b", "3700: a", "3730: 6 in 3730s"]);
    }

    #[test]
    fn same_failure_every_day_is_logged_once() {
        assert_eq!(logged(&every(86_400, "aaa.")), ["0: a", "259200: 3 in 259200s"]);
    }

    #[test]
    fn failure_soon_after_recovery_is_counted_not_logged() {
        assert_eq!(logged(&every(15, "a.a.b......a.")), ["0: a", "15: 1 in 15s", "165: a", "180: 1 in 15s"]);
    }

    #[test]
    fn failure_soon_after_recovery_that_lasts_is_logged() {
        assert_eq!(logged(&every(15, "a.aaaaa.")), ["0: a", "15: 1 in 15s", "75: a", "105: 5 in 75s"]);
    }

    #[test]
    fn success_in_flight_at_failure_is_no_recovery() {
        assert_eq!(logged(&[(30, 'a'), (29, '.'), (30, '.')]), ["30: a", "30: 1 in 0s"]);
    }

    #[test]
    fn streak_is_freed_after_a_minute_of_success() {
        let mut failure_streak = FailureStreak::default();
        assert!(failure_streak.failed('a', at(0)));
        assert!(failure_streak.succeeded(at(10)).is_some());
        assert_eq!(failure_streak.succeeded(at(69)), None);
        assert!(failure_streak.0.is_some());
        assert_eq!(failure_streak.succeeded(at(70)), None);
        assert!(failure_streak.0.is_none());
    }

    proptest! {
        #[test]
        fn log_is_short_and_last_line_is_true(
            steps in prop::collection::vec((1..40u64, prop::sample::select(&['.', '.', 'a', 'b', 'c'][..])), 1..300),
        ) {
            let (mut failure_streak, mut now) = (FailureStreak::default(), 0);
            let (mut logged_failing, mut recovered_at, mut failing_since) = (false, None::<u64>, None);
            let (mut failures, mut counted, mut lines) = (0, 0, 0);
            for (seconds, outcome) in steps {
                now += seconds;
                if outcome == '.' {
                    failing_since = None;
                    if let Some(recovery) = failure_streak.succeeded(at(now)) {
                        prop_assert!(logged_failing, "a recovery only after a logged failure");
                        prop_assert!(recovered_at.is_none_or(|before| now - before >= QUIET_PERIOD.as_secs()));
                        counted += recovery.failures;
                        recovered_at = Some(now);
                        (logged_failing, lines) = (false, 0);
                    }
                    prop_assert!(!logged_failing, "a recovery is logged at once");
                } else {
                    failures += 1;
                    let since = *failing_since.get_or_insert(now);
                    if failure_streak.failed(outcome, at(now)) {
                        (logged_failing, lines) = (true, lines + 1);
                    }
                    prop_assert!(logged_failing || now - since < QUIET_PERIOD.as_secs(), "a lasting failure is logged");
                    // Three reasons, each at most once an hour.
                    prop_assert!(lines <= 3 * (1 + (now - recovered_at.unwrap_or(0)) / REASON_EXPIRY.as_secs()));
                }
            }
            prop_assert!(counted <= failures);
        }

        #[test]
        fn any_number_of_reasons_costs_few_lines(reasons in prop::collection::vec(any::<u32>(), 1..200)) {
            let mut failure_streak = FailureStreak::default();
            let lines = reasons.iter().filter(|reason| failure_streak.failed(**reason, at(1))).count();
            prop_assert!(lines <= MAX_REASONS);
            prop_assert_eq!(failure_streak.succeeded(at(2)).map(|recovery| recovery.failures), Some(reasons.len() as u64));
        }
    }
}
