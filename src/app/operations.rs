//! Builds what `kfwatch poll` and `kfwatch check --online` need: the daemon's official accounts, or new ones if no daemon runs.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    accounts::{set_discovery, watched_accounts},
    error::AppError,
    official_accounts::OfficialAccountFactory,
};
use crate::{
    config::{self, Config, OfficialAccountConfig, TokenConfig},
    control::operations::{CommandLimits, ConfiguredOfficialAccount, Operations},
    domain::{account::Account, clock::Clock, tracker::AccountTracker},
    metrics::Metrics,
    poll::OfficialAccount,
    status::WatchedAccount,
    store::{AccountId, Store},
};

/// The operations on official accounts, each with its configuration.
pub(super) fn operations<'a>(
    config: &Config,
    official_accounts: impl Iterator<Item = (&'a OfficialAccountConfig, &'a Arc<OfficialAccount>)>,
    clock: Arc<dyn Clock>,
) -> Operations {
    let operated = official_accounts.map(|(configured, official_account)| ConfiguredOfficialAccount {
        official_account: Arc::clone(official_account),
        token_source: configured.token.source(),
        schedule: configured.schedule.clone(),
    });
    let limits = CommandLimits {
        in_flight: config.api.max_in_flight,
        per_official_account: config.api.max_in_flight_per_official_account,
        deadline: poll_deadline(config),
        backoff_policy: config.backoff_policy,
    };
    Operations::new(operated.collect(), clock, limits)
}

/// Builds the operations of a command that runs without a daemon. Builds the official accounts, and reads the state of the
/// kf accounts from the store. Token fetches are recorded in the store, so that a daemon that starts next respects
/// `min_fetch_interval`. Only without an [account of a platform](account_of_platform) there may be no store: a refresh token that
/// WeChat changes would be lost.
pub(crate) async fn build_operations(
    config: &Config,
    store: Option<&Store>,
    clock: Arc<dyn Clock>,
) -> Result<Operations, AppError> {
    let (factory, stored) = match store {
        Some(store) => (
            OfficialAccountFactory::build(config, store, Arc::clone(&clock)).await?,
            store.stored_accounts().await?,
        ),
        None => (OfficialAccountFactory::without_store(config, Arc::clone(&clock))?, Vec::new()),
    };
    let lists = watched_accounts(config, store).await?;
    let key = |account: &Account| (Arc::clone(&account.appid), Arc::clone(&account.kf_account));
    let mut known: HashMap<_, AccountTracker> =
        stored.into_iter().map(|stored| (key(&stored.account), stored.into_tracker())).collect();
    let metrics = Metrics::new()?;
    let official_accounts = config.official_accounts.iter().zip(lists).map(|(configured, accounts)| {
        let official_account =
            factory.official_account(&factory.client(), configured, Arc::default(), &metrics);
        let watched = accounts.into_iter().map(|account| {
            let tracker = known.remove(&key(&account)).unwrap_or_default();
            // Nothing is committed, so the id is not used.
            Arc::new(WatchedAccount::new(account, AccountId(0), tracker))
        });
        official_account.status.add_kf_accounts(watched.collect());
        set_discovery(&official_account, configured);
        official_account
    });
    let official_accounts: Vec<_> = official_accounts.collect();
    Ok(operations(config, config.official_accounts.iter().zip(&official_accounts), clock))
}

/// The name of an official account that has authorized a third-party platform, if there is one.
pub(crate) fn account_of_platform(config: &Config) -> Option<&str> {
    let component = |of: &&config::OfficialAccountConfig| matches!(of.token, TokenConfig::Component { .. });
    config.official_accounts.iter().find(component).map(|of| of.name.as_str())
}

/// The longest a poll may take. It may fetch a token, call, fetch another token and call again; at most three of these may
/// take their full timeout.
pub(super) fn poll_deadline(config: &Config) -> Duration {
    config.api.timeout.saturating_mul(3)
}
