//! Spawns the parts of the daemon, notices when one ends, and drains them in order.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    App,
    accounts::AccountSet,
    error::AppError,
    housekeeping::Housekeeping,
    service_manager::ServiceManager,
    watchdog::{self, NewChecks, Watchdog},
};
use crate::{
    dispatch::SinkEnded,
    domain::{clock::Clock, progress::ProgressCheck, schedule_key::ScheduleKey},
    poll::Poller,
    schedule::{
        collectors::{CollectedAccount, CollectorSet, Collectors},
        cron_jobs::CronScheduler,
        queue::PollQueue,
        spread_plan::ScheduledAccount,
        ticker::{Ticker, TickerContext},
        workers::Workers,
    },
    store::StoreError,
    web::WebState,
};

/// How long news of polls are collected for one line, or longer while more accounts have the same.
const POLL_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The running parts, in the order in which they are drained.
pub(super) struct Supervisor {
    stop_polling: CancellationToken,
    stop_delivery: CancellationToken,
    queue: Arc<PollQueue>,
    scheduler: CronScheduler,
    polling: JoinSet<Result<(), AppError>>,
    control: JoinSet<()>,
    housekeeping: JoinSet<Result<(), StoreError>>,
    delivery: JoinSet<Result<(), SinkEnded>>,
    web: JoinSet<std::io::Result<()>>,
    web_handles: Vec<axum_server::Handle<SocketAddr>>,
    /// The watchdog, and the notifications of the service manager. Both are shut down before its last notification.
    pub(super) notifying: JoinSet<()>,
}

impl Supervisor {
    pub(super) async fn spawn(app: App) -> Result<Self, AppError> {
        let queue = PollQueue::new(app.config.api.max_in_flight_per_official_account);
        let mut supervisor = Self::new(queue).await?;
        // Half of the sinks' share of a drain, so that attempts that begin then can finish.
        let begin_for = app.config.shutdown_timeout / 8;
        for dispatcher in app.dispatchers {
            supervisor.delivery.spawn(dispatcher.run(supervisor.stop_delivery.clone(), begin_for));
        }
        for listener in app.listeners {
            let handle = axum_server::Handle::new();
            supervisor.web_handles.push(handle.clone());
            supervisor.web.spawn(listener.serve(Arc::clone(&app.web), handle));
        }
        if let Some(control) = app.control {
            supervisor.control.spawn(control.run(supervisor.stop_polling.clone()));
        }
        supervisor
            .polling
            .spawn(write_poll_log(Arc::clone(&app.poller), supervisor.stop_polling.clone()).map(Ok));
        supervisor.spawn_workers(&app.clock, app.config.api.max_in_flight);
        let official_accounts = app.accounts.official_accounts.clone();
        let collected = official_accounts
            .iter()
            .map(|of| CollectedAccount { official_account: Arc::clone(of), poller: Arc::clone(&app.poller) });
        let set = CollectorSet {
            intervals: app.config.collectors,
            official_accounts: Arc::new(collected.collect()),
        };
        let collectors = Collectors::new(Arc::clone(&app.clock), watch::channel(set).1);
        supervisor.polling.spawn(collectors.run(supervisor.stop_polling.clone()).map(Ok));
        let context = TickerContext {
            queue: Arc::clone(&supervisor.queue),
            metrics: app.metrics,
            clock: Arc::clone(&app.clock),
            manual_ticks: app.manual_ticks,
        };
        let mut checks =
            supervisor.spawn_tickers(&context, &app.poller, app.accounts, app.config.poll.spread);
        let (poller, polled) = (Arc::clone(&app.poller), official_accounts.clone());
        let longest_deadline = move || polled.iter().map(|of| poller.deadline(of)).max().unwrap_or_default();
        checks.push(watchdog::poll_check(&supervisor.queue, longest_deadline));
        checks.push(watchdog::commit_check(&app.poller));
        supervisor.spawn_watchdog(checks, app.service_manager, app.web, Arc::clone(&app.clock));
        let housekeeping = Housekeeping {
            store: app.store,
            clock: app.clock,
            official_accounts,
            sinks: app.sink_admin,
            limits: app.config.store,
            store_failures: Mutex::default(),
        };
        supervisor
            .housekeeping
            .spawn(housekeeping.run(supervisor.stop_polling.clone(), supervisor.stop_delivery.clone()));
        Ok(supervisor)
    }

    /// A supervisor without tasks.
    async fn new(queue: PollQueue) -> Result<Self, AppError> {
        Ok(Self {
            stop_polling: CancellationToken::new(),
            stop_delivery: CancellationToken::new(),
            queue: Arc::new(queue),
            scheduler: CronScheduler::start().await?,
            polling: JoinSet::new(),
            control: JoinSet::new(),
            housekeeping: JoinSet::new(),
            delivery: JoinSet::new(),
            web: JoinSet::new(),
            web_handles: Vec::new(),
            notifying: JoinSet::new(),
        })
    }

    fn spawn_workers(&mut self, clock: &Arc<dyn Clock>, count: usize) {
        let workers = Arc::new(Workers { queue: Arc::clone(&self.queue), clock: Arc::clone(clock) });
        for _ in 0..self.queue.set_workers(count) {
            self.polling.spawn(Arc::clone(&workers).run_one().map(Ok));
        }
        let queue = Arc::clone(&self.queue);
        self.polling.spawn(async move {
            queue.run_timer().await;
            Ok(())
        });
    }

