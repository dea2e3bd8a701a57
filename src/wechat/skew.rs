//! Measures how far this machine's clock differs from WeChat's, by the `Date` of its answers.
//!
//! An answer with `Date` second D was made between D and D + 1 on WeChat's clock, and between sending and receiving on
//! ours. So the skew is between the values that the earliest and the latest of these moments give. The value in this
//! interval that is nearest to zero is used: a correct clock shows exactly 0, and the skew is never overstated, but it can
//! be understated by up to half a second plus half the round trip. One answer a second is evaluated.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use reqwest::header::{DATE, HeaderMap};

use crate::domain::clock::Moment;

/// The resolution of `Date`, in seconds.
const DATE_RESOLUTION: f64 = 1.0;

/// Slower answers are ignored, because they leave too wide an interval.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(2);

/// Above this skew, in seconds, the clock is reported as wrong.
const WRONG_ABOVE: f64 = 5.0;

/// Below this skew, in seconds, the clock is reported as right again.
const RIGHT_BELOW: f64 = 3.0;

/// Measures the skew, and logs when the clock becomes wrong or right.
#[derive(Default)]
pub(super) struct ClockSkew {
    /// The next second of the monotonic clock in which an answer is evaluated.
    next_second: AtomicU64,
    state: Mutex<SkewState>,
}

impl ClockSkew {
    /// Evaluates the head of an answer if that is due. Returns the skew in seconds, positive if our clock is ahead.
    pub(super) fn observe(
        &self,
        head: &HeaderMap,
        sent_at: Moment,
        now: impl FnOnce() -> Moment,
    ) -> Option<f64> {
        let second = sent_at.monotonic.as_secs();
        let next_second = self.next_second.load(Ordering::Relaxed);
        if second < next_second {
            return None;
        }
        // If another answer is being evaluated at the same moment, one of them is enough.
        self.next_second
            .compare_exchange(next_second, second + 1, Ordering::Relaxed, Ordering::Relaxed)
            .ok()?;
        let date = jiff::fmt::rfc2822::parse(head.get(DATE)?.to_str().ok()?).ok()?.timestamp();
        let received_at = now();
        if received_at.since(&sent_at) > MAX_ROUND_TRIP {
            return None;
        }
        let skew = skew_seconds(date, sent_at.wall, received_at.wall);
        let change = self.state().record(skew);
        match change {
            Some(true) => tracing::warn!(
                skew_seconds = skew,
                "This machine's clock is {:.0} s {} WeChat's: times in events and metrics are wrong by that much; let \
                 NTP set it (timedatectl status, chronyc tracking)",
                skew.abs(),
                if skew > 0.0 { "ahead of" } else { "behind" }
            ),
            Some(false) => {
                tracing::info!(skew_seconds = skew, "This machine's clock agrees with WeChat's again");
            }
            None => {}
        }
        Some(skew)
    }

    /// The last measured skew in seconds, and whether the clock counts as wrong.
    pub(super) fn last(&self) -> Option<(f64, bool)> {
        let state = self.state();
        Some((state.last?, state.is_wrong))
    }

    fn state(&self) -> MutexGuard<'_, SkewState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The possible skew that is nearest to zero.
fn skew_seconds(date: Timestamp, sent: Timestamp, received: Timestamp) -> f64 {
    let least = sent.duration_since(date).as_secs_f64() - DATE_RESOLUTION;
    let most = received.duration_since(date).as_secs_f64();
    // If the clock was set between sending and receiving, the interval may be reversed.
    0.0_f64.max(least.min(most)).min(least.max(most))
}

#[derive(Default)]
struct SkewState {
    last: Option<f64>,
    is_wrong: bool,
}

impl SkewState {
    /// Returns whether the clock is wrong now, if that has changed.
    fn record(&mut self, skew: f64) -> Option<bool> {
        self.last = Some(skew);
        let limit = if self.is_wrong { RIGHT_BELOW } else { WRONG_ABOVE };
        let was_wrong = std::mem::replace(&mut self.is_wrong, skew.abs() >= limit);
        (self.is_wrong != was_wrong).then_some(self.is_wrong)
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
    fn possibly_correct_clock_has_no_skew() {
        assert_skew("2026-11-22T07:22:45.000Z", "2026-11-22T07:22:45.100Z", 0.0);
        assert_skew("2026-11-22T07:22:45.900Z", "2026-11-22T07:22:46.000Z", 0.0);
        assert_skew("2026-11-22T07:22:44.950Z", "2026-11-22T07:22:45.050Z", 0.0);
    }

    #[test]
    fn wrong_clock_has_its_minimum_skew() {
        assert_skew("2026-11-22T07:25:45.400Z", "2026-11-22T07:25:45.500Z", 179.4);
        assert_skew("2026-11-22T07:19:45.400Z", "2026-11-22T07:19:45.500Z", -179.5);
    }

    #[test]
    fn skew_is_unknown_without_readable_date() {
        let sent = moment("2026-11-22T07:22:45Z", 0);
        let unknown = |head: HeaderMap| ClockSkew::default().observe(&head, sent, || sent).is_none();
        assert!(unknown(HeaderMap::new()));
        for date in ["", "now", "1795331551", "Sun, 22 Nov 2026 07:22:99 GMT"] {
            assert!(unknown(head(date)), "{date:?}");
        }
        assert!(unknown(HeaderMap::from_iter([(DATE, HeaderValue::from_bytes(b"\xff\xfe").unwrap())])));
    }

    #[test]
    fn slow_answers_are_ignored() {
        let (sent, received) = (moment("2026-11-22T07:30:00Z", 0), moment("2026-11-22T07:30:03Z", 3_000));
        assert_eq!(ClockSkew::default().observe(&head(SECOND_45), sent, || received), None);
    }

    #[test]
    fn one_answer_a_second_is_evaluated() {
        let skew = ClockSkew::default();
        let evaluated = |ms: u64| {
            let sent = Moment { monotonic: Duration::from_millis(ms), ..moment("2026-11-22T07:22:45Z", 0) };
            skew.observe(&head(SECOND_45), sent, || sent).is_some()
        };
        assert_eq!([100, 200, 999, 1_000, 1_001, 900, 3_500, 3_999].map(evaluated), {
            [true, false, false, true, false, false, true, false]
        });
    }

    #[test]
    fn change_to_wrong_and_to_right_is_reported_once() {
        let mut state = SkewState::default();
        let changes = [0.0, 4.9, 5.1, -400.0, 4.0, 3.1, -2.9, 0.0, -5.1].map(|skew| state.record(skew));
        assert_eq!(changes, [None, None, Some(true), None, None, None, Some(false), None, Some(true)]);
    }

    proptest! {
        #[test]
        fn skew_is_never_overstated(
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
