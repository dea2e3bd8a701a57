//! A replica: what all runs of this process share. It has the queue with its workers, the tickers, the collectors, the web listeners,
//! the control socket, and the tables that readers see.

mod keyed_parts;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::keyed_parts::{RunningListener, RunningTicker};
use super::{
    context::RunContext,
    desired::{Settings, State},
    error::AppError,
    leaving::Left,
    operations,
    process_settings::ProcessSettings,
    run::Run,
    service_manager::ServiceManager,
    tasks::{TaskName, TaskSet},
    watchdog::{self, NewChecks, Watchdog},
};
use crate::{
    config::Config,
    control::{
        executor::{CommandExecutor, CommandTargets},
        server::ControlServer,
        socket::ControlSocket,
    },
    domain::{
        collector_intervals::CollectorIntervals,
        plan::{Activity, RunId},
        schedule_key::ScheduleKey,
    },
    poll::Poller,
    reload::ReloadRequests,
    schedule::{
        collectors::{CollectorSet, Collectors},
        cron_jobs::CronScheduler,
        ticker::ManualTicks,
        workers::Workers,
    },
    web::{WebSettings, WebState},
};

/// How many notes of parts that have left may wait.
const LEFT_IN_QUEUE: usize = 16;

/// How long news of polls are collected for one line, or longer while more accounts have the same.
const POLL_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What all runs of this process share.
pub(super) struct Replica {
    pub(super) context: RunContext,
    pub(super) service_manager: ServiceManager,
    pub(super) process_settings: ProcessSettings,
    reloads: ReloadRequests,
    /// What commands act on; `None` while there is no run.
    commands: Arc<ArcSwapOption<CommandTargets>>,
    pub(super) web: Arc<WebState>,
    pub(super) run: Option<Run>,
    pub(super) tasks: TaskSet,
    pub(super) left: mpsc::Receiver<Left>,
    pub(super) left_sender: mpsc::Sender<Left>,
    pub(super) settings: Option<Settings>,
    pub(super) activity: Activity,
    pub(super) may_retire: bool,
    /// Whether something that left is to start again when its end is recorded.
    pub(super) has_deferred: bool,
    scheduler: CronScheduler,
    tickers: BTreeMap<ScheduleKey, RunningTicker>,
    collectors: watch::Sender<CollectorSet>,
    listeners: BTreeMap<SocketAddr, RunningListener>,
    manual_ticks: ManualTicks,
    checks: NewChecks,
    /// The poller of the run, for what watches it.
    poller: Arc<ArcSwapOption<Poller>>,
    longest_deadline: Arc<Mutex<Duration>>,
    stop_polling: CancellationToken,
}

impl Replica {
    /// A replica without accounts, sinks and listeners.
    pub(super) async fn start(
        context: RunContext,
        web: Arc<WebState>,
        reloads: ReloadRequests,
    ) -> Result<Self, AppError> {
        let (left_sender, left) = mpsc::channel(LEFT_IN_QUEUE);
        let (collectors, _) = watch::channel(CollectorSet {
            intervals: CollectorIntervals::OFF,
            official_accounts: Arc::default(),
        });
        Ok(Self {
            context,
            service_manager: ServiceManager::default(),
            process_settings: ProcessSettings::default(),
            reloads,
            commands: Arc::default(),
            web,
            run: None,
            tasks: TaskSet::default(),
            left,
            left_sender,
            settings: None,
            activity: Activity::Active,
            may_retire: true,
            has_deferred: false,
            scheduler: CronScheduler::start().await?,
            tickers: BTreeMap::new(),
            collectors,
            listeners: BTreeMap::new(),
            manual_ticks: ManualTicks::default(),
            checks: NewChecks::default(),
            poller: Arc::default(),
            longest_deadline: Arc::default(),
            stop_polling: CancellationToken::new(),
        })
    }

    /// A handle that starts polls without waiting for their schedule, for tests.
    pub(super) fn manual_ticks(&self) -> ManualTicks {
        self.manual_ticks.clone()
    }

