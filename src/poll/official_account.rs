//! What the polls of one official account share: its client, its backoff, its permits and its kf accounts.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;

use super::patterns::{AccountDiscovery, ListAnomaly};
use crate::{
    domain::{
        active_backoff::ActiveBackoff, agents::Collector, backoff::Backoff, clock::Moment,
        failure_reason::FailureReason, failure_streak::FailureStreak,
    },
    status::{OfficialAccountStatus, WatchedAccount},
    wechat::{client::OfficialAccountClient, rate_limit::RateLimiter},
};

/// An official account, as far as the polls of its kf accounts share it.
pub struct OfficialAccount {
    /// What readers see of it.
    pub status: Arc<OfficialAccountStatus>,
    client: ArcSwap<OfficialAccountClient>,
    backoff: Mutex<Option<ActiveBackoff>>,
    failure_streak: Mutex<FailureStreak<FailureReason>>,
    /// In the order of [`Collector::ALL`].
    collectors: [Mutex<CollectorState>; Collector::ALL.len()],
    discovery: ArcSwapOption<AccountDiscovery>,
    /// What was unusual about the previous list of kf accounts. Locked while kf accounts are added and removed as a list says: two
    /// lists at once would undo each other's changes.
    pub(super) list_anomaly: tokio::sync::Mutex<Option<ListAnomaly>>,
    /// Notified when a poll guard of one of the kf accounts is dropped.
    pub(super) guard_released: Notify,
}

/// What is remembered of one collector.
#[derive(Debug, Default)]
pub(super) struct CollectorState {
    pub(super) backoff: Option<Backoff>,
    pub(super) failure_streak: FailureStreak<FailureReason>,
}

impl OfficialAccount {
    /// An official account that does not back off.
    pub fn new(status: Arc<OfficialAccountStatus>, client: OfficialAccountClient) -> Self {
        Self {
            status,
            client: ArcSwap::from_pointee(client),
            backoff: Mutex::default(),
            failure_streak: Mutex::default(),
            collectors: Default::default(),
            discovery: ArcSwapOption::empty(),
            list_anomaly: Default::default(),
            guard_released: Notify::new(),
        }
    }

    /// The watched kf accounts.
    pub fn accounts(&self) -> Arc<Vec<Arc<WatchedAccount>>> {
        self.status.kf_accounts()
    }

    /// Sets which kf accounts getkflist adds and removes from now on; `None` for none. A list that is being applied has no effect any
    /// more.
    pub fn set_discovery(&self, discovery: Option<AccountDiscovery>) {
        self.discovery.store(discovery.map(Arc::new));
    }

    /// Whether this is the present discovery.
    pub(super) fn is_discovery(&self, discovery: &Arc<AccountDiscovery>) -> bool {
        self.discovery().is_some_and(|present| Arc::ptr_eq(&present, discovery))
    }

    /// Waits until an account that [has left](WatchedAccount::leave) is retired: until its last poll guard is dropped. Several
    /// accounts are best waited for in turn.
    pub async fn wait_until_retired(&self, account: &WatchedAccount) {
        self.check_at_releases(|| account.is_retired().then_some(())).await;
    }

    /// Checks now, and whenever a poll guard is dropped, until there is a result.
    pub(super) async fn check_at_releases<T>(&self, check: impl Fn() -> Option<T>) -> T {
        loop {
            // Register before checking, so that a release in between is not missed.
            let released = self.guard_released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if let Some(result) = check() {
                return result;
            }
            released.await;
        }
    }

    pub(super) fn discovery(&self) -> Option<Arc<AccountDiscovery>> {
        self.discovery.load_full()
    }

    /// Whether getkflist adds and removes kf accounts.
    pub fn discovers(&self) -> bool {
        self.discovery().is_some()
    }

    /// The client for its calls.
    pub fn client(&self) -> Arc<OfficialAccountClient> {
        self.client.load_full()
    }

    /// Makes calls with this client from now on. Calls that run finish with the client that they began with.
    pub fn set_client(&self, client: Arc<OfficialAccountClient>) {
        self.client.store(client);
    }

    /// The rate limiter, if calls are limited.
    pub fn rate_limiter(&self) -> Option<Arc<RateLimiter>> {
        self.client.load().rate_limiter().cloned()
    }

    /// Waits for a permit of the rate limiter, for a call that is not a poll from the queue.
    pub async fn acquire_permit(&self) {
        self.client().permit().await;
    }

    /// Waits for a permit for the next poll of `account`, so that the poll itself need not wait.
    pub async fn acquire_poll_permit(&self, account: &WatchedAccount) {
        self.acquire_permit().await;
        account.lock().has_permit = true;
    }

    /// Acquires a permit for the next poll of `account`, or says after which time to try again: when the rate limiter has one,
    /// or when the token that a poll needs may be fetched. A poll that backs off calls nothing and needs no permit.
    pub fn try_acquire_poll_permit(&self, account: &WatchedAccount) -> Result<(), Duration> {
        let client = self.client.load();
        let now = client.now();
        let wait = token_wait(&client, now);
        let Some(rate_limiter) = client.rate_limiter() else {
            return wait.or_else(|wait| self.active_backoff(account, now).map(|_| ()).ok_or(wait));
        };
        if self.active_backoff(account, now).is_some() {
            return Ok(());
        }
        wait?;
        rate_limiter.try_permit_for_poll()?;
        account.lock().has_permit = true;
        Ok(())
    }

    /// How long the token fetch that the next call needs has to wait; zero if it needs none.
    pub fn token_wait(&self) -> Duration {
        let client = self.client.load();
        client.token_wait(client.now()).until_allowed
    }

    /// Acquires a permit for a call of a collector, or says after which time to try again.
    pub(super) fn try_acquire_collector_permit(&self, now: Moment) -> Result<(), Duration> {
        let client = self.client.load();
        token_wait(&client, now)?;
        client.rate_limiter().map_or(Ok(()), |rate_limiter| rate_limiter.try_permit_for_collector())
    }

    /// The backoff that keeps `account` from being polled at `now`.
    pub(super) fn active_backoff(&self, account: &WatchedAccount, now: Moment) -> Option<ActiveBackoff> {
        let is_active = |backoff: &ActiveBackoff| backoff.is_active_at(now);
        let shared = self.backoff().filter(is_active);
        shared.or_else(|| account.lock().backoff.as_deref().copied().filter(is_active))
    }

    /// Whether polls back off at `now` because of a failure that every other call would meet, too.
    pub(super) fn fails_every_call_at(&self, now: Moment) -> bool {
        self.backoff().is_some_and(|backoff| backoff.every_call && backoff.is_active_at(now))
    }

    /// Forgets the backoff of polls and collectors, because the reason of their failures may have been removed.
    pub fn end_backoff(&self) {
        *self.backoff() = None;
        for collector in Collector::ALL {
            self.collector(collector).backoff = None;
        }
    }

    /// The backoff that all kf accounts share.
    pub(super) fn backoff(&self) -> MutexGuard<'_, Option<ActiveBackoff>> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Failures that concern all kf accounts.
    pub(super) fn failure_streak(&self) -> MutexGuard<'_, FailureStreak<FailureReason>> {
        self.failure_streak.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn collector(&self, collector: Collector) -> MutexGuard<'_, CollectorState> {
        self.collectors[collector as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says how long to wait for a token fetch, if a call without a token could not even say why there is none. That is so just after
/// a restart.
fn token_wait(client: &OfficialAccountClient, now: Moment) -> Result<(), Duration> {
    let wait = client.token_wait(now).without_cause;
    if wait.is_zero() { Ok(()) } else { Err(wait) }
}
