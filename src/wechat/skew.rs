//! How far this machine's clock is from WeChat's, by the `Date` of its answers.
//!
//! An answer that says it was made in second D was made between D and D + 1 by WeChat's clock, and between sending and
//! receiving by ours. So the skew lies between what the earliest and the latest of these moments give, and the value in
//! this interval that is nearest to zero is taken: a good clock shows 0 and does not tremble, and a bad one is never made
//! out worse than it is, at the price of up to half a second and half the round trip. Answers are looked at once a second.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use reqwest::header::{DATE, HeaderMap};

use crate::domain::clock::Moment;

/// The resolution of `Date`.
const DATE_RESOLUTION: f64 = 1.0;

/// A slower answer than that leaves too much open.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(2);

/// Beyond this many seconds the clock is told to be wrong.
const WRONG_BEYOND: f64 = 5.0;

/// Below this many seconds it is right again.
const RIGHT_BELOW: f64 = 3.0;

/// Watches the skew.
#[derive(Default)]
pub(super) struct ClockSkew {
    /// The first second of the monotonic clock in which answers are looked at again.
    look_from: AtomicU64,
    judgement: Mutex<Judgement>,
}

impl ClockSkew {
    /// Looks at the head of an answer if it is time to, and gives the skew in seconds, positive when our clock is ahead.
    pub(super) fn observe(
        &self,
        head: &HeaderMap,
        sent_at: Moment,
        now: impl FnOnce() -> Moment,
    ) -> Option<f64> {
        let second = sent_at.monotonic.as_secs();
        let look_from = self.look_from.load(Ordering::Relaxed);
        if second < look_from {
            return None;
        }
        // Another answer may be looked at just now: one of them is enough.
        self.look_from.compare_exchange(look_from, second + 1, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        let date = jiff::fmt::rfc2822::parse(head.get(DATE)?.to_str().ok()?).ok()?.timestamp();
        let received_at = now();
        if received_at.since(&sent_at) > LONGEST_ROUND_TRIP {
            return None;
        }
        let skew = skew_seconds(date, sent_at.wall, received_at.wall);
        let verdict = self.judgement.lock().unwrap_or_else(PoisonError::into_inner).judge(skew);
        match verdict {
            Some(Verdict::Wrong) => tracing::warn!(
                skew_seconds = skew,
                "This machine's clock is {:.0} s {} WeChat's: times in events and metrics are wrong by that much; let \
                 NTP set it (timedatectl status, chronyc tracking)",
                skew.abs(),
                if skew > 0.0 { "ahead of" } else { "behind" }
            ),
            Some(Verdict::Right) => {
                tracing::info!(skew_seconds = skew, "This machine's clock agrees with WeChat's again");
            }
            None => {}
        }
        Some(skew)
    }
}

/// The value nearest to zero of those that the skew can have.
fn skew_seconds(date: Timestamp, sent: Timestamp, received: Timestamp) -> f64 {
    let least = sent.duration_since(date).as_secs_f64() - DATE_RESOLUTION;
    let most = received.duration_since(date).as_secs_f64();
    // A clock that was set between sending and receiving may have turned the interval round.
    0.0_f64.max(least.min(most)).min(least.max(most))
}

/// What was last said of the clock.
#[derive(Default)]
struct Judgement {
    wrong: bool,
}

/// What is to be said of the clock.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Wrong,
    Right,
}

