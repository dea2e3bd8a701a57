//! The composition root: builds the parts of the daemon from the configuration, runs them, and drains them in order.
//!
//! [`App::build`] prepares the first reconcile, from nothing to the configuration ([`mod@reconcile`]): everything that can fail before the
//! first call to WeChat. [`App::run`] applies it, and from then on reconciles whenever the desired state changes: at a reload, or when a
//! lease is won or lost. It supervises the tasks ([`tasks`]) and waits for the shutdown signal. Only this module spawns tasks; a task
//! that ends before it was asked to ends the daemon. A drain stops the schedules, lets running polls finish, stores when accounts were
//! last seen, lets each sink finish its attempt, and closes the web server last.

mod accounts;
mod build_sinks;
pub mod clock;
mod context;
mod desired;
mod error;
mod housekeeping;
mod leaving;
mod nicknames;
mod official_accounts;
mod operations;
mod ownership;
mod process_settings;
mod reconcile;
mod reload;
mod replica;
mod run;
mod run_sinks;
pub mod service_manager;
mod service_status;
mod tasks;
mod token_journal;
mod token_records;
mod watchdog;

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::{FutureExt, StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};

pub use self::{
    accounts::{accounts, watched_accounts},
    error::AppError,
    official_accounts::OfficialAccountFactory,
    ownership::Ownership,
    process_settings::ProcessSettings,
    reload::ConfigLoader,
};
pub(crate) use self::{
    build_sinks::{SinkTestError, group_id, test_sink},
    error::listen_remedy,
    operations::{account_of_platform, build_operations},
};
use self::{
    context::RunContext,
    desired::{Desired, OwnedStores},
    leaving::Left,
    ownership::OwnershipRequest,
    reconcile::Prepared,
    reload::Reloader,
    replica::Replica,
    run::{Run, RunEvent},
    service_manager::ServiceManager,
};
use crate::{
    config::{Config, MetricsConfig},
    domain::{clock::Clock, plan::RunId},
    metrics::{Metrics, exposition::Detail},
    reload::{ReloadMode, ReloadRequest, ReloadRequests, ReloadTrigger},
    schedule::{queue::PollQueue, ticker::ManualTicks},
    web::{MAX_CONCURRENT_SCRAPES, WebState},
};

/// How long to wait before a reconcile that failed is tried again, if nobody asks for it before.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The daemon, built and not yet running.
pub struct App {
    replica: Replica,
    /// The first reconcile.
    prepared: Prepared,
    loader: Option<ConfigLoader>,
    reloads: ReloadRequests,
    reload_receiver: mpsc::Receiver<ReloadRequest>,
    ownership: Ownership,
    ownership_receiver: mpsc::Receiver<OwnershipRequest>,
}

/// What makes the daemon reconcile.
enum Cause {
    /// A part of a run has left, so that it may start again.
    Left(RunId, Left),
    Reload(ReloadRequest),
    Ownership(OwnershipRequest),
    /// `reload_interval` has passed.
    Interval,
    /// An earlier reconcile failed.
    Retry,
}

/// What a reconcile has done.
enum Reconciled {
    Completely,
    /// It will be tried again.
    Failed,
    /// A configuration was refused, or only a plan was wanted. What was to be tried again still is.
    Nothing,
}

impl App {
    /// Builds all parts, without calling WeChat.
    pub async fn build(config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let (reloads, reload_receiver) = ReloadRequests::channel();
        let (ownership, ownership_receiver) = Ownership::channel();
        let metrics = Arc::new(Metrics::new()?);
        let web = Arc::new(web_state(&config, &clock, &metrics, &reloads));
        let queue = Arc::new(PollQueue::new(config.api.max_in_flight_per_official_account));
        let (poll_log, sink_admin, sink_shares) = (Arc::default(), Arc::default(), Arc::default());
        let context = RunContext { metrics, clock, queue, poll_log, sink_admin, sink_shares };
        let replica = Replica::start(context, web, reloads.clone()).await?;
        let mut prepared =
            Box::pin(replica.prepare(Desired::new(Arc::new(config), OwnedStores::File))).await?;
        replica.register(&mut prepared).await?;
        Ok(Self { replica, prepared, loader: None, reloads, reload_receiver, ownership, ownership_receiver })
    }

