//! Polls kf accounts and commits what changes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{
    backoff::{cause, conclusion},
    commits::CommitCounter,
    fetch::SessionFetcher,
    guard::PollGuard,
    official_account::OfficialAccount,
    outcome::PollOutcome,
    poll_log::{News, PollLog},
    report, transfers,
};
use crate::{
    domain::{
        account::AccountState,
        backoff::BackoffPolicy,
        clock::{Clock, Moment},
        error_class::Scope,
        event::{Change, EventType, duration_bounds, is_duration_known},
        failure_reason::FailureReason,
        failure_streak::FailureStreak,
        lease::Lease,
        progress::WorkProgress,
        tracker::{FailureCause, TrackerUpdate},
    },
    metrics::Metrics,
    status::WatchedAccount,
    store::{AccountRecord, PollCommit, Store, StoreError},
    wechat::error::CallFailure,
};

/// Polls the accounts of poll guards, and commits what changes.
pub struct Poller {
    pub(super) store: Store,
    pub(super) lease: Arc<Lease>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
    limits: ArcSwap<PollLimits>,
    fetcher: SessionFetcher,
    commit_failures: Mutex<FailureStreak<report::StoreReason>>,
    commits: CommitCounter,
    pub(super) log: Arc<PollLog>,
}

/// The times that bound polls.
#[derive(Clone, Copy, Debug)]
pub struct PollLimits {
    /// The longest time for one fetch, with token fetches and retries.
    pub deadline: Duration,
    /// How long failures last before the account counts as blind.
    pub blind_after: Duration,
    /// How long failures back off.
    pub backoff_policy: BackoffPolicy,
}

impl Poller {
    /// A poller that commits to `store`.
    pub fn new(store: Store, metrics: Arc<Metrics>, clock: Arc<dyn Clock>, limits: PollLimits) -> Self {
        let fetcher = SessionFetcher::new(Arc::clone(&clock), limits.deadline, limits.backoff_policy);
        let (commit_failures, commits) = (Mutex::default(), CommitCounter::default());
        let (limits, lease) = (ArcSwap::from_pointee(limits), store.lease());
        Self { store, lease, metrics, clock, limits, fetcher, commit_failures, commits, log: Arc::default() }
    }

    /// Logs polls there.
    pub fn with_log(self, log: Arc<PollLog>) -> Self {
        Self { log, ..self }
    }

    /// The log of the polls. News wait there for [`PollLog::flush`].
    pub fn log(&self) -> &PollLog {
        &self.log
    }

    /// Sets the limits of later polls and collections. Backoffs that run keep their end.
    pub fn set_limits(&self, limits: PollLimits) {
        self.fetcher.set_limits(limits.deadline, limits.backoff_policy);
        self.limits.store(Arc::new(limits));
    }

    pub(super) fn limits(&self) -> PollLimits {
        **self.limits.load()
    }

    /// Polls the guarded account once, unless it backs off.
    pub async fn poll(&self, guard: &PollGuard) -> PollOutcome {
        let started_at = self.clock.now();
        if !self.lease.is_trusted(started_at) {
            return PollOutcome::Untrusted;
        }
        let outcome = match guard.official_account().active_backoff(guard.account(), started_at) {
            Some(backoff) => self.skip(guard.account(), backoff.cause, started_at).await,
            None => self.fetch_and_commit(guard).await,
        };
        self.record_outcome(guard, &outcome);
        report::log_outcome(&self.log, guard, &outcome, (started_at, || self.clock.now()));
        outcome
    }

    /// Records a poll that panicked.
    pub fn record_panic(&self, guard: &PollGuard) {
        let (account, now) = (guard.account(), self.clock.now());
        let mut data = account.lock();
        data.complete_tick(guard.official_account().status.ticks());
        data.counters.polls += 1;
        data.counters.failures += 1;
        data.up = Some(false);
        data.failing_with = Some("panic");
        let is_news = data.failure_streak.failed(FailureReason::PANIC, now);
        drop(data);
        if is_news {
            tracing::error!(account = %account.account(), "Poll panicked: this is a bug in kfwatch, please report it");
        }
    }

    /// The progress of commits, for the watchdog.
    pub fn commit_progress(&self) -> WorkProgress {
        self.commits.work()
    }

    /// The longest time that a poll for this official account may take for its calls.
    pub fn deadline(&self, official_account: &OfficialAccount) -> Duration {
        self.fetcher.deadline(official_account)
    }

    /// Skips a poll that backs off. It still counts as a failure to see the account, which may make it blind, unless the
    /// backoff follows a conclusive answer about the kf account.
    async fn skip(&self, account: &WatchedAccount, cause: FailureCause, now: Moment) -> PollOutcome {
        let update = {
            let data = account.lock();
            let own = data.backoff.as_deref().filter(|own| own.is_active_at(now));
            if own.is_some_and(|own| conclusion(own.backoff.class).is_some()) {
                return PollOutcome::BackedOff;
            }
            data.tracker.after_failure(now, self.limits().blind_after, cause)
        };
        if let Err(error) = self.commit(account, update).await {
            // The next tick tries again. Nothing was called, so no poll has failed.
            tracing::debug!(account = %account.account(), "Blind state not stored: {error}");
        }
        PollOutcome::BackedOff
    }