    /// Returns the watchdog's checks of the tickers.
    fn spawn_tickers(
        &mut self,
        context: &TickerContext,
        poller: &Arc<Poller>,
        accounts: AccountSet,
        spread: Duration,
    ) -> Vec<ProgressCheck> {
        let mut checks = Vec::new();
        for (schedule, scheduled) in accounts.schedules {
            let official_accounts = scheduled.official_accounts.into_iter().map(|official_account| {
                let lane = self.queue.add_lane(Arc::clone(poller));
                ScheduledAccount { official_account, lane }
            });
            let official_accounts = watch::channel(Arc::new(official_accounts.collect())).1;
            let key = ScheduleKey { schedule, spread };
            let ticker = Ticker::new(context.clone(), key, scheduled.ticks, official_accounts);
            checks.push(ticker.progress_check());
            let (scheduler, stop) = (self.scheduler.clone(), self.stop_polling.clone());
            self.polling.spawn(async { Ok(ticker.run(scheduler, stop).await?) });
        }
        checks
    }

    fn spawn_watchdog(
        &mut self,
        checks: Vec<ProgressCheck>,
        service_manager: ServiceManager,
        web: Arc<WebState>,
        clock: Arc<dyn Clock>,
    ) {
        let liveness = Arc::clone(&web.liveness);
        let new_checks = NewChecks::default();
        new_checks.add(checks);
        let checks = new_checks;
        if service_manager.is_present() {
            self.notifying.spawn(service_manager.clone().update_status(web));
        }
        self.notifying.spawn(Watchdog { checks, clock, liveness, service_manager }.run());
    }

    /// Waits until a part ends. None should end before the drain.
    pub(super) async fn first_end(&mut self) -> Result<(), AppError> {
        tokio::select! {
            Some(ended) = self.polling.join_next() => match ended {
                Ok(Err(error)) => Err(error),
                _ => Err(AppError::EndedUnexpectedly("polling")),
            },
            Some(_) = self.control.join_next() => Err(AppError::EndedUnexpectedly("the control socket")),
            Some(ended) = self.housekeeping.join_next() => match ended {
                Ok(Err(error)) => Err(AppError::Store(error)),
                _ => Err(AppError::EndedUnexpectedly("housekeeping")),
            },
            Some(ended) = self.web.join_next() => match ended {
                Ok(Err(error)) => Err(AppError::Web(error)),
                _ => Err(AppError::EndedUnexpectedly("the web server")),
            },
            Some(_) = self.notifying.join_next() => Err(AppError::EndedUnexpectedly("the watchdog")),
            ended = last_sink_end(&mut self.delivery) => Err(ended),
        }
    }

    /// Ends all parts in order. Each waits for those before it only for their share of the timeout: a call that hangs must
    /// not stop sinks from finishing, or the times of the last polls from being stored.
    pub(super) async fn drain(mut self, timeout: Duration) {
        // First, so that tickers that stop queue no more polls.
        self.queue.close();
        self.stop_polling.cancel();
        if let Err(error) = self.scheduler.clone().stop().await {
            tracing::debug!("The cron scheduler did not stop: {error}");
        }
        tokio::join!(
            end(&mut self.polling, timeout / 2, "polls"),
            end(&mut self.control, timeout / 2, "commands"),
        );
        self.stop_delivery.cancel();
        end(&mut self.housekeeping, timeout / 8, "housekeeping").await;
        end(&mut self.delivery, timeout / 4, "sinks").await;
        for handle in &self.web_handles {
            handle.graceful_shutdown(Some(timeout / 8));
        }
        end(&mut self.web, timeout / 8, "web requests").await;
    }
}

/// Writes the log of polls regularly. What the last polls add is written at the end of the drain.
async fn write_poll_log(poller: Arc<Poller>, stop: CancellationToken) {
    let mut interval = tokio::time::interval(POLL_LOG_INTERVAL);
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        poller.log().flush_settled();
    }
}

/// Waits until all tasks have ended, and aborts those that take longer than `grace`. Nothing is lost: uncommitted changes
/// are found again, unconfirmed events are delivered again.
async fn end<T: 'static>(tasks: &mut JoinSet<T>, grace: Duration, what: &str) {
    let ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!(
            "Draining: {what} did not finish within their share of shutdown_timeout and were aborted"
        );
        tasks.shutdown().await;
    }
}

/// Waits until the last sink has ended. The end of any other is logged; its events stay in the store.
async fn last_sink_end(delivery: &mut JoinSet<Result<(), SinkEnded>>) -> AppError {
    while let Some(ended) = delivery.join_next().await {
        match ended {
            Ok(Err(ended)) if delivery.is_empty() => return AppError::NoSink(ended),
            Ok(Err(ended)) => tracing::error!("{}", crate::chain(&ended)),
            Ok(Ok(())) | Err(_) => return AppError::EndedUnexpectedly("a dispatcher"),
        }
    }
    AppError::EndedUnexpectedly("delivery")
}