    /// Notifies this service manager while the daemon runs.
    pub fn with_service_manager(mut self, service_manager: ServiceManager) -> Self {
        self.replica.service_manager = service_manager;
        self
    }

    /// Changes these settings of the process when they change in the configuration.
    pub fn with_process_settings(mut self, process_settings: ProcessSettings) -> Self {
        self.replica.process_settings = process_settings;
        self
    }

    /// Loads the configuration with this at a reload. Without it, reloads are refused.
    pub fn with_config_loader(self, loader: ConfigLoader) -> Self {
        Self { loader: Some(loader), ..self }
    }

    /// Asks this daemon for reloads, also while it runs.
    pub fn reload_requests(&self) -> ReloadRequests {
        self.reloads.clone()
    }

    /// Gives this daemon its accounts, or takes them away, while it runs.
    #[doc(hidden)]
    pub fn ownership(&self) -> Ownership {
        self.ownership.clone()
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &Config {
        &self.prepared.desired.config
    }

    /// The official accounts with their watched kf accounts, in the order of the configuration.
    pub fn watched(&self) -> Vec<(String, Vec<Arc<str>>)> {
        self.prepared.watched()
    }

    /// The addresses that the web server listens on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.prepared.addresses()
    }

    /// The state that the web server shows, also while the daemon runs.
    pub fn web(&self) -> Arc<WebState> {
        Arc::clone(&self.replica.web)
    }

    /// A function that makes all sinks reopen their files at their next delivery.
    pub fn reopen_files(&self) -> impl Fn() + use<> {
        let sinks = Arc::clone(&self.replica.context.sink_admin);
        move || sinks.reopen_files()
    }

    /// A handle that starts polls without waiting for their schedule, for tests.
    pub fn manual_ticks(&self) -> ManualTicks {
        self.replica.manual_ticks()
    }

    /// Runs until `shutdown` is done or a part fails, then drains.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), AppError> {
        let Self { mut replica, prepared, loader, mut reload_receiver, mut ownership_receiver, .. } = self;
        let mut desired = prepared.desired.clone();
        replica.context.metrics.config_reloaded(true, replica.context.clock.now().wall);
        replica.apply(prepared);
        replica.start_shared_tasks();
        replica.log_token_wait();
        let (web, service_manager) = (Arc::clone(&replica.web), replica.service_manager.clone());
        service_manager.ready(&web).await;
        let reloader = Reloader::new(loader);
        let mut shutdown = pin!(shutdown);
        let mut retry_at: Option<Instant> = None;
        let mut next_look = Instant::now();
        let ended = loop {
            let interval = desired.config.reload_interval;
            let cause = tokio::select! {
                biased;
                () = &mut shutdown => break Ok(()),
                (_, failed) = replica.tasks.failure() => break Err(failed),
                (run, event) = next_event(&mut replica.runs) => match event {
                    RunEvent::Left(left) => Cause::Left(run, left),
                    RunEvent::Failed(error) => break Err(error),
                },
                Some(request) = ownership_receiver.recv() => Cause::Ownership(request),
                Some(request) = reload_receiver.recv() => Cause::Reload(request),
                () = tokio::time::sleep_until(retry_at.unwrap_or(next_look)), if retry_at.is_some() => Cause::Retry,
                () = tokio::time::sleep_until(next_look + interval.unwrap_or_default()), if interval.is_some() => {
                    Cause::Interval
                }
            };
            if matches!(cause, Cause::Interval | Cause::Reload(_)) {
                next_look = Instant::now();
            }
            let done = tokio::select! {
                done = Box::pin(reconcile(cause, &mut replica, &reloader, &mut desired)) => done,
                () = &mut shutdown => break Ok(()),
            };
            match done {
                Reconciled::Completely => retry_at = None,
                Reconciled::Failed => retry_at = Some(Instant::now() + RETRY_AFTER),
                Reconciled::Nothing => {}
            }
        };
        web.ready.store(false, Ordering::Relaxed);
        replica.end_notifications().await;
        service_manager.stopping().await;
        if matches!(ended, Err(AppError::Store(_))) {
            join_all(std::mem::take(&mut replica.runs).into_values().map(Run::abandon)).await;
        }
        tracing::info!("Draining: running polls and delivery attempts finish");
        Box::pin(replica.stop(desired.config.shutdown_timeout)).await;
        tracing::info!("Stopped");
        ended
    }
}

