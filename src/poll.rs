//! One poll: ask for the sessions of one kf account, compare the answer, commit the difference.
//!
//! The schedule, a person's command and the first poll after a restart all come through here. An account can only be
//! polled by whoever holds its [`Claim`], so that it never has two polls in flight. A failure holds back what failed
//! ([`crate::domain::holds`]); a poll that is held back asks nothing, but still counts towards `blind`. Nothing takes
//! effect before the store has committed it: when the store fails, the snapshot stands still and the next poll
//! finds the same difference again.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    domain::{
        account::{Account, Conclusion},
        clock::{Clock, Moment},
        event::{Change, EventType, duration_bounds},
        holds::{ErrorClass, Failure, Hold, Scope},
        watch::{Answer, Cause, Step, Watch},
    },
    metrics::Metrics,
    status::AccountStatus,
    store::{AccountRow, PollCommit, Record, Store, StoreError},
    wechat::{
        Endpoint,
        client::OfficialAccountClient,
        error::{CallError, CallFailure},
        wire::SessionList,
    },
};

/// An official account as far as polls share it.
pub struct OfficialAccount {
    client: OfficialAccountClient,
    hold: Mutex<Option<Held>>,
    /// The code of the failure that holds all of its accounts back, as last logged.
    failing_with: Mutex<Option<&'static str>>,
}

impl OfficialAccount {
    /// An official account that nothing holds back.
    pub fn new(client: OfficialAccountClient) -> Self {
        Self { client, hold: Mutex::default(), failing_with: Mutex::default() }
    }
}

/// A kf account as polls know it.
pub struct WatchedAccount {
    /// What readers are shown of it.
    pub status: Arc<AccountStatus>,
    official_account: Arc<OfficialAccount>,
    row: AccountRow,
    memory: Mutex<Memory>,
    claimed: AtomicBool,
}

struct Memory {
    watch: Watch,
    hold: Option<Held>,
}

/// A hold, and what consumers are told of its cause.
#[derive(Clone, Copy, Debug)]
struct Held {
    hold: Hold,
    cause: Cause,
}

/// The right to poll an account, held by one poll at a time.
pub struct Claim(Arc<WatchedAccount>);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.claimed.store(false, Ordering::Release);
    }
}

impl Claim {
    /// The account that is claimed.
    pub fn account(&self) -> &Arc<WatchedAccount> {
        &self.0
    }
}

/// How a poll ended.
#[derive(Debug)]
pub enum PollOutcome {
    /// The answer was taken.
    Succeeded,
    /// A failure before holds it back: nothing was asked.
    Held,
    /// The call failed.
    Failed(CallFailure),
    /// The answer was good but could not be stored: it will be found again by the next poll.
    NotStored(StoreError),
}

impl WatchedAccount {
    /// An account with what the store knows of it.
    pub fn new(
        status: Arc<AccountStatus>,
        official_account: Arc<OfficialAccount>,
        row: AccountRow,
        watch: Watch,
    ) -> Self {
        let memory = Mutex::new(Memory { watch, hold: None });
        Self { status, official_account, row, memory, claimed: AtomicBool::new(false) }
    }

    /// Claims it for one poll; `None` while another poll of it is waiting or in flight.
    pub fn claim(self: &Arc<Self>) -> Option<Claim> {
        (!self.claimed.swap(true, Ordering::Acquire)).then(|| Claim(Arc::clone(self)))
    }

    /// The store's row of it.
    pub fn row(&self) -> AccountRow {
        self.row
    }

    /// What is known of it.
    pub fn watch(&self) -> Watch {
        self.memory().watch.clone()
    }

    /// When it was last seen, as far as that may be newer than what is stored.
    pub fn sighting(&self) -> crate::domain::watch::Sighting {
        self.memory().watch.sighting
    }

