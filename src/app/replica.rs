//! A replica: what all runs of this process share. It has the queue with its workers, the tickers, the collectors, the web listeners,
//! the control socket, and the tables that readers see.

mod keyed_parts;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::keyed_parts::{RunningListener, RunningTicker};
use super::{
    context::RunContext,
    desired::{Settings, State},
    error::AppError,
    operations,
    process_settings::ProcessSettings,
    run::{Run, RunningAccount},
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
    dispatch::admin::StoreSinks,
    domain::{
        collector_intervals::CollectorIntervals,
        plan::{Activity, RunId},
        schedule_key::ScheduleKey,
        shard::ShardNumber,
    },
    poll::PollLog,
    schedule::{
        collectors::{CollectedAccount, CollectorSet, Collectors},
        cron_jobs::CronScheduler,
        ticker::ManualTicks,
        workers::Workers,
    },
    web::{WebSettings, WebState},
    wechat::token::MIN_FETCH_INTERVAL,
};

/// How long news of polls are collected for one line, or longer while more accounts have the same.
const POLL_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What all runs of this process share.
pub(super) struct Replica {
    pub(super) context: RunContext,
    pub(super) service_manager: ServiceManager,
    pub(super) process_settings: ProcessSettings,
    /// What commands act on; `None` while there are no runs.
    commands: Arc<ArcSwapOption<CommandTargets>>,
    pub(super) executor: Arc<CommandExecutor>,
    pub(super) web: Arc<WebState>,
    pub(super) runs: BTreeMap<RunId, Run>,
    pub(super) tasks: TaskSet,
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
    longest_deadline: Arc<Mutex<Duration>>,
    stop_polling: CancellationToken,
}

