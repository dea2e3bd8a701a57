//! Runs the commands that call WeChat: through the running daemon, or directly if none runs.

use std::{collections::HashSet, future::Future, sync::Arc, time::Duration};

use futures_util::StreamExt;

use super::{
    CliError,
    account_args::unknown_in,
    output,
    signals::Shutdown,
    store_access::{RunningDaemon, StoreAccess, create_for_platform},
};
use crate::{
    app::{self, clock::SystemClock},
    config::{Config, LoadedConfig},
    control::{
        operations::Operations,
        report::{CheckReport, PollReport},
    },
    domain::{account_filter::AccountFilter, clock::Clock},
    store::Store,
};

/// Who carries out a command.
pub(super) enum OperationsRunner {
    Daemon(RunningDaemon),
    Direct {
        operations: Box<Operations>,
        /// Locked until the command is done.
        store: Option<Store>,
    },
}

impl OperationsRunner {
    /// Sets up logging and prepares to carry out a command for this configuration.
    pub(super) async fn prepare(loaded: &LoadedConfig) -> Result<Self, CliError> {
        let access = StoreAccess::acquire(&loaded.config.log, &loaded.config.store, &loaded.config.control)?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let store = match access {
            StoreAccess::Daemon(daemon) => return Ok(Self::Daemon(daemon)),
            StoreAccess::Direct(None) => create_for_platform(&loaded.config)?,
            StoreAccess::Direct(store) => store,
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let operations = Box::new(app::build_operations(&loaded.config, store.as_ref(), clock).await?);
        Ok(Self::Direct { operations, store })
    }

    /// Polls each selected kf account once.
    pub(super) async fn polls(
        self,
        config: &Config,
        filter: &AccountFilter,
        shutdown: &Shutdown,
    ) -> Result<Vec<PollReport>, CliError> {
        let reports = match self {
            Self::Daemon(daemon) => {
                let polls = daemon.client.polls(filter.clone()).await;
                let reports = polls.map_err(|error| daemon.request_failed(error))?;
                let names = reports.iter().map(|row| (&*row.official_account, row.kf_account.as_deref()));
                note_differences(config, filter, names);
                reports
            }
            Self::Direct { operations, store } => {
                operations.token_wait(filter).into_iter().for_each(output::note);
                finish(operations.polls(filter.clone())?.collect(), store, shutdown).await?
            }
        };
        if reports.is_empty() && !filter.is_empty() {
            // getkflist, which was asked meanwhile, does not list it either.
            return Err(unknown_in(config, filter).into());
        }
        Ok(reports)
    }

    /// Checks each selected official account and kf account.
    pub(super) async fn checks(
        self,
        config: &Config,
        filter: &AccountFilter,
        shutdown: &Shutdown,
    ) -> Result<Vec<CheckReport>, CliError> {
        let reports = match self {
            Self::Daemon(daemon) => {
                let checks = daemon.client.checks(filter.clone()).await;
                let reports = checks.map_err(|error| daemon.request_failed(error))?;
                note_differences(config, filter, reports.iter().map(CheckReport::names));
                reports
            }
            Self::Direct { operations, store } => {
                operations.token_wait(filter).into_iter().for_each(output::note);
                finish(operations.checks(filter.clone())?.collect(), store, shutdown).await?
            }
        };
        let explains_nothing = |row: &CheckReport| row.names().1.is_none() && row.problems().is_empty();
        let is_one =
            filter.account.is_some() && !reports.iter().any(|row| filter.selects_all_of(row.names().0));
        if is_one && reports.iter().all(explains_nothing) {
            return Err(unknown_in(config, filter).into());
        }
        Ok(reports)
    }
}

/// How long the store may take to write what it has accepted, such as a new refresh token.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits for the reports or a signal, then closes the store.
async fn finish<T>(
    reports: impl Future<Output = T>,
    store: Option<Store>,
    shutdown: &Shutdown,
) -> Result<T, CliError> {
    let finished = tokio::select! {
        reports = reports => Ok(reports),
        () = shutdown.within(CLOSE_TIMEOUT) => Err(CliError::Interrupted),
    };
    if let Some(store) = store {
        store.close().await;
    }
    // Printing may take as long as the reader likes.
    shutdown.immediately();
    finished
}

/// How many kf accounts a note names.
const MAX_NAMED: usize = 5;

/// Notes which kf accounts only one of the two configurations has: the daemon's, which was used, or this command's.
/// Says nothing about a part of the accounts.
fn note_differences<'a>(
    config: &'a Config,
    filter: &AccountFilter,
    reported: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) {
    if !filter.is_empty() {
        return;
    }
    // Only the daemon knows what patterns match.
    let (with_patterns, named): (Vec<_>, Vec<_>) =
        config.official_accounts.iter().partition(|of| !of.patterns.is_empty());
    let with_patterns: HashSet<&str> = with_patterns.into_iter().map(|of| &*of.name).collect();
    let watched: HashSet<(&str, &str)> = reported
        .filter_map(|(of, kf_account)| Some((of, kf_account?)))
        .filter(|(of, _)| !with_patterns.contains(of))
        .collect();
    let configured: HashSet<(&str, &str)> = named
        .into_iter()
        .flat_map(|of| of.kf_accounts.iter().map(|kf_account| (&*of.name, &**kf_account)))
        .collect();
    let differences = [
        (
            "the daemon watches accounts that this configuration does not have",
            watched.difference(&configured),
        ),
        ("the daemon does not watch accounts of this configuration", configured.difference(&watched)),
    ];
    for (difference, accounts) in differences {
        let mut accounts: Vec<String> = accounts.map(|(of, account)| format!("{of}/{account}")).collect();
        if accounts.is_empty() {
            continue;
        }
        accounts.sort();
        let more = accounts.len().saturating_sub(MAX_NAMED);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        accounts.truncate(MAX_NAMED);
        output::note(format_args!(
            "{difference}: {}{more}; if its configuration has changed, apply it with \"kfwatch reload\"",
            accounts.join(", ")
        ));
    }
}
