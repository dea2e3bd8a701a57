//! The running parts: spawned together, watched over, drained in order.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    App, AppError,
    accounts::Watching,
    housekeeping::Housekeeping,
    service_manager::{self, ServiceManager},
};
use crate::{
    dispatch::SinkEnded,
    domain::{clock::Clock, progress::Part},
    poll::Poller,
    schedule::{
        collectors::Collectors,
        queue::PollQueue,
        ticker::{Ticker, TickerContext},
        triggers::Triggers,
        worker::{self, MAX_REPEAT_REQUESTS, Workers},
    },
    store::StoreError,
    web::WebState,
};

/// The running parts, by the order in which they are drained.
pub(super) struct Running {
    stop_polling: CancellationToken,
    stop_delivery: CancellationToken,
    queue: Arc<PollQueue>,
    triggers: Triggers,
    polling: JoinSet<Result<(), AppError>>,
    control: JoinSet<()>,
    housekeeping: JoinSet<Result<(), StoreError>>,
    delivery: JoinSet<Result<(), SinkEnded>>,
    web: JoinSet<std::io::Result<()>>,
    web_handles: Vec<axum_server::Handle<SocketAddr>>,
    informing: JoinSet<()>,
}

impl Running {
    /// Spawns all parts.
    pub(super) async fn spawn(app: App) -> Result<Self, AppError> {
        let mut running = Self {
            stop_polling: CancellationToken::new(),
            stop_delivery: CancellationToken::new(),
            queue: Arc::new(PollQueue::new(
                app.watching.official_accounts.len(),
                app.config.api.max_in_flight_per_official_account,
            )),
            triggers: Triggers::start().await?,
            polling: JoinSet::new(),
            control: JoinSet::new(),
            housekeeping: JoinSet::new(),
            delivery: JoinSet::new(),
            web: JoinSet::new(),
            web_handles: Vec::new(),
            informing: JoinSet::new(),
        };
        // Half of the sinks' share of a drain, so that what is begun then can be finished.
        let begin_for = app.config.shutdown_timeout / 8;
        for dispatcher in app.dispatchers {
            running.delivery.spawn(dispatcher.run(running.stop_delivery.clone(), begin_for));
        }
        for listener in app.listeners {
            let handle = axum_server::Handle::new();
            running.web_handles.push(handle.clone());
            running.web.spawn(listener.serve(Arc::clone(&app.web), handle));
        }
        if let Some(control) = app.control {
            running.control.spawn(control.run(running.stop_polling.clone()));
        }
        running.spawn_workers(&app.poller, &app.clock, app.config.api.max_in_flight);
        let official_accounts = app.watching.official_accounts.clone();
        let collectors = Collectors::new(
            Arc::clone(&app.poller),
            Arc::clone(&app.clock),
            app.config.collectors,
            official_accounts.clone(),
        );
        running.spawn_collectors(collectors);
        let context = TickerContext {
            queue: Arc::clone(&running.queue),
            poller: app.poller,
            metrics: app.metrics,
            clock: Arc::clone(&app.clock),
        };
        let mut parts = running.spawn_tickers(&context, app.watching, app.config.poll.spread);
        parts.extend(service_manager::parts(&running.queue, &context.poller, &official_accounts));
        running.spawn_informing(app.service_manager, app.web, parts, Arc::clone(&app.clock));
        let housekeeping = Housekeeping {
            store: app.store,
            clock: app.clock,
            official_accounts,
            sinks: app.sink_admin,
            limits: app.config.store,
            not_stored: Mutex::default(),
        };
        running
            .housekeeping
            .spawn(housekeeping.run(running.stop_polling.clone(), running.stop_delivery.clone()));
        Ok(running)
    }

    fn spawn_workers(&mut self, poller: &Arc<Poller>, clock: &Arc<dyn Clock>, count: usize) {
        let (repeats, requests) = tokio::sync::mpsc::channel(MAX_REPEAT_REQUESTS);
        let workers = Arc::new(Workers {
            queue: Arc::clone(&self.queue),
            poller: Arc::clone(poller),
            repeats,
            clock: Arc::clone(clock),
        });
        for _ in 0..count {
            let worker = Arc::clone(&workers).work();
            self.polling.spawn(async {
                worker.await;
                Ok(())
            });
        }
        let queue = Arc::clone(&self.queue);
        self.polling.spawn(async move {
            queue.keep_time().await;
            Ok(())
        });
        let repeater = worker::repeat(Arc::clone(&self.queue), requests, self.stop_polling.clone());
        self.polling.spawn(async {
            repeater.await;
            Ok(())
        });
    }

    fn spawn_collectors(&mut self, collectors: Collectors) {
        let collecting = collectors.run(self.stop_polling.clone());
        self.polling.spawn(async {
            collecting.await;
            Ok(())
        });
    }

    /// What the watchdog sees of them is returned.
    fn spawn_tickers(&mut self, context: &TickerContext, watching: Watching, spread: Duration) -> Vec<Part> {
        let mut parts = Vec::new();
        for (schedule, (ticks, official_accounts)) in watching.by_schedule {
            let ticker = Ticker::new(context.clone(), schedule, spread, ticks, official_accounts);
            parts.push(ticker.progress());
            let (triggers, stop) = (self.triggers.clone(), self.stop_polling.clone());
            self.polling.spawn(async { Ok(ticker.run(triggers, stop).await?) });
        }
        parts
    }

    fn spawn_informing(
        &mut self,
        service_manager: ServiceManager,
        web: Arc<WebState>,
        parts: Vec<Part>,
        clock: Arc<dyn Clock>,
    ) {
        if service_manager.is_there() {
            self.informing.spawn(service_manager.keep_informed(web, parts, clock));
        }
    }

    /// Waits until a part ends, which none should before the drain.
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
            Some(_) = self.informing.join_next() => Err(AppError::EndedUnexpectedly("the watchdog's feeder")),
            ended = last_sink_end(&mut self.delivery) => Err(ended),
        }
    }

    /// Ends what the service manager is told about a daemon that runs.
    pub(super) async fn leave_uninformed(&mut self) {
        self.informing.shutdown().await;
    }

    /// Ends all parts, each when those before it have ended or used up their share of the time: a call that hangs must
    /// not keep sinks from finishing, nor sightings from being stored.
    pub(super) async fn drain(mut self, timeout: Duration) {
        self.stop_polling.cancel();
        if let Err(error) = self.triggers.clone().stop().await {
            tracing::debug!("The cron scheduler did not stop: {error}");
        }
        self.queue.close();
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

/// Waits until all tasks have ended, and aborts those that take longer than `grace`. What they were about is not lost:
/// what was not committed is found again, what was not confirmed is delivered again.
async fn end<T: 'static>(tasks: &mut JoinSet<T>, grace: Duration, what: &str) {
    let ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!(
            "Draining: {what} took longer than their share of shutdown_timeout; what was under way is dropped"
        );
        tasks.shutdown().await;
    }
}

/// Waits until no sink is left. The end of one of several is logged; its events stay in the store.
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