    /// What runs now.
    pub(super) fn state(&self) -> State {
        let run = self.run.as_ref();
        State {
            runs: run.map(|_| RunId::SQLITE).into_iter().collect(),
            official_accounts: run.map(Run::official_account_parts).unwrap_or_default(),
            schedules: self.tickers.keys().cloned().collect(),
            sinks: run.map(|run| run.sinks.parts()).unwrap_or_default(),
            listeners: self.listeners.keys().copied().collect(),
            settings: self.settings.clone(),
            activity: self.activity,
            may_retire: self.may_retire,
        }
    }

    /// Starts what every replica has, whatever it polls.
    pub(super) fn start_shared_tasks(&mut self) {
        let queue = Arc::clone(&self.context.queue);
        self.tasks.spawn(TaskName::PollQueueTimer, &self.stop_polling, async move {
            queue.run_timer().await;
            Ok(())
        });
        let (poller, stop) = (Arc::clone(&self.poller), self.stop_polling.clone());
        self.tasks.spawn(TaskName::PollLog, &self.stop_polling, async move {
            write_poll_log(&poller, &stop).await;
            Ok(())
        });
        let collectors = Collectors::new(Arc::clone(&self.context.clock), self.collectors.subscribe());
        let stop = self.stop_polling.clone();
        self.tasks.spawn(TaskName::Collectors, &self.stop_polling, async move {
            collectors.run(stop).await;
            Ok(())
        });
        let deadline = Arc::clone(&self.longest_deadline);
        let longest = move || *deadline.lock().unwrap_or_else(PoisonError::into_inner);
        self.checks.add([watchdog::poll_check(&self.context.queue, longest)]);
        let service_manager = self.service_manager.clone();
        // They run until they are aborted.
        let never = CancellationToken::new();
        if service_manager.is_present() {
            let updates = service_manager.clone().update_status(Arc::clone(&self.web));
            self.tasks.spawn(TaskName::ServiceStatus, &never, async {
                updates.await;
                Ok(())
            });
        }
        let watchdog = Watchdog {
            checks: self.checks.clone(),
            clock: Arc::clone(&self.context.clock),
            liveness: Arc::clone(&self.web.liveness),
            service_manager,
        };
        self.tasks.spawn(TaskName::Watchdog, &never, async {
            watchdog.run().await;
            Ok(())
        });
    }

    /// Publishes the accounts and sinks of the run to readers, commands, collectors and the watchdog.
    pub(super) fn publish(&mut self, config: &Config) {
        let run = self.run.as_ref();
        self.web.table.publish(run.map(Run::statuses).unwrap_or_default());
        self.web.sinks.publish(run.map(|run| run.sinks.statuses(config)).unwrap_or_default());
        self.web.store.store(run.map(|run| Arc::new(run.store.clone())));
        self.web.settings.store(Arc::new(web_settings(config)));
        let clock = &self.context.clock;
        self.commands.store(run.map(|run| {
            let operations = operations::operations(config, run.configured(), Arc::clone(clock));
            Arc::new(CommandTargets { operations, sinks: run.sinks.admin() })
        }));
        let collectors = config.collectors;
        let official_accounts = Arc::new(run.map(Run::collected).unwrap_or_default());
        self.collectors.send_replace(CollectorSet { intervals: collectors, official_accounts });
        let deadlines = run.into_iter().flat_map(|run| {
            run.configured().map(|(_, official_account)| run.poller.deadline(official_account))
        });
        *self.longest_deadline.lock().unwrap_or_else(PoisonError::into_inner) =
            deadlines.max().unwrap_or_default();
        let poller = run.map(|run| Arc::clone(&run.poller));
        let known = self.poller.swap(poller.clone());
        if let Some(poller) = poller.filter(|poller| known.is_none_or(|known| !Arc::ptr_eq(poller, &known))) {
            self.checks.add([watchdog::commit_check(&poller)]);
        }
    }

