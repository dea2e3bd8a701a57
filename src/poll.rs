//! One poll: ask for the sessions of one kf account, compare the answer, commit the difference.
//!
//! The schedule, a person's command and the first poll after a restart all come through here. An account can only be
//! polled by whoever holds its [`PollGuard`], so that it never has two polls in flight. A failure holds back what failed
//! ([`crate::domain::backoff`]); a poll that is held back asks nothing, but still counts towards `blind`, unless what
//! holds it back was a conclusive answer about the kf account. Nothing takes effect before the store has committed it: when
//! the store fails, the snapshot stands still and the next poll finds the same difference again.

mod account;
mod backoff;
mod collector;
mod commits;
mod discovery;
mod guard;
mod kf_list;
mod official_account;
mod report;
mod transfers;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

pub use self::{
    account::{WatchedAccount, watch},
    collector::Collection,
    discovery::{Discovery, Leaving, Patterns},
    guard::PollGuard,
    official_account::OfficialAccount,
};
use self::{
    backoff::{cause, conclusion},
    commits::Commits,
};
use crate::{
    domain::{
        backoff::BackoffPolicy,
        clock::{Clock, Moment},
        event::{Change, EventType, duration_bounds},
        failure_streak::FailureStreak,
        progress::WorkProgress,
        tracker::TrackerUpdate,
    },
    metrics::Metrics,
    store::{AccountRecord, PollCommit, Store, StoreError},
    wechat::{error::CallFailure, rate_limit::RateLimiter},
};

/// How a poll ended.
#[derive(Debug)]
pub enum PollOutcome {
    /// The answer was taken.
    Succeeded,
    /// A failure before holds it back: nothing was asked.
    BackedOff,
    /// The call failed.
    Failed(CallFailure),
    /// The answer was good but could not be stored: it will be found again by the next poll.
    NotStored(StoreError),
}

/// How many times the spacing of calls a poll may wait longer, when there is a limit: it may need two further permits, for
/// a token that came late and for a repeat with a new one, and takes turns for each.
const PERMIT_WAITS: u32 = 4;

/// Polls accounts on behalf of whoever holds their claims.
pub struct Poller {
    store: Store,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    limits: PollLimits,
    /// Failures of the store, which are nobody's but its own.
    not_stored: Mutex<FailureStreak<report::StoreReason>>,
    /// Commits of polls that were begun, and those of them that ended, well or not.
    commits: Commits,
}

/// The times that bound polls.
#[derive(Clone, Copy, Debug)]
pub struct PollLimits {
    /// The longest time for asking, with token fetches and repeats.
    pub deadline: Duration,
    /// How long failures last before the account counts as blind.
    pub blind_after: Duration,
    /// How long failures hold back what failed.
    pub backoff_policy: BackoffPolicy,
}

impl Poller {
    /// A poller that commits to this store.
    pub fn new(store: Store, metrics: Arc<Metrics>, clock: Arc<dyn Clock>, limits: PollLimits) -> Self {
        Self { store, metrics, clock, limits, not_stored: Mutex::default(), commits: Commits::default() }
    }

    /// Polls the claimed account once, unless it is held back.
    pub async fn poll(&self, guard: &PollGuard) -> PollOutcome {
        let begun_at = self.clock.now();
        let outcome = self.poll_unobserved(guard, begun_at).await;
        self.record(guard, &outcome, begun_at);
        outcome
    }

    /// Notes a tick that found the account's previous poll not finished.
    pub fn overrun(&self, account: &WatchedAccount) {
        account.status.row().overruns += 1;
        tracing::debug!(account = %account.account(), "The previous poll has not finished: tick skipped");
    }

    /// Notes a poll that panicked.
    pub fn panicked(&self, guard: &PollGuard) {
        let account = guard.account();
        guard.official_account().status.completed(&account.status);
        let mut row = account.status.row();
        row.polls += 1;
        row.failures += 1;
        row.up = false;
        row.failing_with = Some("panic");
        drop(row);
        report::log_panic(account, self.clock.now());
    }

