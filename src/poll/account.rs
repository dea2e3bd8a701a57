//! A kf account as polls know it: what is known of it, what holds it back, and who may poll it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;

use super::{
    collector::CollectorState,
    discovery::{Discovery, Leaving},
    report::Reason,
};
use crate::{
    domain::{
        account::{Account, AccountState, Conclusion, Standing},
        agents::Collector,
        clock::{Clock, Moment},
        holds::{ErrorClass, Failure, Hold, Holds, Scope},
        streak::Streak,
        watch::{Answer, Cause, Sighting, Step, Watch},
    },
    status::{AccountStatus, OfficialAccountStatus},
    store::{AccountRow, StoredAccount},
    wechat::{
        Endpoint,
        client::OfficialAccountClient,
        error::{CallError, CallFailure},
        pace::Pace,
        wire::SessionList,
    },
};

/// An official account as far as the polls of its kf accounts share it.
pub struct OfficialAccount {
    /// What readers are shown of it.
    pub status: Arc<OfficialAccountStatus>,
    pub(super) client: OfficialAccountClient,
    hold: Mutex<Option<Held>>,
    streak: Mutex<Streak<Reason>>,
    /// What holds its collectors back.
    pub(super) collectors: [Mutex<CollectorState>; Collector::ALL.len()],
    /// The kf accounts that are watched at present. Swapped whole when one comes or goes.
    accounts: ArcSwap<Vec<Arc<WatchedAccount>>>,
    /// How further kf accounts are found, if they are to be.
    discovery: ArcSwapOption<Discovery>,
    /// Wakes those who wait for a claim.
    released: Notify,
}

impl OfficialAccount {
    /// An official account that nothing holds back, as yet without kf accounts.
    pub fn new(status: Arc<OfficialAccountStatus>, client: OfficialAccountClient) -> Self {
        Self {
            status,
            client,
            hold: Mutex::default(),
            streak: Mutex::default(),
            collectors: Default::default(),
            accounts: ArcSwap::default(),
            discovery: ArcSwapOption::empty(),
            released: Notify::new(),
        }
    }

    /// The kf accounts that are watched at present.
    pub fn accounts(&self) -> Arc<Vec<Arc<WatchedAccount>>> {
        self.accounts.load_full()
    }

    /// From now on these are watched; readers are shown them, too.
    pub fn set_accounts(&self, accounts: Vec<Arc<WatchedAccount>>) {
        self.status.set_accounts(accounts.iter().map(|account| Arc::clone(&account.status)).collect());
        self.accounts.store(Arc::new(accounts));
    }

    /// From now on kf accounts come and go with what getkflist lists.
    pub fn set_discovery(&self, discovery: Discovery) {
        self.discovery.store(Some(Arc::new(discovery)));
    }

    pub(super) fn discovery(&self) -> Option<Arc<Discovery>> {
        self.discovery.load_full()
    }

    /// For calls that concern it as a whole.
    pub fn client(&self) -> &OfficialAccountClient {
        &self.client
    }

    /// Claims one of its kf accounts for a poll; `None` while another poll of it is waiting or in flight.
    pub fn claim(self: &Arc<Self>, account: &Arc<WatchedAccount>) -> Option<Claim> {
        let free = !account.claimed.swap(true, Ordering::Acquire);
        free.then(|| Claim {
            account: Arc::clone(account),
            official_account: Arc::clone(self),
            has_permit: AtomicBool::new(false),
            kept: false,
        })
    }

    /// Claims one of its kf accounts as soon as it is free.
    pub async fn claim_when_free(self: &Arc<Self>, account: &Arc<WatchedAccount>) -> Claim {
        loop {
            // Interest is registered before looking, so that a release in between is not slept through.
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if let Some(claim) = self.claim(account) {
                return claim;
            }
            released.await;
        }
    }

    /// Its failures that concern all of its kf accounts.
    pub(super) fn streak(&self) -> MutexGuard<'_, Streak<Reason>> {
        self.streak.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until its limit on requests lets another call through, for calls that do not come from the queue of polls.
    pub async fn permit(&self) {
        self.client.permit().await;
    }

    /// The pace of its calls, if it has a limit.
    pub fn pace(&self) -> Option<&Pace> {
        self.client.pace()
    }

    /// Whether its polls are held back at this moment by a failure that any other call would meet, too.
    pub(super) fn refuses_every_call_at(&self, now: Moment) -> bool {
        self.hold().is_some_and(|held| held.every_call && held.hold.holds_at(now))
    }

    /// Whether its polls are held back, or have not succeeded since they were.
    pub(super) fn is_refused(&self) -> bool {
        self.hold().is_some()
    }

