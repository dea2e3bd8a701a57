//! Who has the store: a daemon that runs, or this command.
//!
//! The store's lock tells. While a command works by itself it holds the lock, so that no daemon starts beside it. A store
//! that does not exist is not created: it would belong to whoever gives the command, not to the daemon.
//!
//! A mere look needs to know of no lock: whoever answers knows best, and where nobody does, the store is read as it stands, without
//! keeping out a daemon that starts meanwhile ([`look`]).

use std::path::Path;

use super::{Failure, init_logging};
use crate::{
    config::Loaded,
    control::client::{ControlClient, ControlError},
    dispatch::admin::{SinkAdmin, SinkAnswer, SinkCommand},
    store::{Store, StoreError},
};

/// Who has the store.
pub(super) enum StoreHolder {
    /// The daemon that runs on it.
    Daemon(Daemon),
    /// This command. `None` if there is no store.
    Here(Option<Store>),
}

/// A daemon that runs.
pub(super) struct Daemon {
    /// To ask it by.
    pub(super) client: ControlClient,
    name: String,
}

/// How sinks stand or what they refused, as the daemon that runs tells it, or else as it is stored.
pub(super) async fn look(loaded: &Loaded, command: SinkCommand) -> Result<SinkAnswer, Failure> {
    init_logging("warn", loaded.config.log.format)?;
    let path = &loaded.config.store.path;
    match asked(path, command.clone()).await {
        // Not that there can be no socket, either: then nobody listens.
        Err(ControlError::NobodyListens(_) | ControlError::Socket(_)) => {}
        answered => return answered.map_err(|error| no_answer(&name(path, None), error)),
    }
    let store = Store::open_to_read(path)?;
    let answer = SinkAdmin::without_daemon(store).carry_out(command).await;
    answer.map_err(|error| anyhow::Error::new(error).into())
}

async fn asked(path: &Path, command: SinkCommand) -> Result<SinkAnswer, ControlError> {
    ControlClient::new(path)?.sinks(command).await
}

impl StoreHolder {
    /// Sets up the log, and finds out who has the store of this configuration.
    pub(super) fn find(loaded: &Loaded) -> Result<Self, Failure> {
        let config = &loaded.config;
        init_logging("warn", config.log.format)?;
        let path = &config.store.path;
        match path.exists().then(|| Store::open(path)).transpose() {
            Ok(store) => Ok(Self::Here(store)),
            Err(StoreError::Locked { path, pid }) => {
                let name = name(&path, pid);
                match ControlClient::new(&path) {
                    Ok(client) => Ok(Self::Daemon(Daemon { client, name })),
                    Err(error) => Err(no_answer(&name, error)),
                }
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Daemon {
    /// It did not do what it was asked for.
    pub(super) fn failed(&self, error: ControlError) -> Failure {
        no_answer(&self.name, error)
    }
}

fn name(path: &Path, pid: Option<u32>) -> String {
    let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
    format!("the kfwatch that uses {}{process}", path.display())
}

fn no_answer(name: &str, error: ControlError) -> Failure {
    anyhow::Error::new(error).context(format!("ask {name}")).into()
}