    async fn poll_unobserved(&self, guard: &PollGuard, now: Moment) -> PollOutcome {
        let account = guard.account();
        if let Some(cause) = guard.held_at(now) {
            if guard.rests_at(now) {
                return PollOutcome::BackedOff;
            }
            let step = account.memory().watch.failed(now, self.limits.blind_after, cause);
            if let Err(error) = self.commit(account, step).await {
                // Found again at the next tick; nothing was asked, so no poll has failed.
                tracing::debug!(account = %account.account(), "Blindness not stored: {error}");
            }
            return PollOutcome::BackedOff;
        }
        let deadline = self.deadline(guard.official_account());
        let (step, failure) = match guard.ask(&*self.clock, deadline, &self.limits.backoff_policy).await {
            Ok(mut step) => {
                transfers::note_origins(guard.official_account(), account, &mut step);
                (step, None)
            }
            Err(failure) => (self.after_failure(account, &failure, self.clock.now()), Some(failure)),
        };
        match (self.commit(account, step).await, failure) {
            (Err(error), _) => PollOutcome::NotStored(error),
            (Ok(()), Some(failure)) => PollOutcome::Failed(failure),
            (Ok(()), None) => PollOutcome::Succeeded,
        }
    }

    /// How commits get on. One that fails gets on as well.
    pub fn commits(&self) -> WorkProgress {
        self.commits.work()
    }

    /// The longest time that a poll of this official account may take for asking. Waiting for permits is no fault of the
    /// far side.
    pub fn deadline(&self, official_account: &OfficialAccount) -> Duration {
        let spacing = official_account.rate_limiter().map(RateLimiter::spacing).unwrap_or_default();
        self.limits.deadline + spacing * PERMIT_WAITS
    }

    fn after_failure(&self, account: &WatchedAccount, failure: &CallFailure, now: Moment) -> TrackerUpdate {
        let watch = &account.memory().watch;
        match conclusion(failure) {
            Some(conclusion) => {
                watch.concluded(conclusion, now, cause(failure)).telling(account.status.row().agent.binding)
            }
            None => watch.failed(now, self.limits.blind_after, cause(failure)),
        }
    }

    /// Stores the step if it must be, and only then lets it take effect.
    async fn commit(&self, account: &WatchedAccount, mut step: TrackerUpdate) -> Result<(), StoreError> {
        let changes = std::mem::take(&mut step.changes);
        let counts = Counts::of(&changes);
        if step.must_commit {
            let record = AccountRecord::after(&step);
            let commit =
                PollCommit { id: account.row(), account: account.account().clone(), changes, record };
            let started = self.clock.now();
            let under_way = self.commits.begin();
            let committed = self.store.commit_poll(commit).await;
            drop(under_way);
            let now = self.clock.now();
            report::log_commit(&self.not_stored, committed.as_ref().err(), started, now);
            committed?;
            self.metrics.committed(now.since(&started));
        }
        counts.record(&self.metrics);
        report::log_transition(account, account.state(), step.condition.state);
        let unchanged = !step.must_commit;
        let memory = account.apply(step);
        let mut row = account.status.row();
        match unchanged {
            true => row.observe_unchanged(&memory.watch),
            false => row.observe(&memory.watch),
        }
        row.started += counts.started;
        row.ended += counts.ended.len() as u32;
        Ok(())
    }

    /// Everything that is told of a poll, at one place: counters, row, log.
    fn record(&self, guard: &PollGuard, outcome: &PollOutcome, begun_at: Moment) {
        let account = guard.account();
        guard.official_account().status.completed(&account.status);
        let mut row = account.status.row();
        let asked = !matches!(outcome, PollOutcome::BackedOff);
        let succeeded = matches!(outcome, PollOutcome::Succeeded);
        row.polls += u32::from(asked);
        row.failures += u32::from(asked && !succeeded);
        row.up = succeeded;
        let code = match outcome {
            PollOutcome::Succeeded => None,
            PollOutcome::BackedOff => return,
            PollOutcome::Failed(failure) => Some(failure.error.code()),
            PollOutcome::NotStored(_) => Some("store"),
        };
        row.failing_with = code;
        drop(row);
        report::log(guard, outcome, begun_at, &*self.clock);
    }
}

/// What a poll adds to the counters.
struct Counts {
    started: u32,
    ended: Vec<(i64, i64)>,
    events: [(EventType, u64); 3],
}

impl Counts {
    fn of(changes: &[Change]) -> Self {
        let mut counts = Self { started: 0, ended: Vec::new(), events: EventType::ALL.map(|kind| (kind, 0)) };
        for change in changes {
            match change {
                Change::SessionStarted { baseline, .. } => counts.started += u32::from(!baseline),
                Change::SessionEnded { session, ended_between, .. } => {
                    let bounds = duration_bounds(session.createtime, *ended_between);
                    counts.ended.push((bounds.min, bounds.max));
                }
                Change::StateChanged { .. } => {}
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
        // Most polls find nothing, and each counter has to be looked up by its label.
        for (kind, count) in self.events.into_iter().filter(|(_, count)| *count > 0) {
            metrics.events_committed(kind, count);
        }
    }
}