    fn hold(&self) -> MutexGuard<'_, Option<Held>> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A kf account as polls know it.
pub struct WatchedAccount {
    /// What readers are shown of it.
    pub status: Arc<AccountStatus>,
    row: AccountRow,
    memory: Mutex<Memory>,
    claimed: AtomicBool,
}

pub(super) struct Memory {
    pub(super) watch: Watch,
    hold: Option<Held>,
    /// Its failures that concern it alone.
    pub(super) streak: Streak<Reason>,
}

/// A hold, and what consumers are told of its cause.
#[derive(Clone, Copy, Debug)]
struct Held {
    hold: Hold,
    cause: Cause,
    /// Whether any call of the official account would fail for the same reason.
    every_call: bool,
}

impl Held {
    /// What holds after this failure: a hold that goes on keeps its own cause.
    fn after(holds: &Holds, previous: Option<Self>, failure: &CallFailure, now: Moment) -> Self {
        let failed = Failure {
            class: failure.class,
            sent_at: failure.sent_at,
            retry_after: failure.error.retry_after(),
        };
        let of_previous = previous.map(|held| held.hold);
        let hold = Hold::after(holds, of_previous.as_ref(), failed, now, fastrand::f64());
        match previous {
            Some(held) if held.hold == hold => held,
            _ => Self { hold, cause: cause(failure), every_call: failure.concerns_every_call() },
        }
    }
}

impl WatchedAccount {
    /// An account with what the store knows of it.
    pub fn new(status: Arc<AccountStatus>, row: AccountRow, watch: Watch) -> Self {
        let memory = Mutex::new(Memory { watch, hold: None, streak: Streak::default() });
        Self { status, row, memory, claimed: AtomicBool::new(false) }
    }

