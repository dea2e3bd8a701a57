//! What the dispatchers of one sink in this process share: one runs for each run, and all deliver to the same receiver.
//!
//! They have one circuit breaker, so that a receiver that is down gets one attempt at a time, and one limit of concurrent attempts.
//! Counters belong to the sink and not to its dispatchers, because a sum over dispatchers would fall when one of them ends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::watch;

use super::circuit_breaker::CircuitBreaker;
use crate::{
    domain::{clock::Moment, failure_streak::FailureStreak},
    status::SinkStatus,
};

/// What the dispatchers of one sink share.
#[derive(Debug)]
pub struct SinkShare {
    pub(super) status: Arc<SinkStatus>,
    state: Mutex<ShareState>,
    /// Signals that a dispatcher that was refused an attempt may ask again.
    freed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct ShareState {
    circuit_breaker: CircuitBreaker,
    failures: FailureStreak<String>,
    in_flight: usize,
    /// Whether a dispatcher was refused an attempt since `freed` was signalled last.
    is_awaited: bool,
}

/// An attempt in flight. The next one may start when it is dropped.
#[derive(Debug)]
pub(super) struct AttemptPermit {
    share: Arc<SinkShare>,
    /// Whether it is the probe, and its outcome is not known yet.
    is_open_probe: bool,
}

/// The sinks of this process that have dispatchers, by name.
#[derive(Debug, Default)]
pub struct SinkShares(Mutex<HashMap<String, Weak<SinkShare>>>);

impl SinkShares {
    /// What the dispatchers of this sink share. A sink without dispatchers starts afresh.
    pub fn of(&self, sink: &str) -> Arc<SinkShare> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(sink).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = SinkShare::new(sink.to_owned());
        shares.insert(sink.to_owned(), Arc::downgrade(&share));
        share
    }
}

impl SinkShare {
    /// A sink that nothing was delivered to yet.
    pub fn new(sink: String) -> Arc<Self> {
        let (freed, _) = watch::channel(());
        Arc::new(Self { status: Arc::new(SinkStatus::new(sink)), state: Mutex::default(), freed })
    }

    /// Starts an attempt with what `select` returns, unless the circuit breaker or the limit forbids it or `select` returns nothing.
    pub(super) fn start_attempt<T>(
        self: &Arc<Self>,
        now: Duration,
        max_in_flight: usize,
        select: impl FnOnce() -> Option<T>,
    ) -> Option<(AttemptPermit, T)> {
        let mut state = self.lock();
        if !state.circuit_breaker.allows_attempt(now, state.in_flight, max_in_flight) {
            state.is_awaited = true;
            return None;
        }
        let selected = select()?;
        state.circuit_breaker.attempt_started();
        state.in_flight += 1;
        let is_open_probe = state.circuit_breaker.is_probing();
        Some((AttemptPermit { share: Arc::clone(self), is_open_probe }, selected))
    }

    /// How long the circuit breaker stays open.
    pub(super) fn wait(&self, now: Duration) -> Option<Duration> {
        self.lock().circuit_breaker.wait(now)
    }

    /// Changes the circuit breaker.
    pub(super) fn update(&self, change: impl FnOnce(&mut CircuitBreaker)) {
        change(&mut self.lock().circuit_breaker);
    }

    /// Forgets all failures, because other options or an operator have ended their cause.
    pub(super) fn forget_failures(&self) {
        let mut state = self.lock();
        (state.circuit_breaker, state.failures) = (CircuitBreaker::default(), FailureStreak::default());
        self.signal(&mut state);
    }

    /// Records a failure of the sink as a whole. Returns whether it is news.
    pub(super) fn is_news(&self, reason: &str, now: Moment) -> bool {
        self.lock().failures.failed(reason.to_owned(), now)
    }

    /// Records that the sink works. Returns how many failures that ended, if any.
    pub(super) fn recovered(&self, started_at: Moment) -> Option<u64> {
        self.lock().failures.succeeded(started_at).map(|recovery| recovery.failures)
    }

    /// Signals when an attempt that was refused may be allowed, other than by the passing of time.
    pub(super) fn freed(&self) -> watch::Receiver<()> {
        self.freed.subscribe()
    }

    fn signal(&self, state: &mut ShareState) {
        if std::mem::take(&mut state.is_awaited) {
            self.freed.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, ShareState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AttemptPermit {
    /// Records that the attempt has finished. The circuit breaker hears of its outcome.
    pub(super) fn finish(&mut self) {
        self.is_open_probe = false;
    }
}

impl Drop for AttemptPermit {
    fn drop(&mut self) {
        let mut state = self.share.lock();
        state.in_flight -= 1;
        if self.is_open_probe {
            // Its dispatcher was aborted. Another one may probe.
            state.circuit_breaker.attempt_skipped();
        }
        self.share.signal(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_secs(1);

    fn start(share: &Arc<SinkShare>, now: Duration) -> Option<AttemptPermit> {
        share.start_attempt(now, 2, || Some(())).map(|(permit, ())| permit)
    }

    #[test]
    fn dispatchers_share_limit_and_hear_when_there_is_room() {
        let share = SinkShare::new("crm".to_owned());
        let mut freed = share.freed();
        let first = start(&share, AT);
        assert!(first.is_some() && share.start_attempt(AT, 2, || None::<()>).is_none());
        let second = start(&share, AT);
        assert!(second.is_some());
        drop(second);
        assert!(!freed.has_changed().unwrap(), "nobody was refused");
        let second = start(&share, AT);
        assert!(start(&share, AT).is_none());
        drop(first);
        assert!(freed.has_changed().unwrap());
        freed.mark_unchanged();
        assert!(second.is_some() && start(&share, AT).is_some());
    }

    #[test]
    fn receiver_that_is_down_gets_one_attempt_at_a_time() {
        let share = SinkShare::new("crm".to_owned());
        share.update(|circuit_breaker| circuit_breaker.record_failure(AT, AT, None, 0.0));
        assert!(start(&share, AT).is_none());
        let later = AT + share.wait(AT).unwrap();
        let freed = share.freed();
        let probe = start(&share, later);
        assert!(probe.is_some() && start(&share, later).is_none());
        share.update(|circuit_breaker| circuit_breaker.record_response(later));
        drop(probe);
        assert!(freed.has_changed().unwrap() && start(&share, later).is_some());
    }

    #[test]
    fn aborted_probe_lets_another_dispatcher_probe() {
        let share = SinkShare::new("crm".to_owned());
        share.update(|circuit_breaker| circuit_breaker.record_failure(AT, AT, None, 0.0));
        let later = AT + share.wait(AT).unwrap();
        let probe = start(&share, later);
        assert!(start(&share, later).is_none());
        drop(probe);
        let second = start(&share, later);
        assert!(second.is_some() && start(&share, later).is_none());
    }

    #[test]
    fn sink_without_dispatchers_starts_afresh() {
        let shares = SinkShares::default();
        let share = shares.of("crm");
        share.status.count_failed_attempt();
        assert_eq!(shares.of("crm").status.failed_attempts(), 1);
        drop(share);
        assert_eq!(shares.of("crm").status.failed_attempts(), 0);
    }
}
