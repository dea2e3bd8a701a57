//! Failures in a row, and which of them the log is told of.
//!
//! The log hears of the first failure, of each new reason, and of the end, with a count. A failure that comes back within
//! [`QUIET`] after the end was told is counted and not told anew, unless it lasts: so something that fails and works by
//! turns costs two lines in that time at most, and whatever fails for long has been told last as failing. Reasons that
//! alternate are each told once, and again only after they have not been seen for [`FORGOTTEN_AFTER`].

use std::time::Duration;

use super::clock::Moment;

/// How long after an all-clear failures are not told.
const QUIET: Duration = Duration::from_secs(60);

/// A reason that was not seen for so long is news again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// How many reasons are told apart; further ones are only counted.
const MOST_REASONS: usize = 8;

/// The failures of one thing: a kf account, an official account, the store. Takes no more than a pointer while nothing
/// fails.
#[derive(Debug)]
pub struct FailureStreak<R>(Option<Box<Run<R>>>);

#[derive(Debug)]
struct Run<R> {
    /// Not told as ended yet.
    failures: u64,
    first_at: Moment,
    last_at: Moment,
    /// What was told since the last all-clear, with when each was last seen.
    told: Vec<(R, Moment)>,
    cleared_at: Option<Moment>,
}

/// The end of a streak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// How many failures there were.
    pub failures: u64,
    /// From the first of them until it worked again.
    pub lasted: Duration,
}

impl<R> Default for FailureStreak<R> {
    fn default() -> Self {
        Self(None)
    }
}

impl<R: PartialEq> FailureStreak<R> {
    /// Notes a failure that is known at `now`. Whether it is to be told.
    pub fn failed(&mut self, reason: R, now: Moment) -> bool {
        let run = self.0.get_or_insert_with(|| Box::new(Run::new(now)));
        if run.failures == 0 {
            run.first_at = now;
        }
        run.failures += 1;
        let before = std::mem::replace(&mut run.last_at, now);
        if run.cleared_at.is_some_and(|cleared_at| now.since(&cleared_at) < QUIET) {
            return false;
        }
        let forgotten = |seen_at: &Moment| now.since(seen_at) >= FORGOTTEN_AFTER;
        if let Some((_, seen_at)) = run.told.iter_mut().find(|(told, _)| *told == reason) {
            // What fails as it did the last time has not changed, however long ago that was.
            let is_news = forgotten(seen_at) && *seen_at != before;
            *seen_at = now;
            return is_news;
        }
        run.told.retain(|(_, seen_at)| !forgotten(seen_at));
        let is_news = run.told.len() < MOST_REASONS;
        if is_news {
            run.told.push((reason, now));
        }
        is_news
    }

    /// Notes a success that was begun at `begun_at`; one that was under way when a failure became known is no end. What
    /// is to be told.
    pub fn succeeded(&mut self, begun_at: Moment) -> Option<Recovery> {
        let run = self.0.as_mut()?;
        if begun_at.monotonic < run.last_at.monotonic {
            return None;
        }
        if run.told.is_empty() {
            if run.cleared_at.is_none_or(|cleared_at| begun_at.since(&cleared_at) >= QUIET) {
                self.0 = None;
            }
            return None;
        }
        let recovery = Recovery { failures: run.failures, lasted: begun_at.since(&run.first_at) };
        run.failures = 0;
        run.told.clear();
        run.cleared_at = Some(begun_at);
        Some(recovery)
    }
}