    /// An account as it was stored, polled at these ticks.
    pub fn restored(stored: StoredAccount, ticks: Arc<AtomicU64>) -> Arc<Self> {
        let (row, account) = (stored.id, stored.account.clone());
        let watch = watch(stored);
        let status = AccountStatus::restored(account, ticks, &watch);
        // The ticks before it came were none of its own.
        status.completed();
        Arc::new(Self::new(Arc::new(status), row, watch))
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
    pub fn sighting(&self) -> Sighting {
        self.memory().watch.sighting
    }

    pub(super) fn leaving(&self) -> Leaving {
        Leaving { row: self.row, account: self.account().clone(), watch: self.watch() }
    }

    /// Its state as told to consumers.
    pub(super) fn state(&self) -> AccountState {
        self.memory().watch.standing.state
    }

    pub(super) fn account(&self) -> &Account {
        &self.status.account
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to poll an account, held by one poll at a time.
pub struct Claim {
    account: Arc<WatchedAccount>,
    official_account: Arc<OfficialAccount>,
    /// Whether the next call has its permit already.
    has_permit: AtomicBool,
    /// Whether the account is never to be polled again.
    kept: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.account.claimed.store(false, Ordering::Release);
        self.official_account.released.notify_waiters();
    }
}

impl Claim {
    /// The account that is claimed.
    pub fn account(&self) -> &Arc<WatchedAccount> {
        &self.account
    }

    /// Its official account.
    pub fn official_account(&self) -> &Arc<OfficialAccount> {
        &self.official_account
    }

    /// Takes the permit that the official account's limit asks of a poll, so that the poll need not wait for it; if there
    /// is none, says when to ask again. A poll that is held back makes no call, and needs none.
    pub fn admit(&self) -> Result<(), Duration> {
        let Some(pace) = self.official_account.pace() else { return Ok(()) };
        if self.held_at(self.official_account.client.now()).is_none() {
            pace.try_permit()?;
            self.has_permit.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits until the official account's limit lets the next call through.
    pub async fn wait_for_permit(&self) {
        self.official_account.permit().await;
        self.has_permit.store(true, Ordering::Relaxed);
    }

    /// Gives it back never: the account is not polled any more.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }

    /// Asks for the account's sessions, for at most `deadline`, and compares them with what is known. What failed is held
    /// back from now on, what is shown to work no longer. Commits nothing.
    pub async fn ask(
        &self,
        clock: &dyn Clock,
        deadline: Duration,
        holds: &Holds,
    ) -> Result<Step, CallFailure> {
        let begun = clock.now();
        let answer = match tokio::time::timeout(deadline, self.observe()).await {
            Ok(answer) => answer,
            Err(_) => Err(timed_out(Endpoint::SessionList, begun)),
        };
        self.learn(begun, clock.now(), answer.as_ref().err(), holds);
        answer
    }

    /// Asks for the account's sessions and compares them with what is known.
    async fn observe(&self) -> Result<Step, CallFailure> {
        let client = &self.official_account.client;
        if !self.has_permit.swap(false, Ordering::Relaxed) {
            client.permit().await;
        }
        client
            .session_list(&self.account.account().kf_account, |list, exchanged| {
                let observed = match &list {
                    SessionList::Listed(observed) => Some(observed),
                    SessionList::Keyless => None,
                };
                let answer =
                    Answer { observed, sent_at: exchanged.sent_at, received_at: exchanged.received_at };
                self.account.memory().watch.answered(answer, Endpoint::SessionList.as_str())
            })
            .await
    }

    /// What holds the account back at this moment, and the cause of that.
    pub(super) fn held_at(&self, now: Moment) -> Option<Cause> {
        let own = self.account.memory().hold;
        let shared = *self.official_account.hold();
        [shared, own].into_iter().flatten().find(|held| held.hold.holds_at(now)).map(|held| held.cause)
    }

    /// Whether the account is held back at this moment because an answer said what it is: that is no failure to see it.
    pub(super) fn rests_at(&self, now: Moment) -> bool {
        let own = self.account.memory().hold;
        own.is_some_and(|held| held.hold.holds_at(now) && concluded(held.hold.class).is_some())
    }

    /// Holds back what failed, and releases what is shown to work.
    fn learn(&self, sent_at: Moment, now: Moment, failure: Option<&CallFailure>, holds: &Holds) {
        let mut memory = self.account.memory();
        let mut shared = self.official_account.hold();
        let Some(failure) = failure else {
            memory.hold = None;
            release(&mut shared, sent_at);
            return;
        };
        // Not the kf account's doing, and over within seconds, or else a worse failure: a wait that grows would starve
        // the kf accounts whose polls another program's tokens happen to meet.
        if failure.class == ErrorClass::Busy && failure.error.lacks_token() {
            return;
        }
        let held = match failure.class.scope() {
            Scope::OfficialAccount => &mut *shared,
            Scope::KfAccount => &mut memory.hold,
        };
        *held = Some(Held::after(holds, *held, failure, now));
        // A refusal that concerns the kf account alone shows that the official account works.
        if conclusion(failure).is_some() {
            release(&mut shared, sent_at);
        }
    }
}

pub(super) fn timed_out(endpoint: Endpoint, sent_at: Moment) -> CallFailure {
    CallFailure::new(endpoint, CallError::Timeout, sent_at)
}

/// What the store knows of an account.
pub fn watch(stored: StoredAccount) -> Watch {
    Watch {
        standing: Standing::restored(stored.record.state, stored.record.conclusion),
        snapshot: stored.snapshot,
        sighting: stored.record.sighting,
        departed: None,
    }
}

fn release(held: &mut Option<Held>, sent_at: Moment) {
    if held.is_some_and(|held| held.hold.ended_by_request_sent_at(sent_at)) {
        *held = None;
    }
}

/// What a refusal says about the kf account itself.
pub(super) fn conclusion(failure: &CallFailure) -> Option<Conclusion> {
    concluded(failure.class)
}

fn concluded(class: ErrorClass) -> Option<Conclusion> {
    match class {
        ErrorClass::UnboundAccount => Some(Conclusion::Unbound),
        ErrorClass::InvalidAccount => Some(Conclusion::Invalid),
        _ => None,
    }
}

/// What consumers are told of a failure.
pub(super) fn cause(failure: &CallFailure) -> Cause {
    Cause { errcode: failure.error.errcode(), source: failure.endpoint.as_str() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        let after = Duration::from_secs(seconds);
        Moment { wall: jiff::Timestamp::UNIX_EPOCH + after, monotonic: after }
    }

    #[test]
    fn a_hold_that_outlasts_a_late_failure_keeps_its_cause() {
        let refused = |code, sent_at| {
            CallFailure::new(Endpoint::SessionList, CallError::Refused { code, message: "".into() }, sent_at)
        };
        let holds = Holds::default();
        let quota = Held::after(&holds, None, &refused(45009, at(0)), at(5));
        let late = Held::after(&holds, Some(quota), &refused(40164, at(1)), at(6));
        assert_eq!((late.hold, late.cause.errcode, late.every_call), (quota.hold, Some(45009), false));
        let later = Held::after(&holds, Some(late), &refused(40164, at(7)), at(8));
        assert_eq!((later.cause.errcode, later.every_call), (Some(40164), true));
    }
}