    async fn fetch_and_commit(&self, guard: &PollGuard) -> PollOutcome {
        let account = guard.account();
        let (update, failure) = match self.fetcher.fetch(guard).await {
            Ok(mut update) => {
                transfers::set_origins(guard.official_account(), account, &mut update);
                (update, None)
            }
            Err(failure) => (self.after_failure(account, &failure), Some(failure)),
        };
        match (self.commit(account, update).await, failure) {
            (Err(error), _) => PollOutcome::NotStored(error),
            (Ok(()), Some(failure)) => PollOutcome::Failed(failure),
            (Ok(()), None) => PollOutcome::Succeeded,
        }
    }

    fn after_failure(&self, account: &WatchedAccount, failure: &CallFailure) -> TrackerUpdate {
        let (now, data) = (self.clock.now(), account.lock());
        match conclusion(failure.class) {
            Some(conclusion) => {
                let update = data.tracker.after_conclusion(conclusion, now, cause(failure));
                update.with_binding(data.agent.binding)
            }
            None => data.tracker.after_failure(now, self.limits().blind_after, cause(failure)),
        }
    }

    /// Stores the update if it must be stored, and only then applies it.
    pub(super) async fn commit(
        &self,
        account: &WatchedAccount,
        mut update: TrackerUpdate,
    ) -> Result<(), StoreError> {
        let changes = std::mem::take(&mut update.changes);
        let counts = ChangeCounts::new(&changes);
        if update.must_commit {
            let record = AccountRecord::after(&update);
            let commit = PollCommit { id: account.id(), account: account.account().clone(), changes, record };
            let started_at = self.clock.now();
            let running = self.commits.begin();
            let committed = self.store.commit_poll(commit).await;
            drop(running);
            let now = self.clock.now();
            report::log_commit(&self.commit_failures, committed.as_ref().err(), started_at, now);
            committed?;
            self.metrics.committed(now.since(&started_at));
        }
        counts.record(&self.metrics);
        let to = update.condition.state;
        let mut data = account.lock();
        let from = data.tracker.condition.state;
        data.apply(update);
        data.counters.started += counts.started;
        data.counters.ended += counts.ended.len() as u32;
        drop(data);
        if from != to && to == AccountState::Blind {
            self.log.add(Scope::KfAccount, account.account(), News::Blind);
        }
        Ok(())
    }

    fn record_outcome(&self, guard: &PollGuard, outcome: &PollOutcome) {
        let mut data = guard.account().lock();
        data.complete_tick(guard.official_account().status.ticks());
        data.up = Some(matches!(outcome, PollOutcome::Succeeded));
        let code = match outcome {
            PollOutcome::Succeeded => None,
            // The code of the failure that started the backoff stays.
            PollOutcome::BackedOff | PollOutcome::Untrusted => return,
            PollOutcome::Failed(failure) => Some(failure.error.code()),
            PollOutcome::NotStored(_) => Some("store"),
        };
        data.counters.polls += 1;
        data.counters.failures += u32::from(code.is_some());
        data.failing_with = code;
    }
}

/// What the changes of one poll add to the counters.
struct ChangeCounts {
    started: u32,
    /// The bounds in seconds of the duration of each session that ended, if they are known.
    ended: Vec<(i64, i64)>,
    events: [(EventType, u64); 3],
}

impl ChangeCounts {
    fn new(changes: &[Change]) -> Self {
        let mut counts = Self { started: 0, ended: Vec::new(), events: EventType::ALL.map(|kind| (kind, 0)) };
        for change in changes {
            match change {
                Change::SessionStarted { baseline, .. } => counts.started += u32::from(!baseline),
                Change::SessionEnded { session, ended_between, .. }
                    if is_duration_known(session.createtime, *ended_between) =>
                {
                    let bounds = duration_bounds(session.createtime, *ended_between);
                    counts.ended.push((bounds.min, bounds.max));
                }
                Change::SessionEnded { .. } | Change::StateChanged { .. } => {}
            }
            for (kind, count) in &mut counts.events {
                *count += u64::from(*kind == change.event_type());
            }
        }
        counts
    }

    fn record(&self, metrics: &Metrics) {
        for &(min, max) in &self.ended {
            metrics.session_ended(min, max);
        }
        // Most polls change nothing, and each counter must be looked up by its label.
        for (kind, count) in self.events.into_iter().filter(|(_, count)| *count > 0) {
            metrics.events_committed(kind, count);
        }
    }
}