    /// Sets what belongs to no part.
    pub(super) fn apply_settings(&mut self, config: &Config) {
        self.context.queue.set_max_in_flight_per_lane(config.api.max_in_flight_per_official_account);
        self.set_workers(config.api.max_in_flight);
        let before = self.settings.as_ref();
        if before.is_some_and(|before| before.log != config.log) {
            // The configuration has checked the level.
            if let Err(error) = (self.process_settings.log)(&config.log) {
                tracing::error!("Could not change the log: {error}");
            }
        }
        if before.is_some_and(|before| before.shutdown_timeout != config.shutdown_timeout) {
            (self.process_settings.shutdown_timeout)(config.shutdown_timeout);
        }
    }

    /// Whether the control socket is served.
    pub(super) fn has_control(&self) -> bool {
        self.tasks.contains(&TaskName::Control)
    }

    /// Serves commands on the control socket. It stays until the daemon ends.
    pub(super) fn serve_control(&mut self, socket: ControlSocket) {
        let executor = CommandExecutor { targets: Arc::clone(&self.commands), reloads: self.reloads.clone() };
        let server = ControlServer::new(socket, executor, Arc::clone(&self.web.liveness));
        let stop = self.stop_polling.clone();
        self.tasks.spawn(TaskName::Control, &self.stop_polling, async {
            server.run(stop).await;
            Ok(())
        });
    }

    /// What commands act on at the moment.
    pub(super) fn commands(&self) -> Arc<ArcSwapOption<CommandTargets>> {
        Arc::clone(&self.commands)
    }

    /// Ends the notifications of the service manager, before its last one.
    pub(super) async fn end_notifications(&mut self) {
        let notifies = |name: &TaskName| matches!(name, TaskName::Watchdog | TaskName::ServiceStatus);
        self.tasks.abort(notifies).await;
    }

    /// Makes the number of workers follow `api.max_in_flight`.
    pub(super) fn set_workers(&mut self, max_in_flight: usize) {
        let workers = Arc::new(Workers {
            queue: Arc::clone(&self.context.queue),
            clock: Arc::clone(&self.context.clock),
        });
        // A worker ends when there are too many.
        for _ in 0..self.context.queue.set_workers(max_in_flight) {
            self.tasks.spawn_until_done(TaskName::Worker, Arc::clone(&workers).run_one());
        }
    }

    /// Ends everything in order. Each part waits for those before it only for its share of the timeout: a call that hangs must not stop
    /// sinks from finishing, or the times of the last polls from being stored.
    pub(super) async fn stop(mut self, timeout: Duration) {
        self.left.close();
        self.context.queue.close();
        self.stop_polling.cancel();
        if let Err(error) = self.scheduler.clone().stop().await {
            tracing::debug!("The cron scheduler did not stop: {error}");
        }
        self.tasks.drain(TaskName::polls, timeout / 2, "polls").await;
        if let Some(run) = self.run.take() {
            run.stop(timeout).await;
        }
        let addresses: Vec<SocketAddr> = self.listeners.keys().copied().collect();
        addresses.iter().for_each(|address| self.stop_serving(address, timeout / 8));
        let is_web = |name: &TaskName| matches!(name, TaskName::WebListener(_));
        self.tasks.drain(is_web, timeout / 8, "web requests").await;
    }
}

/// Writes the log of polls regularly. What the last polls add is written when the run stops.
async fn write_poll_log(poller: &ArcSwapOption<Poller>, stop: &CancellationToken) {
    let mut interval = tokio::time::interval(POLL_LOG_INTERVAL);
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        if let Some(poller) = poller.load_full() {
            poller.log().flush_settled();
        }
    }
}

/// What pages and metrics take from the configuration.
pub(super) fn web_settings(config: &Config) -> WebSettings {
    WebSettings {
        detail: super::series_detail(config.metrics),
        event_log_max_bytes: config.store.event_log_max_bytes,
        timezone: config.poll.timezone,
        enable_reload: config.web.enable_reload,
    }
}