impl<R> Run<R> {
    fn new(now: Moment) -> Self {
        Self { failures: 0, first_at: now, last_at: now, told: Vec::new(), cleared_at: None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Moment {
        let wall = jiff::Timestamp::UNIX_EPOCH + Duration::from_secs(seconds);
        Moment { wall, monotonic: Duration::from_secs(seconds) }
    }

    /// What is told of outcomes at these seconds: `.` for a success, letters for failures with that reason.
    fn told(outcomes: &[(u64, char)]) -> Vec<String> {
        let mut failure_streak = FailureStreak::default();
        let tell = |&(second, outcome): &(u64, char)| match outcome {
            '.' => failure_streak
                .succeeded(at(second))
                .map(|end| format!("{second}: {} in {}s", end.failures, end.lasted.as_secs())),
            reason => failure_streak.failed(reason, at(second)).then(|| format!("{second}: {reason}")),
        };
        outcomes.iter().filter_map(tell).collect()
    }

    fn every(seconds: u64, outcomes: &str) -> Vec<(u64, char)> {
        outcomes.chars().enumerate().map(|(n, outcome)| (n as u64 * seconds, outcome)).collect()
    }

    #[test]
    fn a_failure_is_told_once_and_its_end_with_a_count() {
        assert_eq!(told(&every(15, "..aaaa..")), ["30: a", "90: 4 in 60s"]);
    }

    #[test]
    fn what_never_failed_is_not_told() {
        assert!(told(&every(15, "....")).is_empty());
    }

    #[test]
    fn another_reason_is_told_and_reasons_that_alternate_are_not_told_again() {
        assert_eq!(told(&every(15, "aabbabababcac.")), ["0: a", "30: b", "150: c", "195: 13 in 195s"]);
    }

    #[test]
    fn a_reason_that_was_gone_for_an_hour_is_told_again() {
        let outcomes = [(0, 'a'), (15, 'b'), (1800, 'b'), (3500, 'b'), (3700, 'a'), (3715, 'b'), (3730, '.')];
        assert_eq!(told(&outcomes), ["0: a", "15: b", "3700: a", "3730: 6 in 3730s"]);
    }

    #[test]
    fn the_same_failure_day_after_day_is_told_once() {
        assert_eq!(told(&every(86_400, "aaa.")), ["0: a", "259200: 3 in 259200s"]);
    }

    #[test]
    fn a_failure_that_returns_within_a_minute_is_counted_and_not_told() {
        assert_eq!(told(&every(15, "a.a.b......a.")), ["0: a", "15: 1 in 15s", "165: a", "180: 1 in 15s"]);
    }

    #[test]
    fn a_failure_that_returns_within_a_minute_and_lasts_is_told_then() {
        assert_eq!(told(&every(15, "a.aaaaa.")), ["0: a", "15: 1 in 15s", "75: a", "105: 5 in 75s"]);
    }

    #[test]
    fn a_success_that_was_under_way_when_the_failure_became_known_is_no_end() {
        assert_eq!(told(&[(30, 'a'), (29, '.'), (30, '.')]), ["30: a", "30: 1 in 0s"]);
    }

    #[test]
    fn nothing_is_kept_of_what_has_worked_for_a_minute() {
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
        fn the_log_is_short_and_its_last_word_is_true(
            steps in prop::collection::vec((1..40u64, prop::sample::select(&['.', '.', 'a', 'b', 'c'][..])), 1..300),
        ) {
            let (mut failure_streak, mut now) = (FailureStreak::default(), 0);
            let (mut told_failing, mut cleared_at, mut failing_since) = (false, None::<u64>, None);
            let (mut failures, mut counted, mut lines) = (0, 0, 0);
            for (seconds, outcome) in steps {
                now += seconds;
                if outcome == '.' {
                    failing_since = None;
                    if let Some(end) = failure_streak.succeeded(at(now)) {
                        prop_assert!(told_failing, "an end only of what was told");
                        prop_assert!(cleared_at.is_none_or(|before| now - before >= QUIET.as_secs()));
                        counted += end.failures;
                        cleared_at = Some(now);
                        (told_failing, lines) = (false, 0);
                    }
                    prop_assert!(!told_failing, "a success is told at once");
                } else {
                    failures += 1;
                    let since = *failing_since.get_or_insert(now);
                    if failure_streak.failed(outcome, at(now)) {
                        (told_failing, lines) = (true, lines + 1);
                    }
                    prop_assert!(told_failing || now - since < QUIET.as_secs(), "what lasts is told");
                    // Three reasons, each at most once an hour.
                    prop_assert!(lines <= 3 * (1 + (now - cleared_at.unwrap_or(0)) / FORGOTTEN_AFTER.as_secs()));
                }
            }
            prop_assert!(counted <= failures);
        }

        #[test]
        fn any_number_of_reasons_costs_a_bounded_number_of_lines(reasons in prop::collection::vec(any::<u32>(), 1..200)) {
            let mut failure_streak = FailureStreak::default();
            let told = reasons.iter().filter(|reason| failure_streak.failed(**reason, at(1))).count();
            prop_assert!(told <= MOST_REASONS);
            prop_assert_eq!(failure_streak.succeeded(at(2)).map(|end| end.failures), Some(reasons.len() as u64));
        }
    }
}
