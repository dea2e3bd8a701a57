//! Builds the watched accounts from the configuration and restores their state from the store.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
};

use super::{error::AppError, official_accounts::OfficialAccountFactory};
use crate::{
    config::{self, Config, MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT},
    domain::{account::Account, cron::Schedule, quantity::counted},
    metrics::Metrics,
    poll::{AccountDiscovery, DiscoveryPatterns, OfficialAccount, Poller, RemovedAccount},
    status::WatchedAccount,
    store::{Store, StoreError, StoredAccount},
};

/// All watched accounts.
pub(super) struct AccountSet {
    /// In the order of the configuration.
    pub(super) official_accounts: Vec<Arc<OfficialAccount>>,
    pub(super) schedules: HashMap<Schedule, ScheduledAccounts>,
    /// Stored accounts that are no longer configured.
    removed: Vec<StoredAccount>,
}

/// How many official accounts a log line names.
const MAX_NAMED: usize = 3;

fn log_without_kf_accounts(names: &[&str]) {
    if !names.is_empty() {
        let examples = names[..names.len().min(MAX_NAMED)].join(", ");
        tracing::info!(
            official_accounts = names.len(),
            examples,
            "No kf account of {} is known yet: waiting for getkflist",
            counted(names.len() as u64, "official account")
        );
    }
}

/// The official accounts that share one schedule.
#[derive(Default)]
pub(super) struct ScheduledAccounts {
    /// Counts the ticks of the schedule.
    pub(super) ticks: Arc<AtomicU64>,
    pub(super) official_accounts: Vec<Arc<OfficialAccount>>,
}

impl AccountSet {
    /// Registers the configured and the previously discovered accounts with the store, and restores their state.
    pub(super) async fn restore(
        config: &Config,
        store: &Store,
        metrics: &Metrics,
        factory: &OfficialAccountFactory,
    ) -> Result<Self, AppError> {
        let lists = watched_accounts(config, Some(store)).await?;
        let counts: Vec<usize> = lists.iter().map(Vec::len).collect();
        let registered = store.register_accounts(lists.into_iter().flatten().collect()).await?;
        let mut stored = registered.configured.into_iter();
        let mut set =
            Self { official_accounts: Vec::new(), schedules: HashMap::new(), removed: registered.left };
        let mut without = Vec::new();
        for (configured, count) in config.official_accounts.iter().zip(counts) {
            let schedule = set.schedules.entry(configured.schedule.clone()).or_default();
            let ticks = Arc::clone(&schedule.ticks);
            let official_account = factory.official_account(&factory.client(), configured, ticks, metrics);
            let accounts = stored.by_ref().take(count);
            let accounts =
                accounts.map(|stored| WatchedAccount::from_stored(stored, official_account.status.ticks()));
            official_account.status.add_kf_accounts(accounts.collect());
            set_discovery(&official_account, configured);
            if count == 0 {
                without.push(configured.name.as_str());
            }
            schedule.official_accounts.push(Arc::clone(&official_account));
            set.official_accounts.push(official_account);
        }
        log_without_kf_accounts(&without);
        Ok(set)
    }

    /// Records the accounts that are no longer configured as unwatched.
    pub(super) async fn announce_removed(&mut self, poller: &Poller) -> Result<(), AppError> {
        let removed = std::mem::take(&mut self.removed).into_iter().map(|removed| RemovedAccount {
            id: removed.id,
            account: removed.account.clone(),
            tracker: removed.into_tracker(),
        });
        Ok(poller.remove_accounts(removed.collect(), "configuration").await?)
    }
}

/// The kf accounts of each official account: the named ones, and previously discovered ones that still match its patterns.
/// The latter are polled without waiting for the next getkflist.
pub async fn watched_accounts(
    config: &Config,
    store: Option<&Store>,
) -> Result<Vec<Vec<Account>>, StoreError> {
    let patterns: Vec<Option<DiscoveryPatterns>> = config.official_accounts.iter().map(patterns).collect();
    let mut known: HashMap<Arc<str>, Vec<Account>> = HashMap::new();
    if let Some(store) = store.filter(|_| patterns.iter().any(Option::is_some)) {
        for account in store.watched_accounts().await? {
            known.entry(Arc::clone(&account.appid)).or_default().push(account);
        }
    }
    let lists = config.official_accounts.iter().zip(patterns).map(|(configured, patterns)| {
        let mut list: Vec<Account> = accounts(configured).collect();
        if let (Some(patterns), Some(known)) = (patterns, known.get(configured.appid.as_str())) {
            let found = known.iter().map(|known| &*known.kf_account);
            list.extend(with_names(configured, found.filter(|kf_account| patterns.discover(kf_account))));
            list.truncate(patterns.most);
        }
        list
    });
    Ok(lists.collect())
}

/// Makes an official account discover kf accounts exactly if patterns are configured.
pub(super) fn set_discovery(of: &OfficialAccount, configured: &config::OfficialAccountConfig) {
    let discovery = |patterns| AccountDiscovery::new(patterns, configured.appid.as_str().into());
    of.set_discovery(patterns(configured).map(discovery));
}

/// The patterns that discover kf accounts of an official account, if any are configured.
fn patterns(configured: &config::OfficialAccountConfig) -> Option<DiscoveryPatterns> {
    (!configured.patterns.is_empty()).then(|| DiscoveryPatterns {
        named: configured.kf_accounts.iter().map(|kf_account| kf_account.as_str().into()).collect(),
        matching: configured.patterns.clone(),
        exclude: configured.exclude.clone(),
        most: MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT,
    })
}

/// The kf accounts that the configuration of an official account names.
pub fn accounts(configured: &config::OfficialAccountConfig) -> impl Iterator<Item = Account> {
    with_names(configured, configured.kf_accounts.iter().map(String::as_str))
}

/// Accounts with these names. They share the strings for the official account and its appid.
fn with_names<'a>(
    configured: &config::OfficialAccountConfig,
    kf_accounts: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = Account> {
    let official_account: Arc<str> = configured.name.as_str().into();
    let appid: Arc<str> = configured.appid.as_str().into();
    kf_accounts.map(move |kf_account| Account {
        official_account: Arc::clone(&official_account),
        appid: Arc::clone(&appid),
        kf_account: kf_account.into(),
    })
}
