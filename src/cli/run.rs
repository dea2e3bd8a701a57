//! `kfwatch run`: the daemon.

use std::sync::Arc;

use super::{ConfigArgs, Failure, init_logging, signals};
use crate::{
    app::{App, clock::SystemClock},
    config::Loaded,
};

/// Runs the daemon until it is told to stop.
pub(super) async fn run(args: &ConfigArgs) -> Result<(), Failure> {
    let Loaded { config, warnings } = args.load()?;
    init_logging(&config.log.level, config.log.format)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let official_accounts = config.official_accounts.len();
    let kf_accounts: usize = config.official_accounts.iter().map(|account| account.kf_accounts.len()).sum();
    let app = App::build(config, Arc::new(SystemClock::default())).await?;
    for address in app.addresses() {
        tracing::info!(%address, "Serving the status page on http://{address}/ and metrics on http://{address}/metrics");
    }
    tracing::info!(official_accounts, kf_accounts, version = env!("CARGO_PKG_VERSION"), "Watching");
    signals::until_signal(|shutdown| app.run(shutdown)).await
}
