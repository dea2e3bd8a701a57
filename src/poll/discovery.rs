//! Discovery: kf accounts that are watched because getkflist lists them.
//!
//! An official account may have patterns beside the kf accounts that are named. What getkflist lists and a pattern
//! matches is watched from the next tick on; what is listed no more is not, and is told as unwatched: its sessions do
//! not end by that, since nobody saw them end. Named accounts never go. A list without anything usable is more likely
//! a whim of the API than the end of all kf accounts, and changes nothing; and where an entry could not be read, it may be
//! any account's, and nobody goes.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use glob::Pattern;
use tokio::sync::Mutex;

use super::{OfficialAccount, PollGuard, Poller, WatchedAccount};
use crate::{
    domain::{
        account::Account,
        agents::{KfList, ListedAccount},
        event::EventType,
        tracker::AccountTracker,
    },
    store::{AccountId, AccountRecord, PollCommit, StoreError},
    wechat::Endpoint,
};

/// How long to wait for a poll in flight to end. What its account was claimed for waits for the next list then.
pub(super) const CLAIM_PATIENCE: Duration = Duration::from_secs(2);

/// How many kf accounts a line of the log names.
const MAX_NAMED: usize = 5;

/// Which kf accounts of an official account are watched beside those that are named.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    /// The named ones, which are watched anyway.
    pub named: HashSet<Arc<str>>,
    /// What a listed kf account has to match, one of them.
    pub matching: Vec<Pattern>,
    /// What it must not match, any of them.
    pub exclude: Vec<Pattern>,
    /// How many kf accounts the official account may have, the named ones among them.
    pub most: usize,
}

impl Patterns {
    /// Whether a kf account is to be watched when it is listed, though it is not named.
    pub fn discover(&self, kf_account: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(kf_account));
        any(&self.matching) && !any(&self.exclude) && !self.named.contains(kf_account)
    }
}

/// What an official account needs for its discovered kf accounts to come and go.
pub struct Discovery {
    patterns: Patterns,
    appid: Arc<str>,
    /// What the last list was warned of. Locked while a list is taken: two at once would undo each other's accounts.
    warned: Mutex<Option<Oddity>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Oddity {
    NothingListed,
    Unreadable,
    TooMany { refused: usize },
}

impl Discovery {
    /// For the official account of this appid.
    pub fn new(patterns: Patterns, appid: Arc<str>) -> Self {
        Self { patterns, appid, warned: Mutex::default() }
    }

    /// Logs what is odd about a list, unless it was about the one before.
    fn warn(&self, official_account: &str, warned: &mut Option<Oddity>, oddity: Option<Oddity>) {
        if std::mem::replace(warned, oddity) == oddity {
            return;
        }
        match oddity {
            None => tracing::info!(%official_account, "getkflist lists kf accounts as expected again"),
            Some(Oddity::NothingListed) => tracing::warn!(
                %official_account,
                "getkflist lists no kf account: those that are watched stay so. Does the official account have any?"
            ),
            Some(Oddity::Unreadable) => tracing::warn!(
                %official_account,
                "getkflist lists entries without a usable kf_account: whoever is watched stays so, listed or not"
            ),
            Some(Oddity::TooMany { refused }) => tracing::warn!(
                %official_account, refused, most = self.patterns.most,
                "getkflist lists more kf accounts than one official account may have: {refused} are not watched; \
                 exclude some of them, or write narrower patterns"
            ),
        }
    }
}

impl OfficialAccount {
    /// Whether kf accounts come and go with what getkflist lists.
    pub fn discovers(&self) -> bool {
        self.discovery().is_some()
    }

    /// Whether kf accounts are to be discovered, and none has been yet.
    pub fn has_discovered_nobody(&self) -> bool {
        let Some(discovery) = self.discovery() else { return false };
        let named = &discovery.patterns.named;
        self.accounts().iter().all(|account| named.contains(&account.account().kf_account))
    }

    /// The kf accounts of a list that would be watched and are not yet. They are not from then on, either.
    pub fn undiscovered(&self, listed: &[ListedAccount]) -> Vec<Arc<WatchedAccount>> {
        let Some(discovery) = self.discovery() else { return Vec::new() };
        let watched = self.accounts();
        let mut known: HashSet<&str> = watched.iter().map(|account| &*account.account().kf_account).collect();
        let names = listed.iter().map(|listed| &listed.kf_account);
        let wanted = names.filter(|name| discovery.patterns.discover(name) && known.insert(name));
        let room = discovery.patterns.most.saturating_sub(watched.len());
        let account = |name: &Arc<str>| {
            let account = Account {
                official_account: Arc::clone(&self.status.name),
                appid: Arc::clone(&discovery.appid),
                kf_account: Arc::clone(name),
            };
            // Nothing of it is stored, so there is no row.
            Arc::new(WatchedAccount::new(account, AccountId(0), AccountTracker::default()))
        };
        wanted.take(room).map(account).collect()
    }
}

/// An account that is not to be watched any more.
pub struct Leaving {
    /// The store's row of it.
    pub row: AccountId,
    /// Who it is.
    pub account: Account,
    /// What is known of it.
    pub watch: AccountTracker,
}

impl Poller {
    /// Tells accounts as unwatched and lets the store forget that they were watched. Their sessions do not end, and
    /// their snapshots are kept for a time, so that they can come back. `source` is what they left: the configuration,
    /// or the answers of a call.
    ///
    /// All or nothing. Whoever calls makes sure that no poll of theirs is in flight, and that none follows.
    pub async fn unwatch(&self, leaving: Vec<Leaving>, source: &'static str) -> Result<(), StoreError> {
        if leaving.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let commits: Vec<PollCommit> = leaving
            .into_iter()
            .map(|Leaving { row, account, watch }| {
                let step = watch.unwatched(now, source);
                let record = AccountRecord::after(&step);
                PollCommit { id: row, account, changes: step.changes, record }
            })
            .collect();
        let changes = commits.iter().map(|commit| commit.changes.len() as u64).sum();
        let accounts: Vec<Account> = commits.iter().map(|commit| commit.account.clone()).collect();
        self.store.remove_accounts(commits).await?;
        self.metrics.events_committed(EventType::StateChanged, changes);
        for account in accounts {
            tracing::info!(%account, left = source, "Not watched any more; its sessions do not end by that");
        }
        Ok(())
    }

