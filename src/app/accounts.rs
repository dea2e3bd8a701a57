//! Which kf accounts of an official account are watched, according to its configuration.

use std::{collections::HashMap, sync::Arc};

use crate::{
    config::{Config, MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT, OfficialAccountConfig},
    domain::account::Account,
    poll::{AccountDiscovery, DiscoveryPatterns, OfficialAccount},
    store::{Store, StoreError},
};

/// The names of kf accounts by the appid of their official account.
pub(super) type KfAccountNames = HashMap<Arc<str>, Vec<Arc<str>>>;

/// The kf accounts of each official account: the named ones, and previously discovered ones that still match its patterns.
/// The latter are polled without waiting for the next getkflist.
pub async fn watched_accounts(
    config: &Config,
    store: Option<&Store>,
) -> Result<Vec<Vec<Account>>, StoreError> {
    let known = match store {
        Some(store) => discovered(config, store).await?,
        None => KfAccountNames::new(),
    };
    let accounts = config.official_accounts.iter().map(|configured| {
        let known = known.get(configured.appid.as_str()).map(Vec::as_slice).unwrap_or_default();
        with_names(configured, watched(configured, known)).collect()
    });
    Ok(accounts.collect())
}

/// The kf accounts that the store knows as watched. Reads nothing if no official account has patterns.
pub(super) async fn discovered(config: &Config, store: &Store) -> Result<KfAccountNames, StoreError> {
    let mut known = KfAccountNames::new();
    if config.official_accounts.iter().any(|configured| !configured.patterns.is_empty()) {
        for Account { appid, kf_account, .. } in store.watched_accounts().await? {
            known.entry(appid).or_default().push(kf_account);
        }
    }
    Ok(known)
}

/// The kf accounts of an official account: the named ones, and those of `known` that match its patterns.
pub(super) fn watched(configured: &OfficialAccountConfig, known: &[Arc<str>]) -> Vec<Arc<str>> {
    let mut watched: Vec<Arc<str>> = configured.kf_accounts.iter().map(|name| name.as_str().into()).collect();
    if let Some(patterns) = patterns(configured) {
        watched.extend(known.iter().filter(|kf_account| patterns.discover(kf_account)).cloned());
        watched.truncate(patterns.most);
    }
    watched
}

/// Makes an official account discover kf accounts if patterns are configured, and no more otherwise.
pub(super) fn set_discovery(official_account: &OfficialAccount, configured: &OfficialAccountConfig) {
    let discovery = patterns(configured)
        .map(|patterns| AccountDiscovery::new(patterns, configured.appid.as_str().into()));
    official_account.set_discovery(discovery);
}

/// The patterns that discover kf accounts of an official account, if any are configured.
pub(super) fn patterns(configured: &OfficialAccountConfig) -> Option<DiscoveryPatterns> {
    (!configured.patterns.is_empty()).then(|| DiscoveryPatterns {
        named: configured.kf_accounts.iter().map(|kf_account| kf_account.as_str().into()).collect(),
        matching: configured.patterns.clone(),
        exclude: configured.exclude.clone(),
        most: MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT,
    })
}

/// The kf accounts that the configuration of an official account names.
pub fn accounts(configured: &OfficialAccountConfig) -> impl Iterator<Item = Account> {
    with_names(configured, configured.kf_accounts.iter().map(|kf_account| kf_account.as_str().into()))
}

/// Accounts with these names. They share the strings for the official account and its appid.
pub(super) fn with_names(
    configured: &OfficialAccountConfig,
    kf_accounts: impl IntoIterator<Item = Arc<str>>,
) -> impl Iterator<Item = Account> {
    let official_account: Arc<str> = configured.name.as_str().into();
    let appid: Arc<str> = configured.appid.as_str().into();
    kf_accounts.into_iter().map(move |kf_account| Account {
        official_account: Arc::clone(&official_account),
        appid: Arc::clone(&appid),
        kf_account,
    })
}