impl Replica {
    /// A replica without accounts, sinks and listeners.
    pub(super) async fn start(
        context: RunContext,
        web: Arc<WebState>,
        commands: Arc<ArcSwapOption<CommandTargets>>,
        executor: Arc<CommandExecutor>,
    ) -> Result<Self, AppError> {
        let (collectors, _) = watch::channel(CollectorSet {
            intervals: CollectorIntervals::OFF,
            official_accounts: Arc::default(),
        });
        Ok(Self {
            context,
            service_manager: ServiceManager::default(),
            process_settings: ProcessSettings::default(),
            commands,
            executor,
            web,
            runs: BTreeMap::new(),
            tasks: TaskSet::default(),
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
        State {
            runs: self.runs.iter().map(|(id, run)| (*id, run.state())).collect(),
            schedules: self.tickers.keys().cloned().collect(),
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
        let (log, stop) = (Arc::clone(&self.context.poll_log), self.stop_polling.clone());
        self.tasks.spawn(TaskName::PollLog, &self.stop_polling, async move {
            write_poll_log(&log, &stop).await;
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

    /// Adds runs that start.
    pub(super) fn add_runs(&mut self, runs: BTreeMap<RunId, Run>) {
        self.checks.add(runs.values().map(|run| watchdog::commit_check(&run.poller)));
        self.runs.extend(runs);
    }

    /// The official accounts that run, each with its run, in the order of the configuration.
    pub(super) fn official_accounts(&self, config: &Config) -> Vec<(&Run, &RunningAccount)> {
        let of_run = |run| Run::official_accounts(run).map(move |(appid, running)| (appid, (run, running)));
        let mut by_appid: HashMap<&str, _> = self.runs.values().flat_map(of_run).collect();
        let configured = config.official_accounts.iter();
        configured.filter_map(|configured| by_appid.remove(configured.appid.as_str())).collect()
    }

    /// Publishes accounts and sinks to readers, commands, collectors, the watchdog and the log.
    pub(super) fn publish(&mut self, config: &Config) {
        let running = self.official_accounts(config);
        let statuses = running.iter().map(|(_, running)| Arc::clone(&running.official_account.status));
        self.web.table.publish(statuses.collect());
        let official_accounts = running.iter().map(|(_, running)| Arc::clone(&running.official_account));
        self.context.poll_log.configure(config.log.language, official_accounts.collect());
        let collected = running.iter().filter(|(_, running)| !running.part.is_ending);
        let collected = collected.map(|(run, running)| CollectedAccount {
            official_account: Arc::clone(&running.official_account),
            poller: Arc::clone(&run.poller),
        });
        let official_accounts = Arc::new(collected.collect());
        self.collectors.send_replace(CollectorSet { intervals: config.collectors, official_accounts });
        let deadlines = running.iter().map(|(run, running)| run.poller.deadline(&running.official_account));
        *self.longest_deadline.lock().unwrap_or_else(PoisonError::into_inner) =
            deadlines.max().unwrap_or_default();
        let clock = &self.context.clock;
        let configured = running.iter().map(|(_, running)| (&running.part.config, &running.official_account));
        let sinks = Arc::clone(&self.context.sink_admin);
        let operations = operations::operations(config, configured, Arc::clone(clock));
        let targets = (!self.runs.is_empty()).then(|| Arc::new(CommandTargets { operations, sinks }));
        self.commands.store(targets);

        let sinks = self.runs.values().map(|run| StoreSinks::new(run.store.clone(), run.sinks.dispatchers()));
        let is_owned = |shard: ShardNumber| self.runs.contains_key(&RunId::from(shard));
        let others = self.context.cluster.iter().flat_map(|cluster| cluster.shards_to_read(is_owned));
        self.context.sink_admin.publish(sinks.chain(others.map(StoreSinks::to_read)).collect());
        let statuses = config.sinks.iter().filter_map(|sink| self.context.sink_admin.status(&sink.name));
        self.web.sinks.publish(statuses.collect());
        self.web.stores.store(Arc::new(self.runs.values().map(|run| run.store.clone()).collect()));
        self.web.settings.store(Arc::new(web_settings(config)));
    }

    /// Logs once for all official accounts that their first calls wait, because their tokens were fetched just before a restart.
    pub(super) fn log_token_wait(&self) {
        let official_accounts = self.runs.values().flat_map(Run::official_accounts);
        let waits = official_accounts.map(|(_, running)| running.official_account.token_wait());
        let waits: Vec<Duration> = waits.filter(|wait| !wait.is_zero()).collect();
        if let Some(longest) = waits.iter().max() {
            tracing::info!(
                official_accounts = waits.len(),
                "First polls wait {} s: kfwatch fetches tokens at most once in {} s, also after a restart",
                longest.as_secs_f64().ceil(),
                MIN_FETCH_INTERVAL.as_secs()
            );
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
        let (executor, liveness) = (Arc::clone(&self.executor), Arc::clone(&self.web.liveness));
        let server = ControlServer::new(socket, executor, liveness);
        let stop = self.stop_polling.clone();
        self.tasks.spawn(TaskName::Control, &self.stop_polling, async {
            server.run(stop).await;
            Ok(())
        });
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
        self.context.queue.close();
        self.stop_polling.cancel();
        if let Err(error) = self.scheduler.clone().stop().await {
            tracing::debug!("The cron scheduler did not stop: {error}");
        }
        self.tasks.drain(TaskName::polls, timeout / 2, "polls").await;
        join_all(std::mem::take(&mut self.runs).into_values().map(|run| run.stop(timeout))).await;
        let addresses: Vec<SocketAddr> = self.listeners.keys().copied().collect();
        addresses.iter().for_each(|address| self.stop_serving(address, timeout / 8));
        let is_web = |name: &TaskName| matches!(name, TaskName::WebListener(_));
        self.tasks.drain(is_web, timeout / 8, "web requests").await;
    }
}

/// Writes the log of polls regularly. What the last polls add is written when their run stops.
async fn write_poll_log(log: &PollLog, stop: &CancellationToken) {
    let mut interval = tokio::time::interval(POLL_LOG_INTERVAL);
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        log.flush_settled();
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
