//! The composition root: builds the parts of the daemon from the configuration, runs them, and drains them in order.
//!
//! [`App::build`] does everything that can fail before the first call to WeChat: it opens the store, binds the addresses and
//! restores the state of the accounts. [`App::run`] spawns the parts, supervises them and waits for the shutdown signal.
//! Only this module spawns tasks; a task that ends before the drain ends the daemon. A drain stops the schedules, lets
//! running polls finish, stores when accounts were last seen, lets each sink finish its attempt, and closes the web server
//! last.

mod accounts;
mod build_sinks;
pub mod clock;
mod error;
mod housekeeping;
mod nicknames;
mod official_accounts;
mod operations;
mod process_settings;
pub mod service_manager;
mod service_status;
mod supervisor;
mod token_journal;
mod token_records;
mod watchdog;

use std::{
    future::Future,
    net::SocketAddr,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

pub(crate) use self::{
    build_sinks::{SinkTestError, test_sink},
    operations::{account_of_platform, build_operations},
};
use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, mpsc};

use self::{
    accounts::AccountSet,
    nicknames::TableNicknames,
    operations::{operations, poll_deadline},
    service_manager::ServiceManager,
    supervisor::Supervisor,
};
pub use self::{
    accounts::{accounts, watched_accounts},
    error::AppError,
    official_accounts::OfficialAccountFactory,
    process_settings::ProcessSettings,
};
pub(crate) use self::{build_sinks::group_id, error::listen_remedy};
use crate::{
    config::{Config, MetricsConfig},
    control::{
        executor::CommandExecutor,
        server::ControlServer,
        socket::{ControlSocket, SocketError},
    },
    dispatch::{DispatchContext, Dispatcher, DispatcherHandle, admin::SinkAdmin},
    domain::clock::Clock,
    metrics::{Metrics, exposition::Detail},
    poll::{OfficialAccount, PollLimits, PollLog, Poller},
    reload::{ReloadRequest, ReloadRequests},
    schedule::ticker::ManualTicks,
    sink::chat::ChatContext,
    status::{AccountTable, Liveness, SinkTable},
    store::{Store, StoreError},
    web::{MAX_CONCURRENT_SCRAPES, WebListener, WebSettings, WebState},
    wechat::token::MIN_FETCH_INTERVAL,
};

/// How long the store may take to write its log into its file at the end.
const STORE_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The daemon, built and not yet running.
pub struct App {
    config: Config,
    store: Store,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    poller: Arc<Poller>,
    accounts: AccountSet,
    listeners: Vec<WebListener>,
    web: Arc<WebState>,
    dispatchers: Vec<Dispatcher>,
    sink_admin: Arc<SinkAdmin>,
    /// None if the socket could not be bound.
    control: Option<ControlServer>,
    service_manager: ServiceManager,
    manual_ticks: ManualTicks,
    reload_requests: ReloadRequests,
    #[expect(dead_code, reason = "reconcile receives from it")]
    reload_receiver: mpsc::Receiver<ReloadRequest>,
    #[expect(dead_code, reason = "reconcile calls it")]
    process_settings: ProcessSettings,
}

impl App {
    /// Builds all parts, without calling WeChat.
    pub async fn build(config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let listeners = listen(&config)?;
        let store = Store::open(&config.store.path)?;
        let socket = control_socket(&config.store.path);
        let metrics = Arc::new(Metrics::new()?);
        // Before anything can be committed: a sink that starts "now" receives everything that this daemon commits.
        let context =
            DispatchContext { store: store.clone(), clock: Arc::clone(&clock), lease: store.lease() };
        // Sinks are built first, and read it later.
        let table = Arc::<AccountTable>::default();
        let chat = chat_context(&config, &clock, &table);
        let (dispatchers, handles): (Vec<_>, Vec<_>) =
            build_sinks::build_dispatchers(&config.sinks, &chat, &context).await?.into_iter().unzip();
        let sinks = Arc::<SinkTable>::default();
        sinks.publish(handles.iter().map(DispatcherHandle::status).collect());
        let sink_admin = Arc::new(SinkAdmin::new(store.clone()));
        sink_admin.set_dispatchers(handles);
        let factory = OfficialAccountFactory::build(&config, &store, Arc::clone(&clock)).await?;
        let mut accounts = AccountSet::restore(&config, &store, &metrics, &factory).await?;
        let limits = poll_limits(&config);
        let poller = Poller::new(store.clone(), Arc::clone(&metrics), Arc::clone(&clock), limits)
            .with_log(PollLog::new(config.log.language, accounts.official_accounts.clone()));
        let poller = Arc::new(poller);
        accounts.announce_removed(&poller).await?;
        let operations = operations(&config, &accounts.official_accounts, Arc::clone(&clock));
        let liveness = Arc::new(Liveness::default());
        let (reload_requests, reload_receiver) = ReloadRequests::channel();
        let control = socket.map(|socket| {
            let executor = CommandExecutor {
                operations: Arc::new(ArcSwap::from_pointee(operations)),
                sinks: Arc::clone(&sink_admin),
                reloads: reload_requests.clone(),
            };
            ControlServer::new(socket, executor, Arc::clone(&liveness))
        });
        table.publish(accounts.official_accounts.iter().map(|of| Arc::clone(&of.status)).collect());
        let web = Arc::new(WebState {
            table,
            metrics: Arc::clone(&metrics),
            store: store.clone(),
            sinks,
            clock: Arc::clone(&clock),
            settings: ArcSwap::from_pointee(web_settings(&config)),
            ready: true.into(),
            liveness,
            scrapes: Arc::new(Semaphore::new(MAX_CONCURRENT_SCRAPES)),
            reload_requests: reload_requests.clone(),
        });
        Ok(Self {
            config,
            store,
            metrics,
            clock,
            poller,
            accounts,
            listeners,
            web,
            dispatchers,
            sink_admin,
            control,
            service_manager: ServiceManager::default(),
            manual_ticks: ManualTicks::default(),
            reload_requests,
            reload_receiver,
            process_settings: ProcessSettings::default(),
        })
    }

