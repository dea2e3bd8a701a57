//! Whether a sink is there at all: how often it failed as a whole, and until when it is left alone.
//!
//! When a sink goes, all attempts that were under way fail, perhaps long after each other (each at its own time-out), and
//! it went once. So an attempt counts only if it began after the last failure that counted; and while failures last, one
//! attempt at a time shows whether the sink is back. Pure: the time is an argument.

use std::time::Duration;

/// The first wait after a failed attempt.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest wait after failed attempts, whatever the sink asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The failures of a sink as a whole, one after the other.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker {
    failures: u32,
    /// When the last failure that counted was known.
    failed_at: Option<Duration>,
    /// No attempt begins before.
    resume_at: Option<Duration>,
    /// Whether the attempt is under way that shows whether the sink is back.
    probing: bool,
}

impl CircuitBreaker {
    /// How long no attempt may begin.
    pub(super) fn wait(&self, now: Duration) -> Option<Duration> {
        self.resume_at.and_then(|resume_at| resume_at.checked_sub(now)).filter(|wait| !wait.is_zero())
    }

    /// Whether an attempt may begin beside so many, of which `most` may be under way.
    pub(super) fn lets_begin(&self, now: Duration, under_way: usize, most: usize) -> bool {
        under_way < most && self.wait(now).is_none() && !self.probing
    }

    /// An attempt begins.
    pub(super) fn begin(&mut self) {
        self.probing = self.failures > 0;
    }

    /// An attempt that began at `begun` has failed, and may have been told how long to wait. `jitter` is from 0 to 1.
    pub(super) fn failed(&mut self, begun: Duration, now: Duration, told: Option<Duration>, jitter: f64) {
        let is_late = self.is_late(begun);
        if is_late && told.is_none() {
            return;
        }
        if !is_late {
            self.failures = self.failures.saturating_add(1);
            self.failed_at = Some(now);
            self.probing = false;
        }
        let own = wait_after(self.failures, jitter);
        let wait = told.map_or(own, |told| told.clamp(own, LONGEST_WAIT.max(own)));
        self.resume_at = self.resume_at.max(Some(now + wait));
    }

    /// An attempt that began at `begun` has shown that the sink is there.
    pub(super) fn answered(&mut self, begun: Duration) {
        if !self.is_late(begun) {
            *self = Self { failed_at: self.failed_at, ..Self::default() };
        }
    }

    /// Whether the attempt was under way already when the sink was found to be gone, be it back by now or not.
    fn is_late(&self, begun: Duration) -> bool {
        self.failed_at.is_some_and(|failed_at| begun <= failed_at)
    }
}

/// Doubles from failure to failure, shortened by up to a fifth.
pub(super) fn wait_after(failures: u32, jitter: f64) -> Duration {
    let wait = FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_WAIT);
    wait.mul_f64(1.0 - 0.2 * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn waits_grow_to_a_cap() {
        let waits = [1, 2, 3, 8, 9, 100].map(|failures| wait_after(failures, 0.0).as_millis());
        assert_eq!(waits, [500, 1000, 2000, 60_000, 60_000, 60_000]);
        assert!(wait_after(1, 1.0) >= ms(400));
    }

    #[test]
    fn attempts_that_were_under_way_together_are_one_failure_however_late_they_end() {
        let mut circuit_breaker = CircuitBreaker::default();
        circuit_breaker.failed(ms(10), ms(100), None, 0.0);
        for late in [100, 300, 15_000] {
            circuit_breaker.failed(ms(20), ms(late), None, 0.0);
        }
        assert_eq!(circuit_breaker.wait(ms(100)), Some(ms(500)));
        assert!(circuit_breaker.lets_begin(ms(600), 7, 8));
        circuit_breaker.begin();
        circuit_breaker.failed(ms(601), ms(700), None, 0.0);
        assert_eq!(circuit_breaker.wait(ms(700)), Some(ms(1000)), "this one tried again");
    }

    #[test]
    fn one_attempt_shows_whether_the_sink_is_back_and_then_all_go_on() {
        let mut circuit_breaker = CircuitBreaker::default();
        assert!(circuit_breaker.lets_begin(ms(0), 7, 8));
        assert!(!circuit_breaker.lets_begin(ms(0), 8, 8));
        circuit_breaker.failed(ms(0), ms(1), None, 0.0);
        assert!(!circuit_breaker.lets_begin(ms(500), 0, 8));
        assert!(
            circuit_breaker.lets_begin(ms(501), 3, 8),
            "hanging attempts do not keep it from being tried"
        );
        circuit_breaker.begin();
        assert!(!circuit_breaker.lets_begin(ms(502), 1, 8));
        circuit_breaker.answered(ms(0));
        assert!(
            !circuit_breaker.lets_begin(ms(502), 1, 8),
            "an answer from before the failure shows nothing"
        );
        circuit_breaker.answered(ms(501));
        circuit_breaker.failed(ms(0), ms(502), None, 0.0);
        assert!(circuit_breaker.lets_begin(ms(502), 7, 8), "nor does a time-out from before");
        circuit_breaker.failed(ms(502), ms(503), None, 0.0);
        assert_eq!(circuit_breaker.wait(ms(503)), Some(ms(500)), "waits begin anew");
    }

    #[test]
    fn a_wait_that_the_sink_asks_for_is_kept_within_limits() {
        for (told, expected) in [(0, 500), (100, 500), (7_000, 7_000), (86_400_000, 60_000)] {
            let mut circuit_breaker = CircuitBreaker::default();
            circuit_breaker.failed(ms(0), ms(1), Some(ms(told)), 0.0);
            assert_eq!(circuit_breaker.wait(ms(1)), Some(ms(expected)), "{told}");
        }
        let mut circuit_breaker = CircuitBreaker::default();
        circuit_breaker.failed(ms(1), ms(2), None, 0.0);
        circuit_breaker.failed(ms(1), ms(3), Some(ms(20_000)), 0.0);
        assert_eq!(circuit_breaker.wait(ms(3)), Some(ms(20_000)), "also when a late answer asks for it");
        circuit_breaker.failed(ms(1), ms(4), Some(ms(1)), 0.0);
        assert_eq!(circuit_breaker.wait(ms(3)), Some(ms(20_000)), "and never shortened");
    }
}
