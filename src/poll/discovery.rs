//! Discovery: adds and removes kf accounts as getkflist lists them.
//!
//! An official account may have patterns in addition to named kf accounts. A listed kf account that matches is watched
//! from the next tick on. One that is no longer listed becomes `unwatched`; its sessions do not end, because their end
//! was not observed. Named accounts are never removed. An empty list removes no account, because it is more likely a
//! fault of the API than the end of all kf accounts. Nor does a list with an unreadable entry, which may be any account's.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;

use super::{
    guard::PollGuard,
    official_account::OfficialAccount,
    patterns::{AccountDiscovery, ListAnomaly},
    poll_log::News,
    poller::Poller,
};
use crate::{
    domain::{
        account::Account,
        agents::{KfList, ListedAccount},
        error_class::Scope,
        event::EventType,
        tracker::AccountTracker,
    },
    status::WatchedAccount,
    store::{AccountId, AccountRecord, PollCommit, StoreError},
    wechat::Endpoint,
};

/// How long to wait for a running poll to end. After that the account has to wait for the next list.
pub(super) const GUARD_TIMEOUT: Duration = Duration::from_secs(2);

/// How many kf accounts a log line names.
const MAX_NAMES: usize = 5;

/// An account that is no longer watched.
pub struct RemovedAccount {
    /// The id of the account in the store.
    pub id: AccountId,
    /// The names of the account.
    pub account: Account,
    /// What is known of it.
    pub tracker: AccountTracker,
}

impl Poller {
    /// Marks accounts as unwatched, with an event for each, in one transaction. Their sessions do not end, and the store
    /// keeps their snapshots for a time, so that they can come back. `source` is where they are missing: the
    /// configuration, or the answers of a call.
    ///
    /// The caller makes sure that none of the accounts is being polled, now or later.
    pub async fn remove_accounts(
        &self,
        removed: Vec<RemovedAccount>,
        source: &'static str,
    ) -> Result<(), StoreError> {
        if removed.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let commits: Vec<PollCommit> = removed
            .into_iter()
            .map(|RemovedAccount { id, account, tracker }| {
                let update = tracker.after_removal(now, source);
                let record = AccountRecord::after(&update);
                PollCommit { id, account, changes: update.changes, record }
            })
            .collect();
        let changes = commits.iter().map(|commit| commit.changes.len() as u64).sum();
        let accounts: Vec<Account> = commits.iter().map(|commit| commit.account.clone()).collect();
        self.store.remove_accounts(commits).await?;
        self.metrics.events_committed(EventType::StateChanged, changes);
        for account in accounts {
            tracing::info!(%account, source, "Account is no longer watched; its sessions do not end by that");
        }
        Ok(())
    }

    /// Marks watched accounts as unwatched, as [`remove_accounts`](Self::remove_accounts) does. Of an account that is unwatched
    /// already there is no second event.
    pub async fn remove_watched(
        &self,
        accounts: &[&Arc<WatchedAccount>],
        source: &'static str,
    ) -> Result<(), StoreError> {
        let removed = accounts.iter().map(|account| RemovedAccount {
            id: account.id(),
            account: account.account().clone(),
            tracker: account.tracker(),
        });
        self.remove_accounts(removed.collect(), source).await?;
        let now = self.clock.now();
        for account in accounts {
            let mut data = account.lock();
            let update = data.tracker.after_removal(now, source);
            data.apply(update);
        }
        Ok(())
    }

    /// Adds and removes the kf accounts of an official account with patterns, as `list` says. A list that is being applied when the
    /// patterns change has no effect from then on.
    pub(super) async fn discover(
        &self,
        official_account: &Arc<OfficialAccount>,
        list: &KfList,
    ) -> Result<(), StoreError> {
        let mut anomaly = official_account.list_anomaly.lock().await;
        let Some(discovery) = official_account.discovery() else { return Ok(()) };
        let name = &official_account.status.name;
        let listed = &list.accounts;
        if listed.is_empty() && list.complete {
            discovery.log_anomaly(name, &mut anomaly, Some(ListAnomaly::Empty));
            return Ok(());
        }
        let wanted = listed.iter().map(|listed| &listed.kf_account);
        let wanted: Vec<&Arc<str>> = wanted.filter(|name| discovery.patterns.discover(name)).collect();
        if list.complete {
            self.remove_unlisted(official_account, &discovery, &wanted).await?;
        }
        if !official_account.is_discovery(&discovery) {
            return Ok(());
        }
        let watched = official_account.accounts();
        let room = discovery.patterns.most.saturating_sub(watched.len());
        let mut known = names(&watched);
        let mut added: Vec<&Arc<str>> = wanted.into_iter().filter(|name| known.insert(name)).collect();
        let refused = added.len().saturating_sub(room);
        added.truncate(room);
        self.add_listed(official_account, &discovery, &added).await?;
        let found = match (list.complete, refused) {
            (false, _) => Some(ListAnomaly::UnreadableEntries),
            (true, 0) => None,
            (true, refused) => Some(ListAnomaly::TooMany { refused }),
        };
        discovery.log_anomaly(name, &mut anomaly, found);
        Ok(())
    }

