//! The composition root: builds every part from the configuration, runs them, and drains them in order.
//!
//! [`App::build`] does whatever can fail before the first call to WeChat: opens the store, binds the addresses,
//! restores what is known. [`App::run`] spawns the parts and waits for the signal to stop. This is the only place that
//! spawns tasks; one that ends before its time ends the daemon. A drain stops the schedule, lets running polls finish,
//! stores when accounts were last seen, lets sinks finish their attempt, and closes the web server last.

mod accounts;
mod build_sinks;
pub mod clock;
mod housekeeping;
mod journal;
mod operations;
mod running;
pub mod service_manager;
mod service_status;

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    path::Path,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use self::{accounts::Watching, operations::operations, running::Running, service_manager::ServiceManager};
pub use self::{
    accounts::{Connections, accounts, watched_accounts},
    operations::operations_by_hand,
};
pub use crate::poll::watch;
use crate::{
    config::Config,
    control::{
        server::ControlServer,
        socket::{ControlSocket, SocketError},
    },
    dispatch::{DispatchContext, Dispatcher, DispatcherHandle, SinkEnded, admin::SinkAdmin},
    domain::{clock::Clock, cron::Schedule},
    metrics::{Metrics, exposition::Detail},
    poll::{PollLimits, Poller},
    schedule::{ticker::Scheduled, triggers::TriggerError},
    status::Table,
    store::{Store, StoreError},
    web::{WebListener, WebState},
    wechat::http::ClientBuildError,
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
    /// A command without a daemon would lose the refresh tokens that WeChat changes.
    #[error(
        "there is no store at {} to keep a new refresh token of {official_account} in, which would be lost: start the \
         daemon once, which creates it, or correct store.path", path.display()
    )]
    NowhereToKeepRefreshTokens {
        /// An official account that has authorized a component.
        official_account: String,
        /// Where the store should be.
        path: PathBuf,
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
    listeners: Vec<WebListener>,
    web: Arc<WebState>,
    dispatchers: Vec<Dispatcher>,
    sink_admin: Arc<SinkAdmin>,
    /// None where the system allows no socket.
    control: Option<ControlServer>,
    service_manager: ServiceManager,
}

impl App {
    /// Builds all parts. Calls nobody; what it opens and binds, it keeps.
    pub async fn build(config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let listeners = listen(&config.web.listen)?;
        let store = Store::open(&config.store.path)?;
        let socket = control_socket(&config.store.path);
        let metrics = Arc::new(Metrics::new(config.sinks.iter().map(|sink| sink.name.clone()))?);
        // Before anything can be committed: a sink that starts "now" gets all that this daemon will commit.
        let dispatching = DispatchContext {
            store: store.clone(),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
        };
        let (dispatchers, orders): (Vec<_>, Vec<_>) =
            build_sinks::build_dispatchers(&config.sinks, &dispatching).await?.into_iter().unzip();
        let sinks = orders.iter().map(DispatcherHandle::status).collect();
        let sink_admin = Arc::new(SinkAdmin::new(store.clone(), orders));
        let connections = Connections::build(&config, &store, Arc::clone(&clock)).await?;
        let mut watching = Watching::restore(&config, &store, &metrics, &connections).await?;
        let limits = PollLimits {
            deadline: poll_deadline(&config),
            blind_after: config.poll.blind_after,
            backoff_policy: config.backoff_policy,
        };
        let poller = Arc::new(Poller::new(store.clone(), Arc::clone(&metrics), Arc::clone(&clock), limits));
        watching.announce_left(&poller).await?;
        let operations = operations(&config, &watching.official_accounts, Arc::clone(&clock));
        let control = socket.map(|socket| ControlServer::new(socket, operations, Arc::clone(&sink_admin)));
        let web = Arc::new(WebState {
            table: Table::new(watching.statuses()),
            metrics: Arc::clone(&metrics),
            store: store.clone(),
            event_log_max_bytes: config.store.event_log_max_bytes,
            sinks,
            detail: if config.metrics.per_account { Detail::PerAccount } else { Detail::PerOfficialAccount },
            clock: Arc::clone(&clock),
            ready: true.into(),
            scrapes: WebState::scrape_limit(),
        });
        let service_manager = ServiceManager::default();
        Ok(Self {
            config,
            store,
            metrics,
            clock,
            poller,
            watching,
            listeners,
            web,
            dispatchers,
            sink_admin,
            control,
            service_manager,
        })
    }

    /// The same daemon, which keeps this service manager informed.
    pub fn telling(self, service_manager: ServiceManager) -> Self {
        Self { service_manager, ..self }
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The addresses that are listened on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.address).collect()
    }

    /// What is known of every account, also while the daemon runs.
    pub fn web(&self) -> Arc<WebState> {
        Arc::clone(&self.web)
    }

    /// Has the files of all sinks opened anew, each at its next delivery, whenever it is called while the daemon runs.
    pub fn reopen_files(&self) -> impl Fn() + use<> {
        let sinks: Vec<_> = self.dispatchers.iter().map(Dispatcher::sink).collect();
        move || sinks.iter().for_each(|sink| sink.reopen_file())
    }

    /// Runs until `shutdown` is done or a part fails, then drains.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), AppError> {
        let drain_timeout = self.config.shutdown_timeout;
        let (web, store) = (Arc::clone(&self.web), self.store.clone());
        let service_manager = self.service_manager.clone();
        let mut running = Running::spawn(self).await?;
        service_manager.ready(&web).await;
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            ended = running.first_end() => ended,
        };
        web.ready.store(false, Ordering::Relaxed);
        running.leave_uninformed().await;
        service_manager.stopping().await;
        tracing::info!("Draining: running polls finish, sinks finish their attempt");
        running.drain(drain_timeout).await;
        if tokio::time::timeout(STORE_GRACE, store.close()).await.is_err() {
            tracing::warn!("The store takes long to close; what it has committed is safe");
        }
        ended
    }
}

fn listen(addresses: &[SocketAddr]) -> Result<Vec<WebListener>, AppError> {
    let bind = |address: &SocketAddr| {
        WebListener::bind(*address).map_err(|source| AppError::Listen { address: *address, source })
    };
    addresses.iter().map(bind).collect()
}

/// Who watches sessions is not kept from it by a socket that cannot be.
fn control_socket(store: &Path) -> Option<ControlSocket> {
    let socket = ControlSocket::bind(store);
    let warn = |error: &SocketError| {
        tracing::warn!("No commands can be given to this daemon while it runs: {}", crate::chain(error));
    };
    socket.inspect_err(warn).ok()
}

/// How long the store may take to fold its log into its file at the end.
const STORE_GRACE: Duration = Duration::from_secs(2);

/// A poll may fetch a token, call, fetch another token and call again; no more than three of them may take all of
/// their time.
fn poll_deadline(config: &Config) -> Duration {
    config.api.timeout.saturating_mul(3)
}

/// The counter of a schedule's ticks, and its official accounts.
type Ticked = (Arc<AtomicU64>, Vec<Scheduled>);

type BySchedule = HashMap<Schedule, Ticked>;
