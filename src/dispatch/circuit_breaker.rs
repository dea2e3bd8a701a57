//! The circuit breaker of a sink: backs off after failures of the sink as a whole.
//!
//! Closed, it lets attempts start side by side. A failure opens it for the backoff. Then it is half-open: one attempt at a
//! time, the probe, finds out whether the sink has recovered.
//!
//! When a sink fails, all attempts in flight fail, perhaps long after each other (each at its own time-out), but that is one
//! failure. So an attempt counts only if it started after the last failure that counted. Pure: the time is an argument.

use std::time::Duration;

use super::backoff::{LONGEST_SINK_BACKOFF, SINK_BACKOFF};

/// Consecutive failures of a sink as a whole.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker {
    failures: u32,
    /// When the last failure that counted became known.
    failed_at: Option<Duration>,
    /// When the backoff ends.
    retry_at: Option<Duration>,
    /// Whether the probe is in flight.
    is_probing: bool,
}

impl CircuitBreaker {
    /// How long the circuit breaker stays open.
    pub(super) fn wait(&self, now: Duration) -> Option<Duration> {
        self.retry_at.and_then(|retry_at| retry_at.checked_sub(now)).filter(|wait| !wait.is_zero())
    }

    /// Whether another attempt may start.
    pub(super) fn allows_attempt(&self, now: Duration, in_flight: usize, max_in_flight: usize) -> bool {
        in_flight < max_in_flight && self.wait(now).is_none() && !self.is_probing
    }

    /// Records that an attempt starts.
    pub(super) fn attempt_started(&mut self) {
        self.is_probing = self.failures > 0;
    }

    /// Whether a probe is in flight.
    pub(super) fn is_probing(&self) -> bool {
        self.is_probing
    }

    /// Records that an attempt has failed. `retry_after` is the wait that the sink asked for. `jitter` is from 0 to 1.
    pub(super) fn record_failure(
        &mut self,
        started_at: Duration,
        now: Duration,
        retry_after: Option<Duration>,
        jitter: f64,
    ) {
        let is_late = self.is_late(started_at);
        if is_late && retry_after.is_none() {
            return;
        }
        if !is_late {
            self.failures = self.failures.saturating_add(1);
            self.failed_at = Some(now);
            self.is_probing = false;
        }
        let own = SINK_BACKOFF.wait(self.failures, jitter);
        let wait = retry_after.map_or(own, |asked| asked.clamp(own, LONGEST_SINK_BACKOFF));
        self.retry_at = self.retry_at.max(Some(now + wait));
    }

    /// Records that an attempt got a response, so that the sink works.
    pub(super) fn record_response(&mut self, started_at: Duration) {
        if !self.is_late(started_at) {
            *self = Self { failed_at: self.failed_at, ..Self::default() };
        }
    }

    /// Records that an attempt sent nothing. That says nothing about the sink, so the next attempt is the probe.
    pub(super) fn attempt_skipped(&mut self) {
        self.is_probing = false;
    }

    /// Lets no attempt start until then: the sink works, and wants a pause.
    pub(super) fn pause(&mut self, until: Duration) {
        self.retry_at = self.retry_at.max(Some(until));
    }

    /// Whether an attempt was already in flight at the last failure. Its outcome says nothing about the sink now.
    fn is_late(&self, started_at: Duration) -> bool {
        self.failed_at.is_some_and(|failed_at| started_at <= failed_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn attempts_in_flight_together_are_one_failure() {
        let mut circuit_breaker = CircuitBreaker::default();
        circuit_breaker.record_failure(ms(10), ms(100), None, 0.0);
        for late in [100, 300, 15_000] {
            circuit_breaker.record_failure(ms(20), ms(late), None, 0.0);
        }
        assert_eq!(circuit_breaker.wait(ms(100)), Some(ms(500)));
        assert!(circuit_breaker.allows_attempt(ms(600), 7, 8));
        circuit_breaker.attempt_started();
        circuit_breaker.record_failure(ms(601), ms(700), None, 0.0);
        assert_eq!(circuit_breaker.wait(ms(700)), Some(ms(1000)), "this attempt started after the failure");
    }

    #[test]
    fn one_probe_closes_circuit_breaker() {
        let mut circuit_breaker = CircuitBreaker::default();
        assert!(circuit_breaker.allows_attempt(ms(0), 7, 8));
        assert!(!circuit_breaker.allows_attempt(ms(0), 8, 8));
        circuit_breaker.record_failure(ms(0), ms(1), None, 0.0);
        assert!(!circuit_breaker.allows_attempt(ms(500), 0, 8));
        assert!(circuit_breaker.allows_attempt(ms(501), 3, 8), "hanging attempts do not prevent the probe");
        circuit_breaker.attempt_started();
        assert!(!circuit_breaker.allows_attempt(ms(502), 1, 8));
        circuit_breaker.record_response(ms(0));
        assert!(
            !circuit_breaker.allows_attempt(ms(502), 1, 8),
            "a response to an attempt from before the failure does not count"
        );
        circuit_breaker.record_response(ms(501));
        circuit_breaker.record_failure(ms(0), ms(502), None, 0.0);
        assert!(circuit_breaker.allows_attempt(ms(502), 7, 8), "nor does its time-out");
        circuit_breaker.record_failure(ms(502), ms(503), None, 0.0);
        assert_eq!(circuit_breaker.wait(ms(503)), Some(ms(500)), "the backoff starts afresh");
    }

    #[test]
    fn retry_after_is_limited() {
        for (asked, expected) in [(0, 500), (100, 500), (7_000, 7_000), (86_400_000, 60_000)] {
            let mut circuit_breaker = CircuitBreaker::default();
            circuit_breaker.record_failure(ms(0), ms(1), Some(ms(asked)), 0.0);
            assert_eq!(circuit_breaker.wait(ms(1)), Some(ms(expected)), "{asked}");
        }
        let mut circuit_breaker = CircuitBreaker::default();
        circuit_breaker.record_failure(ms(1), ms(2), None, 0.0);
        circuit_breaker.record_failure(ms(1), ms(3), Some(ms(20_000)), 0.0);
        assert_eq!(circuit_breaker.wait(ms(3)), Some(ms(20_000)), "a late response may ask for it");
        circuit_breaker.record_failure(ms(1), ms(4), Some(ms(1)), 0.0);
        assert_eq!(circuit_breaker.wait(ms(3)), Some(ms(20_000)), "it is never shortened");
    }
}
