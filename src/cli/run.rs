//! `kfwatch run`: the daemon.

use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;

use super::{ConfigArgs, Failure, init_logging, signals};
use crate::{
    app::{App, clock::SystemClock, service_manager::ServiceManager},
    config::{Environment, Loaded},
    domain::clock::Clock,
};

/// Runs the daemon until it is told to stop.
pub(super) async fn run(args: &ConfigArgs) -> Result<(), Failure> {
    let Loaded { config, warnings } = args.load()?;
    init_logging(&config.log.level, config.log.format)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let service_manager = ServiceManager::of_process(&Environment::of_process());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let now = clock.now().wall;
    // A signal during the start is heard as well: what was built by then is drained at once.
    signals::until_signal(|shutdown| async {
        service_manager.starting("opening the store").await;
        let app = App::build(config, clock).await?.telling(service_manager);
        for address in app.addresses() {
            tracing::info!(
                %address,
                "Serving the status page on http://{address}/ and metrics on http://{address}/metrics"
            );
        }
        announce(&app, now);
        let reopen = app.reopen_files();
        let running = signals::reopening(reopen, Box::pin(app.run(shutdown)));
        Ok::<_, Failure>(running.await.context("listen for signals")??)
    })
    .await
}

/// How many official accounts are announced one by one.
const ANNOUNCED: usize = 20;

/// Says what this configuration will do to whose quota.
fn announce(app: &App, now: Timestamp) {
    let web = app.web();
    let official_accounts = web.table.official_accounts();
    let mut all_calls = 0;
    for (n, (of, calls)) in official_accounts.iter().zip(app.config().calls_a_day(now)).enumerate() {
        let (name, kf_accounts) = (&of.name, of.kf_accounts().count());
        let calls_a_day = calls.of(kf_accounts);
        all_calls += calls_a_day;
        if n < ANNOUNCED {
            tracing::info!(official_account = %name, kf_accounts, calls_a_day, "Watching {name}");
        }
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        official_accounts = official_accounts.len(),
        calls_a_day = all_calls,
        collector_calls_a_day = app.config().collectors.calls_a_day() * official_accounts.len() as u64,
        "Watching"
    );
}