    /// Removes the accounts that are neither named nor wanted. One whose running poll takes longer than
    /// [`GUARD_TIMEOUT`] stays until the next list: the commit of that poll would bring it back. One that has left for another reason
    /// is left to that.
    async fn remove_unlisted(
        &self,
        official_account: &Arc<OfficialAccount>,
        discovery: &Arc<AccountDiscovery>,
        wanted: &[&Arc<str>],
    ) -> Result<(), StoreError> {
        let wanted: HashSet<&str> = wanted.iter().map(|name| &***name).collect();
        let stays = |account: &&Arc<WatchedAccount>| {
            let kf_account = &account.account().kf_account;
            discovery.patterns.named.contains(kf_account) || wanted.contains(&**kf_account)
        };
        let watched = official_account.accounts();
        let unlisted = watched.iter().filter(|account| !stays(account));
        let guards = unlisted.map(|account| {
            tokio::time::timeout(GUARD_TIMEOUT, PollGuard::acquire(official_account, account))
        });
        let guards: Vec<PollGuard> = join_all(guards).await.into_iter().flatten().flatten().collect();
        if !official_account.is_discovery(discovery) {
            return Ok(());
        }
        let removed: Vec<_> = guards.iter().map(PollGuard::account).collect();
        self.remove_watched(&removed, Endpoint::KfList.as_str()).await?;
        // Whoever still knows the accounts cannot poll them any more.
        removed.iter().for_each(|account| account.leave());
        official_account.status.remove_kf_accounts(&removed.iter().map(|account| account.id()).collect());
        Ok(())
    }

    async fn add_listed(
        &self,
        official_account: &Arc<OfficialAccount>,
        discovery: &Arc<AccountDiscovery>,
        added: &[&Arc<str>],
    ) -> Result<(), StoreError> {
        if added.is_empty() {
            return Ok(());
        }
        let status = &official_account.status;
        let accounts = added.iter().map(|kf_account| discovery.account(&status.name, kf_account));
        let stored = self.store.add_accounts(accounts.collect()).await?;
        let new = stored.into_iter().map(|stored| WatchedAccount::from_stored(stored, status.ticks()));
        let new: Vec<Arc<WatchedAccount>> = new.collect();
        status.add_kf_accounts(new.clone());
        // Checked after they were added: whoever changes the patterns later finds them.
        if !official_account.is_discovery(discovery) {
            return self.withdraw(official_account, &new).await;
        }
        self.log.add(Scope::OfficialAccount, &status.name, News::Discovered(join_names(added)));
        Ok(())
    }

    /// Removes accounts that were added a moment ago by patterns that are not in use any more.
    async fn withdraw(
        &self,
        official_account: &Arc<OfficialAccount>,
        added: &[Arc<WatchedAccount>],
    ) -> Result<(), StoreError> {
        added.iter().for_each(|account| account.leave());
        official_account.status.remove_kf_accounts(&added.iter().map(|account| account.id()).collect());
        for account in added {
            official_account.wait_until_retired(account).await;
        }
        self.remove_watched(&added.iter().collect::<Vec<_>>(), "configuration").await
    }
}

impl OfficialAccount {
    /// Whether kf accounts are to be discovered, and none has been discovered yet.
    pub fn has_discovered_none(&self) -> bool {
        let Some(discovery) = self.discovery() else { return false };
        let named = &discovery.patterns.named;
        self.accounts().iter().all(|account| named.contains(&account.account().kf_account))
    }

    /// The listed kf accounts that discovery would add. Adds none of them.
    pub fn undiscovered(&self, listed: &[ListedAccount]) -> Vec<Arc<WatchedAccount>> {
        let Some(discovery) = self.discovery() else { return Vec::new() };
        let watched = self.accounts();
        let mut known = names(&watched);
        let wanted = listed.iter().map(|listed| &listed.kf_account);
        let wanted = wanted.filter(|name| discovery.patterns.discover(name) && known.insert(name));
        let room = discovery.patterns.most.saturating_sub(watched.len());
        let account = |kf_account: &Arc<str>| {
            let account = discovery.account(&self.status.name, kf_account);
            // The account is not in the store and has no id there.
            Arc::new(WatchedAccount::new(account, AccountId(0), AccountTracker::default()))
        };
        wanted.take(room).map(account).collect()
    }
}

fn names(accounts: &[Arc<WatchedAccount>]) -> HashSet<&str> {
    accounts.iter().map(|account| &*account.account().kf_account).collect()
}

fn join_names(kf_accounts: &[&Arc<str>]) -> String {
    let first: Vec<&str> = kf_accounts.iter().take(MAX_NAMES).map(|name| &***name).collect();
    match kf_accounts.len() - first.len() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}