    /// Lets discovered kf accounts come and go with a list.
    pub(super) async fn discover(
        &self,
        official_account: &Arc<OfficialAccount>,
        list: &KfList,
    ) -> Result<(), StoreError> {
        let Some(discovery) = official_account.discovery() else { return Ok(()) };
        let name = &official_account.status.name;
        let mut warned = discovery.warned.lock().await;
        let listed = &list.accounts;
        if listed.is_empty() && list.complete {
            discovery.warn(name, &mut warned, Some(Oddity::NothingListed));
            return Ok(());
        }
        let wanted = listed.iter().map(|listed| &listed.kf_account);
        let wanted: Vec<&Arc<str>> = wanted.filter(|name| discovery.patterns.discover(name)).collect();
        let present = match list.complete {
            true => self.let_go(official_account, &discovery.patterns, &wanted).await?,
            false => official_account.accounts(),
        };
        let room = discovery.patterns.most.saturating_sub(present.len());
        let mut known: HashSet<&str> = present.iter().map(|account| &*account.account().kf_account).collect();
        let (coming, refused) = split(wanted.into_iter().filter(|name| known.insert(name)), room);
        self.take_in(official_account, &discovery, &coming).await?;
        let oddity = match (list.complete, refused) {
            (false, _) => Some(Oddity::Unreadable),
            (true, 0) => None,
            (true, refused) => Some(Oddity::TooMany { refused }),
        };
        discovery.warn(name, &mut warned, oddity);
        Ok(())
    }

    /// Lets those go that are neither named nor wanted, and gives those that stay. An account that is being polled for
    /// longer than we wait stays until the next list: the poll's commit would bring it back.
    async fn let_go(
        &self,
        official_account: &Arc<OfficialAccount>,
        patterns: &Patterns,
        wanted: &[&Arc<str>],
    ) -> Result<Arc<Vec<Arc<WatchedAccount>>>, StoreError> {
        let wanted: HashSet<&str> = wanted.iter().map(|name| &***name).collect();
        let stays = |account: &&Arc<WatchedAccount>| {
            let kf_account = &account.account().kf_account;
            patterns.named.contains(kf_account) || wanted.contains(&**kf_account)
        };
        let present = official_account.accounts();
        let leaving = present.iter().filter(|account| !stays(account));
        let claims = leaving
            .map(|account| tokio::time::timeout(CLAIM_PATIENCE, official_account.guard_when_free(account)));
        let claims: Vec<PollGuard> = join_all(claims).await.into_iter().flatten().collect();
        if claims.is_empty() {
            return Ok(present);
        }
        let leaving = claims.iter().map(|guard| guard.account().leaving()).collect();
        self.unwatch(leaving, Endpoint::KfList.as_str()).await?;
        let gone: HashSet<AccountId> = claims.iter().map(|guard| guard.account().row()).collect();
        // Never given back: what still knows the accounts can poll them no more.
        claims.into_iter().for_each(PollGuard::keep);
        let stayed = present.iter().filter(|account| !gone.contains(&account.row())).cloned();
        official_account.set_accounts(stayed.collect());
        Ok(official_account.accounts())
    }

    async fn take_in(
        &self,
        official_account: &OfficialAccount,
        discovery: &Discovery,
        coming: &[&Arc<str>],
    ) -> Result<(), StoreError> {
        if coming.is_empty() {
            return Ok(());
        }
        let account = |kf_account: &&Arc<str>| Account {
            official_account: Arc::clone(&official_account.status.name),
            appid: Arc::clone(&discovery.appid),
            kf_account: Arc::clone(kf_account),
        };
        let stored = self.store.add_accounts(coming.iter().map(account).collect()).await?;
        let new = stored.into_iter().map(|stored| WatchedAccount::restored(stored, &official_account.status));
        official_account.set_accounts(official_account.accounts().iter().cloned().chain(new).collect());
        tracing::info!(
            official_account = %official_account.status.name, kf_accounts = coming.len(),
            "getkflist lists kf accounts that were not watched; they are polled from the next tick: {}",
            named(coming)
        );
        Ok(())
    }
}

/// The first `room` of them, and how many there are beyond.
fn split<T>(all: impl Iterator<Item = T>, room: usize) -> (Vec<T>, usize) {
    let mut all: Vec<T> = all.collect();
    let refused = all.len().saturating_sub(room);
    all.truncate(room);
    (all, refused)
}

fn named(kf_accounts: &[&Arc<str>]) -> String {
    let first: Vec<&str> = kf_accounts.iter().take(MAX_NAMED).map(|name| &***name).collect();
    match kf_accounts.len() - first.len() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}
