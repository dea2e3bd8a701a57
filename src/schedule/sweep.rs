//! All polls of one tick.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use crate::{
    domain::{
        account::AccountState,
        clock::{Clock, Moment},
    },
    metrics::Metrics,
    poll::OfficialAccount,
    status::AccountView,
};

/// All polls of one tick. It ends, and its duration is recorded, when the last of them drops it.
pub struct Sweep {
    started: Moment,
    /// When the next tick is due.
    pub next_due: Option<Timestamp>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    /// The official accounts of the first sweep, whose result is logged.
    first_of: Option<Vec<Arc<OfficialAccount>>>,
}

impl Sweep {
    /// A sweep that starts now.
    pub fn start(metrics: &Arc<Metrics>, clock: &Arc<dyn Clock>, next_due: Option<Timestamp>) -> Arc<Self> {
        Arc::new(Self::new(metrics, clock, next_due))
    }

    /// The first sweep of a schedule for these official accounts. Its result is logged, so that a person sees that polls work.
    pub(super) fn start_first(
        metrics: &Arc<Metrics>,
        clock: &Arc<dyn Clock>,
        next_due: Option<Timestamp>,
        official_accounts: Vec<Arc<OfficialAccount>>,
    ) -> Arc<Self> {
        let mut sweep = Self::new(metrics, clock, next_due);
        sweep.first_of = Some(official_accounts);
        Arc::new(sweep)
    }

    fn new(metrics: &Arc<Metrics>, clock: &Arc<dyn Clock>, next_due: Option<Timestamp>) -> Self {
        let (metrics, clock) = (Arc::clone(metrics), Arc::clone(clock));
        Self { started: clock.now(), next_due, metrics, clock, first_of: None }
    }

    pub(super) fn started(&self) -> Moment {
        self.started
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.metrics.swept(self.clock.now().since(&self.started));
        if let Some(official_accounts) = &self.first_of {
            FirstPolls::of(official_accounts).log();
        }
    }
}

/// The result of the first poll of each kf account of a schedule.
#[derive(Default)]
struct FirstPolls {
    kf_accounts: u64,
    succeeded: u64,
    sessions: u64,
    /// The number of failures by the code of the failure, as in metrics.
    failures: BTreeMap<&'static str, u64>,
    not_polled: u64,
}

impl FirstPolls {
    fn of(official_accounts: &[Arc<OfficialAccount>]) -> Self {
        let mut polls = Self::default();
        for official_account in official_accounts {
            let mut views = Vec::new();
            official_account.status.for_each_view(|_, view| views.push(view.clone()));
            polls.add(&views);
        }
        polls
    }

    /// Adds the kf accounts of an official account.
    fn add(&mut self, views: &[AccountView]) {
        // A failure that concerns the official account makes its other kf accounts back off before they were called.
        let concerns_all =
            |view: &&AccountView| !matches!(view.state, AccountState::Unbound | AccountState::Invalid);
        let of_all = views.iter().filter(concerns_all).find_map(|view| view.failing_with);
        for view in views {
            self.kf_accounts += 1;
            match view.up {
                Some(true) => {
                    self.succeeded += 1;
                    self.sessions += u64::from(view.sessions.unwrap_or(0));
                }
                Some(false) => {
                    *self.failures.entry(view.failing_with.or(of_all).unwrap_or("backoff")).or_default() += 1;
                }
                None => self.not_polled += 1,
            }
        }
    }

    fn log(&self) {
        let Self { kf_accounts, succeeded, sessions, failures, not_polled } = self;
        let causes: Vec<String> =
            failures.iter().map(|(cause, count)| format!("{cause} ({count})")).collect();
        let causes =
            if causes.is_empty() { String::new() } else { format!(", failures: {}", causes.join(", ")) };
        tracing::info!(
            kf_accounts,
            succeeded,
            sessions,
            failures = failures.values().sum::<u64>(),
            not_polled,
            "First polls finished: {succeeded} of {kf_accounts} kf accounts succeeded, open sessions: {sessions}{causes}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_polls_are_counted_by_result() {
        let view =
            |up, sessions, failing_with| AccountView { up, sessions, failing_with, ..AccountView::default() };
        let mut polls = FirstPolls::default();
        polls.add(&[
            view(Some(true), Some(3), None),
            view(Some(true), Some(0), None),
            view(Some(false), None, Some("65402")),
            // Restored from the store.
            view(Some(false), Some(2), Some("65402")),
            view(None, None, None),
        ]);
        assert_eq!((polls.kf_accounts, polls.succeeded, polls.sessions, polls.not_polled), (5, 2, 3, 1));
        // The AppSecret is wrong: the second one was not called.
        polls.add(&[view(Some(false), None, Some("40125")), view(Some(false), None, None)]);
        polls.add(&[view(Some(false), None, None)]);
        assert_eq!(polls.failures, [("40125", 2), ("65402", 2), ("backoff", 1)].into());
    }
}
