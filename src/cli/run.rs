//! `kfwatch run`: the daemon.

use std::{
    path::{self, Path},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp;

use super::{
    CliError, ConfigArgs,
    check::overview::sink_shown,
    init_logging,
    signals::{self, Shutdown},
};
use crate::{
    app::{App, ConfigLoader, ProcessSettings, clock::SystemClock, service_manager::ServiceManager},
    config::{Config, Environment, LoadedConfig},
    domain::clock::Clock,
    logging::LogHandle,
    reload::ReloadTrigger,
};

/// How long the daemon may take to end beyond `shutdown_timeout`: to close the store, and after tasks were aborted.
pub(super) const AFTER_DRAIN: Duration = Duration::from_secs(5);

pub(super) async fn run(args: ConfigArgs, shutdown: Shutdown) -> Result<(), CliError> {
    let file = args.find()?;
    let LoadedConfig { config, warnings } = Config::load(&file, &Environment::from_process())?;
    // From here on, a signal drains the daemon.
    let signalled = shutdown.within(config.shutdown_timeout.saturating_add(AFTER_DRAIN));
    let log = init_logging(&config.log.level, config.log.format)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let service_manager = ServiceManager::of_process(&Environment::from_process());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let now = clock.now().wall;
    service_manager.starting("opening the store").await;
    let app = App::build(config, clock).await?;
    let loaded_file = file.clone();
    let loader = ConfigLoader::new(move || Config::load(&loaded_file, &Environment::from_process()));
    let app = app
        .with_service_manager(service_manager)
        .with_process_settings(process_settings(log, shutdown))
        .with_config_loader(loader);
    log_start(&file, app.config(), now);
    log_calls(&app, now);
    let (reopen_files, reloads) = (app.reopen_files(), app.reload_requests());
    let at_hangup = move || {
        tracing::info!(
            "SIGHUP: sinks reopen their files at the next delivery, and the configuration is reloaded"
        );
        reopen_files();
        if let Err(error) = reloads.request(ReloadTrigger::Hangup) {
            tracing::warn!("SIGHUP reloads nothing: {error}");
        }
    };
    let running = signals::at_hangup(at_hangup, Box::pin(app.run(signalled)));
    Ok(running.await.context("listen for signals")??)
}

/// What a reload changes outside of the daemon's parts.
fn process_settings(log: LogHandle, shutdown: Shutdown) -> ProcessSettings {
    ProcessSettings {
        log: Box::new(move |config| {
            log.set(&config.level, config.format).map_err(|error| format!("{error:#}"))
        }),
        shutdown_timeout: Box::new(move |timeout| drop(shutdown.within(timeout.saturating_add(AFTER_DRAIN)))),
    }
}

/// Logs which files and sinks this daemon uses and when it polls: what a person needs who waits for the first event.
fn log_start(file: &Path, config: &Config, now: Timestamp) {
    let sinks: Vec<String> = config.sinks.iter().map(|sink| sink_shown(&sink.name, &sink.target)).collect();
    let next = config.official_accounts.iter().filter_map(|account| account.schedule.next_after(now)).min();
    let zone = config.poll.timezone;
    tracing::info!(
        config = %path::absolute(file).unwrap_or_else(|_| file.to_owned()).display(),
        store = %config.store.location,
        sinks = sinks.join(", "),
        "Starting; the next poll is at {} {zone}",
        next.map_or_else(|| "no time".to_owned(), |next| zone.show(next))
    );
}

/// How many official accounts get a log line of their own.
const MAX_LOGGED: usize = 20;

/// Logs how many calls a day this configuration makes.
fn log_calls(app: &App, now: Timestamp) {
    let official_accounts = app.watched();
    let mut all_calls = 0;
    for (n, ((name, kf_accounts), calls)) in
        official_accounts.iter().zip(app.config().daily_calls(now)).enumerate()
    {
        let kf_accounts = kf_accounts.len();
        let calls_a_day = calls.for_kf_accounts(kf_accounts);
        all_calls += calls_a_day;
        if n < MAX_LOGGED {
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
