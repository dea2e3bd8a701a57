//! An official account as far as the polls of its kf accounts share it: its client, its holds, and whom it has.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;

use super::{
    account::WatchedAccount, backoff::ActiveBackoff, collector::CollectorState, discovery::Discovery,
    guard::PollGuard, report::Reason,
};
use crate::{
    domain::{agents::Collector, clock::Moment, failure_streak::FailureStreak},
    status::OfficialAccountStatus,
    wechat::{client::OfficialAccountClient, rate_limit::RateLimiter},
};

/// An official account as far as the polls of its kf accounts share it.
pub struct OfficialAccount {
    /// What readers are shown of it.
    pub status: Arc<OfficialAccountStatus>,
    pub(super) client: OfficialAccountClient,
    hold: Mutex<Option<ActiveBackoff>>,
    failure_streak: Mutex<FailureStreak<Reason>>,
    /// What holds its collectors back.
    pub(super) collectors: [Mutex<CollectorState>; Collector::ALL.len()],
    /// The kf accounts that are watched at present. Swapped whole when one comes or goes.
    accounts: ArcSwap<Vec<Arc<WatchedAccount>>>,
    /// How further kf accounts are found, if they are to be.
    discovery: ArcSwapOption<Discovery>,
    /// Wakes those who wait for a claim.
    pub(super) released: Notify,
}

impl OfficialAccount {
    /// An official account that nothing holds back, as yet without kf accounts.
    pub fn new(status: Arc<OfficialAccountStatus>, client: OfficialAccountClient) -> Self {
        Self {
            status,
            client,
            hold: Mutex::default(),
            failure_streak: Mutex::default(),
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
        let accounts = Arc::new(accounts);
        self.status.set_kf_accounts(Arc::<Vec<_>>::clone(&accounts));
        self.accounts.store(accounts);
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
    pub fn guard(self: &Arc<Self>, account: &Arc<WatchedAccount>) -> Option<PollGuard> {
        PollGuard::take(self, account)
    }

    /// Claims one of its kf accounts as soon as it is free.
    pub async fn guard_when_free(self: &Arc<Self>, account: &Arc<WatchedAccount>) -> PollGuard {
        loop {
            // Interest is registered before looking, so that a release in between is not slept through.
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if let Some(guard) = self.guard(account) {
                return guard;
            }
            released.await;
        }
    }

    /// Its failures that concern all of its kf accounts.
    pub(super) fn failure_streak(&self) -> MutexGuard<'_, FailureStreak<Reason>> {
        self.failure_streak.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until its limit on requests lets another call through, for calls that do not come from the queue of polls.
    pub async fn permit(&self) {
        self.client.permit().await;
    }

    /// The rate_limiter of its calls, if it has a limit.
    pub fn rate_limiter(&self) -> Option<&RateLimiter> {
        self.client.rate_limiter()
    }

    /// Whether its polls are held back at this moment by a failure that any other call would meet, too.
    pub(super) fn refuses_every_call_at(&self, now: Moment) -> bool {
        self.hold().is_some_and(|held| held.every_call && held.hold.is_active_at(now))
    }

    /// Whether its polls are held back, or have not succeeded since they were.
    pub(super) fn is_refused(&self) -> bool {
        self.hold().is_some()
    }

    pub(super) fn hold(&self) -> MutexGuard<'_, Option<ActiveBackoff>> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