/// Waits until something happens to a run. Without runs it never returns.
async fn next_event(runs: &mut BTreeMap<RunId, Run>) -> (RunId, RunEvent) {
    let events = runs.iter_mut().map(|(id, run)| run.next_event().map(|event| (*id, event)));
    match events.collect::<FuturesUnordered<_>>().next().await {
        Some(event) => event,
        None => std::future::pending().await,
    }
}

/// Makes the daemon equal the desired state, after that has changed or a part that left may start again. May be dropped while it waits.
async fn reconcile(
    cause: Cause,
    replica: &mut Replica,
    reloader: &Reloader,
    desired: &mut Desired,
) -> Reconciled {
    // Whoever asked for a change of ownership waits until this is dropped.
    let mut _ownership_request = None;
    match cause {
        Cause::Left(run, left) => {
            if let Some(run) = replica.runs.get_mut(&run) {
                run.note_left(&left);
            }
            if !replica.has_deferred {
                return Reconciled::Nothing;
            }
        }
        Cause::Ownership(request) => {
            request.apply_to(desired);
            _ownership_request = Some(request);
        }
        Cause::Reload(request) => {
            replica.service_manager.reloading().await;
            let outcome = reloader.reload(replica, desired, request.mode, request.trigger).await;
            replica.service_manager.ready(&replica.web).await;
            let is_applied = outcome.is_ok() && request.mode == ReloadMode::Apply;
            request.answer(outcome);
            return if is_applied { Reconciled::Completely } else { Reconciled::Nothing };
        }
        Cause::Interval => {
            // The outcome is logged.
            let outcome = reloader.reload(replica, desired, ReloadMode::Apply, ReloadTrigger::Interval).await;
            return if outcome.is_ok() { Reconciled::Completely } else { Reconciled::Nothing };
        }
        Cause::Retry => {}
    }
    match replica.reconcile(desired.clone()).await {
        Ok(()) => Reconciled::Completely,
        Err(error) => {
            tracing::warn!("A change could not be completed, trying again: {}", crate::chain(&error));
            Reconciled::Failed
        }
    }
}

fn web_state(
    config: &Config,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
    reloads: &ReloadRequests,
) -> WebState {
    WebState {
        table: Arc::default(),
        metrics: Arc::clone(metrics),
        stores: ArcSwap::default(),
        sinks: Arc::default(),
        settings: ArcSwap::from_pointee(replica::web_settings(config)),
        clock: Arc::clone(clock),
        ready: true.into(),
        liveness: Arc::default(),
        scrapes: Arc::new(Semaphore::new(MAX_CONCURRENT_SCRAPES)),
        reload_requests: reloads.clone(),
        reload_refusal: ArcSwapOption::empty(),
    }
}

/// Which series the metrics of kf accounts have.
pub(crate) fn series_detail(metrics: MetricsConfig) -> Detail {
    match metrics {
        MetricsConfig { per_account: false, .. } => Detail::PerOfficialAccount,
        MetricsConfig { nicknames: false, .. } => Detail::PerAccountWithoutNicknames,
        MetricsConfig { .. } => Detail::PerAccount,
    }
}