    fn account(&self) -> &Account {
        &self.status.account
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for its sessions and compares them with what is known. Commits nothing.
    pub async fn observe(&self) -> Result<Step, CallFailure> {
        self.official_account
            .client
            .session_list(&self.account().kf_account, |list, exchanged| {
                let observed = match &list {
                    SessionList::Listed(observed) => Some(observed),
                    SessionList::Keyless => None,
                };
                let answer =
                    Answer { observed, sent_at: exchanged.sent_at, received_at: exchanged.received_at };
                self.memory().watch.answered(answer, Endpoint::SessionList.as_str())
            })
            .await
    }

    /// What holds it back at this moment, and the cause of that.
    fn held_at(&self, now: Moment) -> Option<Cause> {
        let own = self.memory().hold;
        let shared = *self.official_account.hold.lock().unwrap_or_else(PoisonError::into_inner);
        [shared, own].into_iter().flatten().find(|held| held.hold.holds_at(now)).map(|held| held.cause)
    }

    /// Holds back what failed, and releases what is shown to work.
    fn learn(&self, sent_at: Moment, now: Moment, failure: Option<&CallFailure>) {
        let scope = failure.map(|failure| failure.class.scope());
        let mut memory = self.memory();
        let mut shared = self.official_account.hold.lock().unwrap_or_else(PoisonError::into_inner);
        let held = match scope {
            Some(Scope::OfficialAccount) => &mut *shared,
            Some(Scope::KfAccount) => &mut memory.hold,
            None => {
                memory.hold = None;
                release(&mut shared, sent_at);
                return;
            }
        };
        if let Some(failure) = failure {
            let previous = held.map(|held| held.hold);
            let failed = Failure {
                class: failure.class,
                sent_at: failure.sent_at,
                retry_after: failure.error.retry_after(),
            };
            let hold = Hold::after(previous.as_ref(), failed, now, fastrand::f64());
            *held = Some(Held { hold, cause: cause(failure) });
            // A refusal that concerns the kf account alone shows that the official account works.
            if conclusion(failure).is_some() {
                release(&mut shared, sent_at);
            }
        }
    }
}

/// Polls accounts on behalf of whoever holds their claims.
pub struct Poller {
    store: Store,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    limits: PollLimits,
}

/// The times that bound a poll.
#[derive(Clone, Copy, Debug)]
pub struct PollLimits {
    /// The longest time for asking, with token fetches and repeats.
    pub deadline: Duration,
    /// How long failures last before the account counts as blind.
    pub blind_after: Duration,
}

impl Poller {
    /// A poller that commits to this store.
    pub fn new(store: Store, metrics: Arc<Metrics>, clock: Arc<dyn Clock>, limits: PollLimits) -> Self {
        Self { store, metrics, clock, limits }
    }

    /// Polls the claimed account once, unless it is held back.
    pub async fn poll(&self, claim: &Claim) -> PollOutcome {
        let account = &claim.0;
        let outcome = self.poll_unobserved(account).await;
        self.record(account, &outcome);
        outcome
    }

    /// Notes a tick that found the account's previous poll not finished.
    pub fn overrun(&self, account: &WatchedAccount) {
        account.status.row().overruns += 1;
        tracing::debug!(account = %account.account(), "The previous poll has not finished: tick skipped");
    }

    /// Notes a poll that panicked.
    pub fn panicked(&self, account: &WatchedAccount) {
        let mut row = account.status.row();
        row.polls += 1;
        row.failures += 1;
        row.up = false;
        tracing::error!(account = %account.account(), "A poll panicked: this is a bug in kfwatch, please report it");
    }

    async fn poll_unobserved(&self, account: &WatchedAccount) -> PollOutcome {
        let now = self.clock.now();
        if let Some(cause) = account.held_at(now) {
            let step = account.memory().watch.failed(now, self.limits.blind_after, cause);
            return match self.commit(account, step).await {
                Ok(()) => PollOutcome::Held,
                Err(error) => PollOutcome::NotStored(error),
            };
        }
        let answer = match tokio::time::timeout(self.limits.deadline, account.observe()).await {
            Ok(answer) => answer,
            Err(_) => Err(timed_out(now)),
        };
        let answered_at = self.clock.now();
        account.learn(now, answered_at, answer.as_ref().err());
        let (step, failure) = match answer {
            Ok(step) => (step, None),
            Err(failure) => (self.after_failure(account, &failure, answered_at), Some(failure)),
        };
        match (self.commit(account, step).await, failure) {
            (Err(error), _) => PollOutcome::NotStored(error),
            (Ok(()), Some(failure)) => PollOutcome::Failed(failure),
            (Ok(()), None) => PollOutcome::Succeeded,
        }
    }

    fn after_failure(&self, account: &WatchedAccount, failure: &CallFailure, now: Moment) -> Step {
        let watch = &account.memory().watch;
        match conclusion(failure) {
            Some(conclusion) => watch.concluded(conclusion, now, cause(failure)),
            None => watch.failed(now, self.limits.blind_after, cause(failure)),
        }
    }

    /// Stores the step if it must be, and only then lets it take effect.
    async fn commit(&self, account: &WatchedAccount, mut step: Step) -> Result<(), StoreError> {
        let changes = std::mem::take(&mut step.changes);
        let counts = Counts::of(&changes);
        if step.must_commit {
            let record = Record {
                state: step.standing.state,
                conclusion: step.standing.conclusion,
                sighting: step.sighting,
            };
            let commit = PollCommit { id: account.row, account: account.account().clone(), changes, record };
            let started = self.clock.now();
            let committed = self.store.commit_poll(commit).await;
            let waited = self.clock.now().since(&started);
            self.metrics.committed(waited, committed.as_ref().map(|_| ()).map_err(|_| ()));
            committed?;
        }
        counts.record(&self.metrics);
        let mut memory = account.memory();
        memory.watch.apply(step);
        let mut row = account.status.row();
        row.observe(&memory.watch);
        row.started += counts.started;
        row.ended += counts.ended.len() as u64;
        Ok(())
    }

