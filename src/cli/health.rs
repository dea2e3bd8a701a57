//! `kfwatch health`: whether the daemon runs and makes progress, for health checks of containers, whose image has no shell and no HTTP
//! client. Needs no secrets, and of the configuration only the control socket: a mistake that somebody makes in the file does not make the
//! running daemon unhealthy.

use std::time::Duration;

use super::{
    CliError, ConfigArgs, output,
    store_access::{daemon_name, request_failed},
};
use crate::{
    config::{Config, Environment},
    control::client::{ControlClient, ControlClientError},
};

/// How long the daemon may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct HealthArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) async fn run(args: HealthArgs) -> Result<(), CliError> {
    let control = Config::load_control(&args.config.find()?, &Environment::from_process())?;
    let answer = async { ControlClient::new(control.path_of_daemon())?.health(TIMEOUT).await };
    match answer.await {
        Ok(()) => output::print("The daemon makes progress.\n".to_owned()).await,
        Err(ControlClientError::Refused(stalls)) => Err(anyhow::Error::msg(stalls).into()),
        Err(error) => Err(request_failed(&daemon_name(&control, None), error)),
    }
}
