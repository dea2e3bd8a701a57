//! Who has the store: a daemon that runs, or this command.
//!
//! The store's lock tells. While a command works by itself it holds the lock, so that no daemon starts beside it. A store
//! that does not exist is not created: it would belong to whoever gives the command, not to the daemon.

use super::{Failure, init_logging};
use crate::{
    config::Loaded,
    control::client::{ControlClient, ControlError},
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

impl StoreHolder {
    /// Sets up the log, and finds out who has the store of this configuration.
    pub(super) fn find(loaded: &Loaded) -> Result<Self, Failure> {
        let config = &loaded.config;
        init_logging("warn", config.log.format)?;
        let path = &config.store.path;
        match path.exists().then(|| Store::open(path)).transpose() {
            Ok(store) => Ok(Self::Here(store)),
            Err(StoreError::Locked { path, pid }) => {
                let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
                let name = format!("the kfwatch that uses {}{process}", path.display());
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

fn no_answer(name: &str, error: ControlError) -> Failure {
    anyhow::Error::new(error).context(format!("ask {name}")).into()
}
