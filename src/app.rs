//! The composition root: builds every part from the configuration, runs them, and drains them in order.
//!
//! [`App::build`] does whatever can fail before the first call to WeChat: opens the store, binds the addresses,
//! restores what is known. [`App::run`] spawns the parts and waits for the signal to stop. This is the only place that
//! spawns tasks; one that ends before its time ends the daemon. A drain stops the schedule, lets running polls finish,
//! stores when accounts were last seen, lets sinks finish their attempt, and closes the web server last.

mod accounts;
pub mod clock;
mod housekeeping;
mod journal;
mod sinks;

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::accounts::{Connections, accounts, watch};
use self::{accounts::Watching, housekeeping::Housekeeping};
use crate::{
    config::Config,
    dispatch::{Dispatcher, SinkEnded},
    domain::clock::Clock,
    metrics::{Metrics, exposition::Detail},
    poll::{PollLimits, Poller},
    schedule::{
        cron::Schedule,
        queue::PollQueue,
        ticker::{Scheduled, Ticker, TickerContext},
        triggers::{TriggerError, Triggers},
        worker::{self, MAX_REPEAT_REQUESTS, Workers},
    },
    status::Table,
    store::{Store, StoreError},
    web::{Listener, WebState},
    wechat::client::ClientBuildError,
};

