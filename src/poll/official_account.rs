//! What the polls of one official account share: its client, its backoff, its permits and its kf accounts.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use super::patterns::AccountDiscovery;
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
    client: OfficialAccountClient,
    backoff: Mutex<Option<ActiveBackoff>>,
    failure_streak: Mutex<FailureStreak<FailureReason>>,
    /// In the order of [`Collector::ALL`].
    collectors: [Mutex<CollectorState>; Collector::ALL.len()],
    discovery: ArcSwapOption<AccountDiscovery>,
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
            client,
            backoff: Mutex::default(),
            failure_streak: Mutex::default(),
            collectors: Default::default(),
            discovery: ArcSwapOption::empty(),
            guard_released: Notify::new(),
        }
    }

    /// The watched kf accounts.
    pub fn accounts(&self) -> Arc<Vec<Arc<WatchedAccount>>> {
        self.status.kf_accounts()
    }

    /// Makes getkflist add and remove kf accounts from now on.
    pub fn set_discovery(&self, discovery: AccountDiscovery) {
        self.discovery.store(Some(Arc::new(discovery)));
    }

    pub(super) fn discovery(&self) -> Option<Arc<AccountDiscovery>> {
        self.discovery.load_full()
    }

    /// Whether getkflist adds and removes kf accounts.
    pub fn discovers(&self) -> bool {
        self.discovery().is_some()
    }

    /// The client for calls that concern the official account as a whole.
    pub fn client(&self) -> &OfficialAccountClient {
        &self.client
    }

    /// The rate limiter, if calls are limited.
    pub fn rate_limiter(&self) -> Option<&RateLimiter> {
        self.client.rate_limiter()
    }

    /// Waits for a permit of the rate limiter, for a call that is not a poll from the queue.
    pub async fn acquire_permit(&self) {
        self.client.permit().await;
    }

    /// Waits for a permit for the next poll of `account`, so that the poll itself need not wait.
    pub async fn acquire_poll_permit(&self, account: &WatchedAccount) {
        self.acquire_permit().await;
        account.lock().has_permit = true;
    }

    /// Acquires a permit for the next poll of `account`, or says after which time to try again: when the rate limiter has one,
    /// or when the token that a poll needs may be fetched. A poll that backs off calls nothing and needs no permit.
    pub fn try_acquire_poll_permit(&self, account: &WatchedAccount) -> Result<(), Duration> {
        let now = self.client.now();
        let wait = self.check_token_wait(now);
        let Some(rate_limiter) = self.rate_limiter() else {
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
        self.client.token_wait(self.client.now()).until_allowed
    }

    /// Says how long to wait for a token fetch, if a call without a token could not even say why there is none. That is so
    /// just after a restart.
    pub(super) fn check_token_wait(&self, now: Moment) -> Result<(), Duration> {
        let wait = self.client.token_wait(now).without_cause;
        if wait.is_zero() { Ok(()) } else { Err(wait) }
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
