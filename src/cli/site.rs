//! Commands that call WeChat: by the running daemon, or, where none runs, by themselves.

use std::{collections::HashSet, sync::Arc};

use futures_util::StreamExt;

use super::{
    Failure,
    store_holder::{Daemon, StoreHolder},
};
use crate::{
    app::{self, clock::SystemClock},
    config::{Config, Loaded},
    control::{
        operations::Operations,
        report::{Checked, Polled},
    },
    domain::clock::Clock,
    store::Store,
};

/// Who carries a command out.
pub(super) enum Site {
    /// The daemon that runs.
    Daemon(Daemon),
    /// This command itself.
    Here {
        operations: Box<Operations>,
        /// Locked until the command is done.
        store: Option<Store>,
    },
}

impl Site {
    /// Sets up the log, and finds out who is to carry out a command for this configuration.
    pub(super) async fn find(loaded: &Loaded) -> Result<Self, Failure> {
        let holder = StoreHolder::find(loaded)?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let store = match holder {
            StoreHolder::Daemon(daemon) => return Ok(Self::Daemon(daemon)),
            StoreHolder::Here(store) => store,
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let operations = Box::new(app::operations_by_hand(&loaded.config, store.as_ref(), clock).await?);
        Ok(Self::Here { operations, store })
    }

    /// Polls every kf account once.
    pub(super) async fn polls(self, config: &Config) -> Result<Vec<Polled>, Failure> {
        match self {
            Self::Daemon(daemon) => {
                let polled = daemon.client.polls().await.map_err(|error| daemon.failed(error))?;
                let names = polled.iter().map(|row| (&*row.official_account, row.kf_account.as_deref()));
                note_differences(config, names.filter_map(|(of, account)| Some((of, account?))));
                Ok(polled)
            }
            Self::Here { operations, store } => {
                let polled = operations.polls().collect().await;
                close(store).await;
                Ok(polled)
            }
        }
    }

    /// Asks WeChat for all that tells whether everything is in order.
    pub(super) async fn checks(self, config: &Config) -> Result<Vec<Checked>, Failure> {
        match self {
            Self::Daemon(daemon) => {
                let checked = daemon.client.checks().await.map_err(|error| daemon.failed(error))?;
                note_differences(
                    config,
                    checked.iter().map(Checked::names).filter_map(|(of, account)| Some((of, account?))),
                );
                Ok(checked)
            }
            Self::Here { operations, store } => {
                let checked = operations.checks().collect().await;
                close(store).await;
                Ok(checked)
            }
        }
    }
}

async fn close(store: Option<Store>) {
    if let Some(store) = store {
        store.close().await;
    }
}

/// How many kf accounts are named that only one of the two configurations has.
const NAMED: usize = 5;

/// The daemon's configuration rules. Where this one names other accounts, somebody may wonder about the results.
fn note_differences<'a>(config: &'a Config, watched: impl Iterator<Item = (&'a str, &'a str)>) {
    // What patterns find is only known to the daemon.
    let discovering: HashSet<&str> =
        config.official_accounts.iter().filter(|of| !of.patterns.is_empty()).map(|of| &*of.name).collect();
    let watched: HashSet<(&str, &str)> = watched.filter(|(of, _)| !discovering.contains(of)).collect();
    let named = config.official_accounts.iter().filter(|of| of.patterns.is_empty());
    let configured = named.flat_map(|of| {
        let kf_accounts = of.kf_accounts.iter();
        kf_accounts.map(|kf_account| (&*of.name, &**kf_account))
    });
    let configured: HashSet<(&str, &str)> = configured.collect();
    let differences = [
        ("this configuration does not have what the daemon watches", watched.difference(&configured)),
        ("the daemon does not watch what this configuration has", configured.difference(&watched)),
    ];
    for (what, accounts) in differences {
        let mut accounts: Vec<String> = accounts.map(|(of, account)| format!("{of}/{account}")).collect();
        if accounts.is_empty() {
            continue;
        }
        accounts.sort();
        let more = accounts.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        accounts.truncate(NAMED);
        eprintln!(
            "note: {what}: {}{more}; restart the daemon if its configuration has changed",
            accounts.join(", ")
        );
    }
}
