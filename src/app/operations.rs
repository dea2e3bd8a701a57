//! What commands are carried out with: the daemon's own official accounts, or some made for one command.

use std::{collections::HashMap, sync::Arc};

use super::{AppError, Connections, accounts::patterns, poll_deadline, watch, watched_accounts};
use crate::{
    config::{self, Config, TokenConfig},
    control::operations::{CommandLimits, ConfiguredOfficialAccount, Operations},
    domain::{account::Account, clock::Clock, tracker::AccountTracker},
    metrics::Metrics,
    poll::{Discovery, OfficialAccount, WatchedAccount},
    store::{AccountId, Store},
};

/// Commands for official accounts in the order of the configuration.
pub(super) fn operations(
    config: &Config,
    official_accounts: &[Arc<OfficialAccount>],
    clock: Arc<dyn Clock>,
) -> Operations {
    let operated = config.official_accounts.iter().zip(official_accounts).map(|(configured, of)| {
        ConfiguredOfficialAccount {
            official_account: Arc::clone(of),
            token_source: configured.token.source(),
            schedule: configured.schedule.clone(),
        }
    });
    let limits = CommandLimits {
        in_flight: config.api.max_in_flight,
        per_official_account: config.api.max_in_flight_per_official_account,
        deadline: poll_deadline(config),
        backoff_policy: config.backoff_policy,
    };
    Operations::new(operated.collect(), clock, limits)
}

/// Commands where no daemon runs: with official accounts of their own, and what the store knows of the kf accounts, if
/// there is a store. That a token is fetched is recorded there, so that a daemon started next keeps its distance.
pub async fn operations_by_hand(
    config: &Config,
    store: Option<&Store>,
    clock: Arc<dyn Clock>,
) -> Result<Operations, AppError> {
    let (connections, stored) = match store {
        Some(store) => {
            (Connections::build(config, store, Arc::clone(&clock)).await?, store.stored_accounts().await?)
        }
        None => {
            refuse_components(config)?;
            (Connections::without_store(config, Arc::clone(&clock))?, Vec::new())
        }
    };
    let lists = watched_accounts(config, store).await?;
    let key = |account: &Account| (Arc::clone(&account.appid), Arc::clone(&account.kf_account));
    let mut known: HashMap<_, AccountTracker> =
        stored.into_iter().map(|stored| (key(&stored.account), watch(stored))).collect();
    let metrics = Metrics::new([])?;
    let official_accounts = config.official_accounts.iter().zip(lists).map(|(configured, accounts)| {
        let official_account = connections.official_account(configured, Arc::default(), &metrics);
        let watched = accounts.into_iter().map(|account| {
            let watch = known.remove(&key(&account)).unwrap_or_default();
            // Nothing is committed, so the row does not matter.
            Arc::new(WatchedAccount::new(account, AccountId(0), watch))
        });
        official_account.set_accounts(watched.collect());
        if let Some(patterns) = patterns(configured) {
            let appid = configured.appid.as_str().into();
            official_account.set_discovery(Discovery::new(patterns, appid));
        }
        official_account
    });
    let official_accounts: Vec<_> = official_accounts.collect();
    Ok(operations(config, &official_accounts, clock))
}

/// A refresh token that WeChat changes would be lost where there is no store to keep it in.
fn refuse_components(config: &Config) -> Result<(), AppError> {
    let component = |of: &&config::OfficialAccountConfig| matches!(of.token, TokenConfig::Component { .. });
    match config.official_accounts.iter().find(component) {
        None => Ok(()),
        Some(of) => Err(AppError::NowhereToKeepRefreshTokens {
            official_account: of.name.clone(),
            path: config.store.path.clone(),
        }),
    }
}