    /// Everything that is told of a poll, at one place: counters, row, log.
    fn record(&self, account: &WatchedAccount, outcome: &PollOutcome) {
        account.status.completed();
        let mut row = account.status.row();
        let asked = !matches!(outcome, PollOutcome::Held);
        let succeeded = matches!(outcome, PollOutcome::Succeeded);
        row.polls += u64::from(asked);
        row.failures += u64::from(asked && !succeeded);
        row.up = succeeded;
        let code = match outcome {
            PollOutcome::Succeeded => None,
            PollOutcome::Held => return,
            PollOutcome::Failed(failure) => Some(failure.error.code()),
            PollOutcome::NotStored(_) => Some("store"),
        };
        let before = std::mem::replace(&mut row.failing_with, code);
        drop(row);
        log(account, outcome, code, before);
    }
}

/// What a poll adds to the counters.
struct Counts {
    started: u64,
    ended: Vec<(i64, i64)>,
    events: [(EventType, u64); 3],
}

impl Counts {
    fn of(changes: &[Change]) -> Self {
        let mut counts = Self { started: 0, ended: Vec::new(), events: EventType::ALL.map(|kind| (kind, 0)) };
        for change in changes {
            match change {
                Change::SessionStarted { baseline, .. } => counts.started += u64::from(!baseline),
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
        for (kind, count) in self.events {
            metrics.events_committed(kind, count);
        }
    }
}

/// Logs what changed: the first failure of its kind, and the end of failing. What repeats is for the counters.
fn log(
    account: &WatchedAccount,
    outcome: &PollOutcome,
    code: Option<&'static str>,
    before: Option<&'static str>,
) {
    let kf_account = account.account();
    match outcome {
        PollOutcome::Failed(failure) if failure.class.scope() == Scope::OfficialAccount => {
            let mut logged =
                account.official_account.failing_with.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::replace(&mut *logged, code) != code {
                log_failure(&kf_account.official_account, failure);
            }
        }
        PollOutcome::Failed(failure) if code != before => log_failure(&kf_account.to_string(), failure),
        PollOutcome::NotStored(error) if code != before => {
            tracing::error!(account = %kf_account, "Poll not stored: {}", crate::chain(error));
        }
        PollOutcome::Succeeded => {
            let mut logged =
                account.official_account.failing_with.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(code) = logged.take() {
                tracing::info!(official_account = %kf_account.official_account, code, "Calls succeed again");
            }
            if let Some(code) = before {
                tracing::info!(account = %kf_account, code, "Polls succeed again");
            }
        }
        PollOutcome::Failed(_) | PollOutcome::NotStored(_) | PollOutcome::Held => {
            tracing::debug!(account = %kf_account, ?outcome, "Poll failed again");
        }
    }
}

fn log_failure(who: &str, failure: &CallFailure) {
    let remedy = failure.error.remedy(failure.endpoint).map_or("", |remedy| remedy.en);
    let (class, code) = (failure.class.as_str(), failure.error.code());
    match failure.class {
        ErrorClass::Busy => tracing::info!(account = who, class, code, "Poll failed: {failure}"),
        ErrorClass::TokenRejected | ErrorClass::MinuteQuota | ErrorClass::DayQuota | ErrorClass::Unknown => {
            tracing::warn!(account = who, class, code, remedy, "Poll failed: {failure}");
        }
        _ => tracing::error!(account = who, class, code, remedy, "Poll failed: {failure}"),
    }
}

fn release(held: &mut Option<Held>, sent_at: Moment) {
    if held.is_some_and(|held| held.hold.ended_by_request_sent_at(sent_at)) {
        *held = None;
    }
}

fn conclusion(failure: &CallFailure) -> Option<Conclusion> {
    match failure.class {
        ErrorClass::UnboundAccount => Some(Conclusion::Unbound),
        ErrorClass::InvalidAccount => Some(Conclusion::Invalid),
        _ => None,
    }
}

fn cause(failure: &CallFailure) -> Cause {
    Cause { errcode: failure.error.errcode(), source: failure.endpoint.as_str() }
}

fn timed_out(sent_at: Moment) -> CallFailure {
    CallFailure {
        endpoint: Endpoint::SessionList,
        class: ErrorClass::Busy,
        sent_at,
        error: CallError::Timeout,
    }
}
