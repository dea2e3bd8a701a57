//! Gives a command access to the store: directly, or through the daemon that has locked it.
//!
//! A command that changes the store or calls WeChat locks the store, so that no daemon starts meanwhile; if a daemon has locked it,
//! the command goes to that daemon. A store that does not exist is not created, except for a third-party platform and by the owner of
//! its directory: it would belong to the user of the command instead of the daemon's.
//!
//! A command that only reads ([`read_sinks`]) needs no lock. It asks the daemon, whose knowledge is more recent; if no daemon runs,
//! it reads the store, and does not keep a daemon from starting.

use std::path::Path;

use super::{CliError, init_logging, output, ownership::command_for_owner_of};
use crate::{
    app,
    config::{Config, ControlConfig, LocalConfig, LogConfig, StoreConfig, StoreLocation},
    control::client::{ControlClient, ControlClientError},
    dispatch::admin::{SinkAdmin, SinkAnswer, SinkCommand, StoreSinks},
    store::{Cluster, Store, StoreError},
};

/// Who has locked the store.
pub(super) enum StoreAccess {
    /// A running daemon.
    Daemon(RunningDaemon),
    /// This command. `None` if there is no store.
    Direct(Option<Store>),
}

/// A daemon that has locked the store.
pub(super) struct RunningDaemon {
    pub(super) client: ControlClient,
    name: String,
}

/// Carries out a read-only command on sinks.
pub(super) async fn read_sinks(config: &LocalConfig, command: SinkCommand) -> Result<SinkAnswer, CliError> {
    init_logging("warn", config.log.format)?;
    let request = async { ControlClient::new(config.control.path_of_daemon())?.sinks(command.clone()).await };
    if let Some(answer) = ask_daemon(&config.control, request).await? {
        return Ok(answer);
    }
    let stores = stores_to_read(&config.store).await?;
    let admin = SinkAdmin::default();
    admin.publish(stores.into_iter().map(StoreSinks::to_read).collect());
    let answer = admin.execute(command).await;
    answer.map_err(|error| anyhow::Error::new(error).into())
}

/// Creates the store for the refresh tokens of a third-party platform, which must not be lost. Other official accounts work without.
pub(super) fn create_for_platform(config: &Config) -> Result<Option<Store>, CliError> {
    let Some(official_account) = app::account_of_platform(config) else { return Ok(None) };
    let path = file(&config.store, &config.control)?;
    if path.parent().is_some_and(Path::is_dir)
        && let Some(command) = command_for_owner_of(path)
    {
        let problem = anyhow::anyhow!(
            "there is no store at {} to keep a new refresh token of {official_account} in: run `{command}`, which creates it",
            path.display()
        );
        return Err(problem.into());
    }
    Ok(Some(Store::open(path)?))
}

/// Opens what the store consists of for reading: one file, or all shards.
pub(super) async fn stores_to_read(store: &StoreConfig) -> Result<Vec<Store>, StoreError> {
    match &store.location {
        StoreLocation::File(path) => Ok(vec![Store::open_to_read(path)?]),
        StoreLocation::Postgres(cluster) => {
            Ok(Cluster::connect_to_read(cluster.database.clone()).await?.shards_to_read(|_| false))
        }
    }
}

/// The file of the store, for a command that finds no daemon. Fails if the store is in PostgreSQL: only a daemon of the cluster can carry
/// the command out then.
pub(super) fn file<'a>(store: &'a StoreConfig, control: &ControlConfig) -> Result<&'a Path, CliError> {
    match &store.location {
        StoreLocation::File(path) => Ok(path),
        StoreLocation::Postgres(_) => Err(anyhow::anyhow!(
            "{} does not run: use this command where it runs",
            daemon_name(control, None)
        )
        .into()),
    }
}

/// Awaits a request to the daemon. `None` if none runs.
pub(super) async fn ask_daemon<T>(
    control: &ControlConfig,
    request: impl Future<Output = Result<T, ControlClientError>>,
) -> Result<Option<T>, CliError> {
    match request.await {
        Ok(answer) => Ok(Some(answer)),
        // If there can be no socket, no process listens on it either.
        Err(ControlClientError::NoListener(_) | ControlClientError::Socket(_)) => Ok(None),
        Err(error) => Err(request_failed(&daemon_name(control, None), error)),
    }
}

impl StoreAccess {
    /// Sets up logging, and locks this store or finds the daemon that has locked it. A store in PostgreSQL is always left to a daemon.
    pub(super) fn acquire(
        log: &LogConfig,
        store: &StoreConfig,
        control: &ControlConfig,
    ) -> Result<Self, CliError> {
        init_logging("warn", log.format)?;
        let StoreLocation::File(path) = &store.location else { return Self::daemon(control, None) };
        match Store::exists(path)?.then(|| Store::open(path)).transpose() {
            Ok(store) => Ok(Self::Direct(store)),
            Err(StoreError::Locked { pid, .. }) => Self::daemon(control, pid),
            Err(error) => Err(error.into()),
        }
    }

    fn daemon(control: &ControlConfig, pid: Option<u32>) -> Result<Self, CliError> {
        let name = daemon_name(control, pid);
        match ControlClient::new(control.path_of_daemon()) {
            Ok(client) => {
                let client = client.on_note(|note| output::note(note));
                Ok(Self::Daemon(RunningDaemon { client, name }))
            }
            Err(error) => Err(request_failed(&name, error)),
        }
    }
}

impl RunningDaemon {
    /// Names the daemon in the error of a request.
    pub(super) fn request_failed(&self, error: ControlClientError) -> CliError {
        request_failed(&self.name, error)
    }
}

pub(super) fn daemon_name(control: &ControlConfig, pid: Option<u32>) -> String {
    let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
    format!("{control}{process}")
}

pub(super) fn request_failed(name: &str, error: ControlClientError) -> CliError {
    // As if there were no daemon.
    if let ControlClientError::UnknownAccount(_) = error {
        return anyhow::Error::new(error).into();
    }
    anyhow::Error::new(error).context(format!("ask {name}")).into()
}