impl Judgement {
    /// Says something only when it is new.
    fn judge(&mut self, skew: f64) -> Option<Verdict> {
        match skew.abs() {
            skew if !self.wrong && skew > WRONG_BEYOND => {
                self.wrong = true;
                Some(Verdict::Wrong)
            }
            skew if self.wrong && skew < RIGHT_BELOW => {
                self.wrong = false;
                Some(Verdict::Right)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    fn moment(wall: &str, monotonic_ms: u64) -> Moment {
        Moment { wall: wall.parse().unwrap(), monotonic: Duration::from_millis(monotonic_ms) }
    }

    fn head(date: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(DATE, HeaderValue::from_static(date))])
    }

    const SECOND_45: &str = "Sun, 22 Nov 2026 07:22:45 GMT";

    fn assert_skew(sent: &str, received: &str, expected: f64) {
        let (sent, received) = (moment(sent, 0), moment(received, 100));
        let skew = ClockSkew::default().observe(&head(SECOND_45), sent, || received).unwrap();
        assert!((skew - expected).abs() < 1e-6, "{skew} is not {expected}");
    }

    #[test]
    fn a_clock_that_may_be_right_shows_no_skew() {
        assert_skew("2026-11-22T07:22:45.000Z", "2026-11-22T07:22:45.100Z", 0.0);
        assert_skew("2026-11-22T07:22:45.900Z", "2026-11-22T07:22:46.000Z", 0.0);
        assert_skew("2026-11-22T07:22:44.950Z", "2026-11-22T07:22:45.050Z", 0.0);
    }

    #[test]
    fn a_wrong_clock_shows_by_how_much_it_is_wrong_at_least() {
        assert_skew("2026-11-22T07:25:45.400Z", "2026-11-22T07:25:45.500Z", 179.4);
        assert_skew("2026-11-22T07:19:45.400Z", "2026-11-22T07:19:45.500Z", -179.5);
    }

    #[test]
    fn without_a_date_that_can_be_read_nothing_is_known() {
        let sent = moment("2026-11-22T07:22:45Z", 0);
        let unknown = |head: HeaderMap| ClockSkew::default().observe(&head, sent, || sent).is_none();
        assert!(unknown(HeaderMap::new()));
        for date in ["", "now", "1795331551", "Sun, 22 Nov 2026 07:22:99 GMT"] {
            assert!(unknown(head(date)), "{date:?}");
        }
        assert!(unknown(HeaderMap::from_iter([(DATE, HeaderValue::from_bytes(b"\xff\xfe").unwrap())])));
    }

    #[test]
    fn slow_answers_are_passed_over() {
        let (sent, received) = (moment("2026-11-22T07:30:00Z", 0), moment("2026-11-22T07:30:03Z", 3_000));
        assert_eq!(ClockSkew::default().observe(&head(SECOND_45), sent, || received), None);
    }

    #[test]
    fn answers_are_looked_at_once_a_second() {
        let skew = ClockSkew::default();
        let looks = |ms: u64| {
            let sent = Moment { monotonic: Duration::from_millis(ms), ..moment("2026-11-22T07:22:45Z", 0) };
            skew.observe(&head(SECOND_45), sent, || sent).is_some()
        };
        assert_eq!([100, 200, 999, 1_000, 1_001, 900, 3_500, 3_999].map(looks), {
            [true, false, false, true, false, false, true, false]
        });
    }

    #[test]
    fn a_wrong_clock_is_told_once_and_so_is_a_right_one() {
        let mut judgement = Judgement::default();
        let said = [0.0, 4.9, 5.1, -400.0, 4.0, 3.1, -2.9, 0.0, -5.1].map(|skew| judgement.judge(skew));
        let (wrong, right) = (Some(Verdict::Wrong), Some(Verdict::Right));
        assert_eq!(said, [None, None, wrong, None, None, None, right, None, Some(Verdict::Wrong)]);
    }

    proptest! {
        #[test]
        fn the_skew_is_never_overstated(
            skew_ms in -600_000_i64..600_000,
            made_at_ms in 0_i64..86_400_000,
            there_ms in 0_i64..1_000,
            back_ms in 0_i64..1_000,
        ) {
            let ours = |theirs: i64| Timestamp::from_millisecond(theirs + skew_ms).unwrap();
            let date = Timestamp::from_second(made_at_ms / 1_000).unwrap();
            let shown = skew_seconds(date, ours(made_at_ms - there_ms), ours(made_at_ms + back_ms));
            let (skew, open) = (skew_ms as f64 / 1_000.0, (1_000 + there_ms + back_ms) as f64 / 1_000.0);
            prop_assert!(shown.abs() <= skew.abs() + 1e-9, "{shown} for {skew}");
            prop_assert!((shown - skew).abs() <= open + 1e-9, "{shown} for {skew}");
        }
    }
}
