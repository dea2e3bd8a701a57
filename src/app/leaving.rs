//! The end of kf accounts that leave the configuration: each is recorded as unwatched when its poll in flight, if any, has finished.
//!
//! The store already knows that they left. If the daemon ends before they are recorded, the next one records them when it starts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::mpsc;

use crate::{
    poll::{OfficialAccount, Poller},
    status::WatchedAccount,
    store::{Store, StoreError},
};

/// How many kf accounts are recorded in one transaction. Limited, because commits of polls wait for it.
const BATCH: usize = 1000;

/// How long to wait after a failure of the store.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Kf accounts of one official account that leave.
pub(super) struct LeavingGroup {
    /// `None` if this process has never polled them.
    pub(super) official_account: Option<Arc<OfficialAccount>>,
    pub(super) accounts: Vec<Arc<WatchedAccount>>,
}

/// What has finished leaving, so that it may start again.
pub(super) enum Left {
    KfAccounts(Vec<Arc<WatchedAccount>>),
    /// The dispatcher of the sink with this name has ended.
    Sink(Arc<str>),
}

/// What becomes of kf accounts that have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// They are recorded as unwatched, with an event for each.
    Unwatched,
    /// Nothing is recorded but when they were last seen: they are watched again soon, by this daemon or by another one.
    Silent,
}

/// The kf accounts whose end is not recorded yet, by appid, and for each how many tasks will do so: one that starts again may be removed
/// before it has. They cannot be watched again before.
#[derive(Default)]
pub(super) struct Leaving(BTreeMap<Arc<str>, BTreeMap<Arc<str>, usize>>);

impl Leaving {
    pub(super) fn insert(&mut self, groups: &[LeavingGroup]) {
        for account in groups.iter().flat_map(|group| &group.accounts) {
            let account = account.account();
            let of_official_account = self.0.entry(Arc::clone(&account.appid)).or_default();
            *of_official_account.entry(Arc::clone(&account.kf_account)).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, accounts: &[Arc<WatchedAccount>]) {
        for account in accounts {
            let account = account.account();
            if let Some(kf_accounts) = self.0.get_mut(&account.appid) {
                match kf_accounts.get_mut(&account.kf_account) {
                    Some(tasks @ 2..) => *tasks -= 1,
                    _ => drop(kf_accounts.remove(&account.kf_account)),
                }
                if kf_accounts.is_empty() {
                    self.0.remove(&account.appid);
                }
            }
        }
    }

    /// The kf accounts of an official account that are leaving.
    pub(super) fn of(&self, appid: &str) -> Option<&BTreeMap<Arc<str>, usize>> {
        self.0.get(appid)
    }
}

/// Ends the watching of kf accounts to which no new poll guard is given.
pub(super) struct LeavingTask {
    pub(super) store: Store,
    pub(super) poller: Arc<Poller>,
    pub(super) groups: Vec<LeavingGroup>,
    pub(super) ending: Ending,
    /// Receives the accounts that have left.
    pub(super) done: mpsc::Sender<Left>,
}

impl LeavingTask {
    /// Runs until all have left. An official account whose poll takes long delays no other.
    pub(super) async fn run(self) {
        let waiting: FuturesUnordered<_> = self.groups.iter().map(LeavingGroup::retired).collect();
        let mut retired = waiting.ready_chunks(BATCH);
        while let Some(groups) = retired.next().await {
            for batch in groups.concat().chunks(BATCH) {
                self.record_until_stored(batch).await;
                // Nobody waits for them when the daemon stops.
                self.done.send(Left::KfAccounts(batch.to_vec())).await.ok();
            }
        }
    }

    async fn record_until_stored(&self, batch: &[Arc<WatchedAccount>]) {
        let mut is_news = true;
        while let Err(error) = self.record(batch).await {
            if std::mem::take(&mut is_news) {
                tracing::warn!(
                    kf_accounts = batch.len(),
                    "Could not record that kf accounts are no longer watched, trying again: {}",
                    crate::chain(&error)
                );
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    async fn record(&self, batch: &[Arc<WatchedAccount>]) -> Result<(), StoreError> {
        match self.ending {
            Ending::Unwatched => {
                let batch: Vec<&Arc<WatchedAccount>> = batch.iter().collect();
                self.poller.remove_watched(&batch, "configuration").await
            }
            Ending::Silent => {
                let last_seen = batch.iter().filter_map(|account| account.pending_last_seen());
                self.store.record_last_seen(last_seen.collect()).await
            }
        }
    }
}

impl LeavingGroup {
    /// Waits until nobody polls the accounts any more.
    pub(super) async fn retired(&self) -> &[Arc<WatchedAccount>] {
        if let Some(official_account) = &self.official_account {
            for account in &self.accounts {
                official_account.wait_until_retired(account).await;
            }
        }
        &self.accounts
    }
}