/// The daemon could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The store was refused or failed.
    #[error("store")]
    Store(#[from] StoreError),
    /// An address could not be bound.
    #[error(
        "cannot listen on {address}: stop the program that uses it, or set web.listen to another address"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The web server failed.
    #[error("web server")]
    Web(#[source] std::io::Error),
    /// The HTTP client could not be set up.
    #[error(transparent)]
    Client(#[from] ClientBuildError),
    /// A file of the configuration cannot be used any more.
    #[error("{what}: {reason}")]
    Unusable {
        /// Which key.
        what: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The metrics contradict each other: a bug.
    #[error("metrics")]
    Metrics(#[from] prometheus::Error),
    /// The cron scheduler failed.
    #[error("schedule")]
    Schedule(#[from] TriggerError),
    /// The only sink has ended.
    #[error("nobody is left to deliver events to; they are kept in the store")]
    NoSink(#[source] SinkEnded),
    /// A part ended that never should.
    #[error("{0} ended unexpectedly: this is a bug in kfwatch, please report it")]
    EndedUnexpectedly(&'static str),
}

/// The daemon, built and not yet running.
pub struct App {
    config: Config,
    store: Store,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    poller: Arc<Poller>,
    watching: Watching,
    listeners: Vec<Listener>,
    web: Arc<WebState>,
    dispatchers: Vec<Dispatcher>,
}

impl App {
    /// Builds all parts. Calls nobody; what it opens and binds, it keeps.
    pub async fn build(config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let listeners = listen(&config.web.listen)?;
        let store = Store::open(&config.store.path)?;
        let metrics = Arc::new(Metrics::new(config.sinks.iter().map(|sink| sink.name.clone()))?);
        // Before anything can be committed: a sink that starts "now" gets all that this daemon will commit.
        let dispatchers = sinks::dispatchers(&config.sinks, &store, &metrics, clock.now().wall).await?;
        let connections = Connections::build(&config, &store, Arc::clone(&clock)).await?;
        let watching = Watching::restore(&config, &store, &metrics, &connections).await?;
        watching.announce_left(&store, &metrics, clock.now()).await?;
        let limits = PollLimits { deadline: poll_deadline(&config), blind_after: config.poll.blind_after };
        let poller = Arc::new(Poller::new(store.clone(), Arc::clone(&metrics), Arc::clone(&clock), limits));
        let web = Arc::new(WebState {
            table: Table::new(watching.statuses.clone()),
            metrics: Arc::clone(&metrics),
            store: store.clone(),
            sinks: config.sinks.iter().map(|sink| sink.name.clone()).collect(),
            detail: if config.metrics.per_account { Detail::PerAccount } else { Detail::PerOfficialAccount },
            clock: Arc::clone(&clock),
            ready: true.into(),
            scrapes: WebState::scrape_limit(),
        });
        Ok(Self { config, store, metrics, clock, poller, watching, listeners, web, dispatchers })
    }

    /// The addresses that are listened on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.address).collect()
    }

    /// What is known of every account, also while the daemon runs.
    pub fn web(&self) -> Arc<WebState> {
        Arc::clone(&self.web)
    }

    /// Runs until `shutdown` is done or a part fails, then drains.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), AppError> {
        let drain_timeout = self.config.shutdown_timeout;
        let (web, store) = (Arc::clone(&self.web), self.store.clone());
        let mut running = Running::spawn(self).await?;
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            ended = running.first_end() => ended,
        };
        web.ready.store(false, Ordering::Relaxed);
        tracing::info!("Draining: running polls finish, sinks finish their attempt");
        if tokio::time::timeout(drain_timeout, running.drain()).await.is_err() {
            tracing::warn!("The drain took longer than shutdown_timeout; what was under way is dropped");
        }
        store.close().await;
        ended
    }
}

/// The running parts, by the order in which they are drained.
struct Running {
    stop_polling: CancellationToken,
    stop_delivery: CancellationToken,
    queue: Arc<PollQueue>,
    triggers: Triggers,
    polling: JoinSet<Result<(), AppError>>,
    housekeeping: JoinSet<()>,
    delivery: JoinSet<Result<(), SinkEnded>>,
    web: JoinSet<std::io::Result<()>>,
    web_handles: Vec<axum_server::Handle<SocketAddr>>,
}

impl Running {
    async fn spawn(app: App) -> Result<Self, AppError> {
        let mut running = Self {
            stop_polling: CancellationToken::new(),
            stop_delivery: CancellationToken::new(),
            queue: Arc::new(PollQueue::new(
                app.watching.statuses.len(),
                app.config.api.max_in_flight_per_official_account,
            )),
            triggers: Triggers::start().await?,
            polling: JoinSet::new(),
            housekeeping: JoinSet::new(),
            delivery: JoinSet::new(),
            web: JoinSet::new(),
            web_handles: Vec::new(),
        };
        for dispatcher in app.dispatchers {
            running.delivery.spawn(dispatcher.run(running.stop_delivery.clone()));
        }
        for listener in app.listeners {
            let handle = axum_server::Handle::new();
            running.web_handles.push(handle.clone());
            running.web.spawn(listener.serve(Arc::clone(&app.web), handle));
        }
        let accounts = app.watching.accounts();
        running.spawn_workers(&app.poller, &app.clock, accounts.len().min(app.config.api.max_in_flight));
        let context = TickerContext {
            queue: Arc::clone(&running.queue),
            poller: app.poller,
            metrics: app.metrics,
            clock: Arc::clone(&app.clock),
        };
        running.spawn_tickers(&context, app.watching, app.config.poll.spread);
        let housekeeping = Housekeeping {
            store: app.store,
            clock: app.clock,
            accounts,
            event_retention: app.config.store.event_retention,
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
        for _ in 0..count.max(1) {
            let worker = Arc::clone(&workers).work();
            self.polling.spawn(async {
                worker.await;
                Ok(())
            });
        }
        let repeater = worker::repeat(Arc::clone(&self.queue), requests, self.stop_polling.clone());
        self.polling.spawn(async {
            repeater.await;
            Ok(())
        });
    }

    fn spawn_tickers(&mut self, context: &TickerContext, watching: Watching, spread: Duration) {
        for (schedule, (ticks, accounts)) in watching.by_schedule() {
            let ticker = Ticker::new(context.clone(), schedule, spread, ticks, accounts);
            let (triggers, stop) = (self.triggers.clone(), self.stop_polling.clone());
            self.polling.spawn(async { Ok(ticker.run(triggers, stop).await?) });
        }
    }

    /// Waits until a part ends, which none should before the drain.
    async fn first_end(&mut self) -> Result<(), AppError> {
        tokio::select! {
            Some(ended) = self.polling.join_next() => match ended {
                Ok(Err(error)) => Err(error),
                _ => Err(AppError::EndedUnexpectedly("polling")),
            },
            Some(_) = self.housekeeping.join_next() => Err(AppError::EndedUnexpectedly("housekeeping")),
            Some(ended) = self.web.join_next() => match ended {
                Ok(Err(error)) => Err(AppError::Web(error)),
                _ => Err(AppError::EndedUnexpectedly("the web server")),
            },
            ended = last_sink_end(&mut self.delivery) => Err(ended),
        }
    }

    async fn drain(&mut self) {
        self.stop_polling.cancel();
        if let Err(error) = self.triggers.clone().stop().await {
            tracing::debug!("The cron scheduler did not stop: {error}");
        }
        self.queue.close();
        while self.polling.join_next().await.is_some() {}
        self.stop_delivery.cancel();
        while self.housekeeping.join_next().await.is_some() {}
        while self.delivery.join_next().await.is_some() {}
        for handle in &self.web_handles {
            handle.graceful_shutdown(Some(WEB_GRACE));
        }
        while self.web.join_next().await.is_some() {}
    }
}

/// How long clients may take to receive the rest of their answers at the end of a drain.
const WEB_GRACE: Duration = Duration::from_secs(2);

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

fn listen(addresses: &[SocketAddr]) -> Result<Vec<Listener>, AppError> {
    let bind = |address: &SocketAddr| {
        Listener::bind(*address).map_err(|source| AppError::Listen { address: *address, source })
    };
    addresses.iter().map(bind).collect()
}

/// A poll is at most a token fetch, a call, another fetch and the call again.
fn poll_deadline(config: &Config) -> Duration {
    config.api.timeout.saturating_mul(3)
}

/// The counter of a schedule's ticks, and its accounts.
type Ticked = (Arc<AtomicU64>, Vec<Scheduled>);

type BySchedule = HashMap<Schedule, Ticked>;