    /// Notifies this service manager while the daemon runs.
    pub fn with_service_manager(self, service_manager: ServiceManager) -> Self {
        Self { service_manager, ..self }
    }

    /// Changes these settings of the process when they change in the configuration.
    pub fn with_process_settings(self, process_settings: ProcessSettings) -> Self {
        Self { process_settings, ..self }
    }

    /// Asks this daemon for reloads, also while it runs.
    pub fn reload_requests(&self) -> ReloadRequests {
        self.reload_requests.clone()
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The addresses that the web server listens on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.address).collect()
    }

    /// The state that the web server shows, also while the daemon runs.
    pub fn web(&self) -> Arc<WebState> {
        Arc::clone(&self.web)
    }

    /// A function that makes all sinks reopen their files at their next delivery.
    pub fn reopen_files(&self) -> impl Fn() + use<> {
        let sink_admin = Arc::clone(&self.sink_admin);
        move || sink_admin.reopen_files()
    }

    /// A handle that starts polls without waiting for their schedule, for tests.
    pub fn manual_ticks(&self) -> ManualTicks {
        self.manual_ticks.clone()
    }

    /// Runs until `shutdown` is done or a part fails, then drains.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), AppError> {
        let drain_timeout = self.config.shutdown_timeout;
        let (web, store) = (Arc::clone(&self.web), self.store.clone());
        let service_manager = self.service_manager.clone();
        let poller = Arc::clone(&self.poller);
        log_token_wait(&self.accounts.official_accounts);
        let mut supervisor = Supervisor::spawn(self).await?;
        service_manager.ready(&web).await;
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            ended = supervisor.first_end() => ended,
        };
        web.ready.store(false, Ordering::Relaxed);
        supervisor.notifying.shutdown().await;
        service_manager.stopping().await;
        tracing::info!("Draining: running polls and delivery attempts finish");
        supervisor.drain(drain_timeout).await;
        poller.log().flush();
        if tokio::time::timeout(STORE_CLOSE_TIMEOUT, store.close()).await.is_err() {
            tracing::warn!("The store did not close in time; committed data is safe");
        }
        tracing::info!("Stopped");
        ended
    }
}

/// Logs once for all official accounts that their first calls wait, because their tokens were fetched just before a restart.
fn log_token_wait(official_accounts: &[Arc<OfficialAccount>]) {
    let waits = official_accounts.iter().map(|of| of.token_wait());
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

fn chat_context(config: &Config, clock: &Arc<dyn Clock>, table: &Arc<AccountTable>) -> ChatContext {
    ChatContext {
        clock: Arc::clone(clock),
        zone: config.poll.timezone,
        nicknames: Arc::new(TableNicknames(Arc::clone(table))),
    }
}

fn web_settings(config: &Config) -> WebSettings {
    WebSettings {
        detail: series_detail(config.metrics),
        event_log_max_bytes: config.store.event_log_max_bytes,
        timezone: config.poll.timezone,
        enable_reload: config.web.enable_reload,
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

fn poll_limits(config: &Config) -> PollLimits {
    PollLimits {
        deadline: poll_deadline(config),
        blind_after: config.poll.blind_after,
        backoff_policy: config.backoff_policy,
    }
}

/// Binds all addresses. A daemon that already runs with this store is the reason why that fails, whatever uses the address.
fn listen(config: &Config) -> Result<Vec<WebListener>, AppError> {
    let bind = |&address| WebListener::bind(address).map_err(|source| AppError::Listen { address, source });
    let listeners: Result<Vec<_>, _> = config.web.listen.iter().map(bind).collect();
    listeners.map_err(|error| match Store::check_free(&config.store.path) {
        Err(running @ StoreError::Locked { .. }) => running.into(),
        _ => error,
    })
}

/// Binds the control socket. Without it the daemon polls and delivers all the same.
fn control_socket(store: &Path) -> Option<ControlSocket> {
    let socket = ControlSocket::bind(store);
    let warn = |error: &SocketError| {
        tracing::warn!("This daemon accepts no commands while it runs: {}", crate::chain(error));
    };
    socket.inspect_err(warn).ok()
}
