//! The composition root: builds the parts of the daemon from the configuration, runs them, and drains them in order.
//!
//! [`App::build`] prepares the first reconcile, from nothing to the configuration ([`mod@reconcile`]): everything that can fail before the
//! first call to WeChat. [`App::run`] applies it, and from then on reconciles whenever the desired state changes: at a reload, or when a
//! lease is won or lost ([`daemon`]). It supervises the tasks ([`tasks`]) until the shutdown. Only this module spawns tasks; a task
//! that ends before it was asked to ends the daemon. A drain stops the schedules, lets running polls finish, stores when accounts were
//! last seen, lets each sink finish its attempt, and closes the web server last.

mod accounts;
mod build_sinks;
pub mod clock;
mod cluster;
mod components;
mod context;
mod daemon;
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
mod replica_commands;
mod run;
mod run_sinks;
pub mod service_manager;
mod service_status;
mod tasks;
mod token_journal;
mod token_records;
mod watchdog;

use std::{collections::BTreeMap, future::Future, net::SocketAddr, sync::Arc};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Semaphore, mpsc, watch};

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
    cluster::Membership,
    components::Components,
    context::RunContext,
    daemon::Daemon,
    desired::{Desired, OwnedStores},
    ownership::OwnershipRequest,
    reconcile::Prepared,
    replica::Replica,
    service_manager::ServiceManager,
};
use crate::{
    config::{Config, MetricsConfig, StoreLocation},
    control::executor::CommandExecutor,
    domain::clock::Clock,
    metrics::{Metrics, exposition::Detail},
    reload::{ReloadRequest, ReloadRequests},
    schedule::{queue::PollQueue, ticker::ManualTicks},
    status::ClusterStatus,
    web::{MAX_CONCURRENT_SCRAPES, WebState},
};

/// The daemon, built and not yet running.
pub struct App {
    replica: Replica,
    /// Of a store in PostgreSQL.
    membership: Option<Membership>,
    /// The first reconcile.
    prepared: Prepared,
    loader: Option<ConfigLoader>,
    reloads: ReloadRequests,
    reload_receiver: mpsc::Receiver<ReloadRequest>,
    ownership: Ownership,
    ownership_receiver: mpsc::Receiver<OwnershipRequest>,
}

impl App {
    /// Builds all parts, without calling WeChat.
    pub async fn build(config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let (reloads, reload_receiver) = ReloadRequests::channel();
        let (ownership, ownership_receiver) = Ownership::channel();
        let metrics = Arc::new(Metrics::new()?);
        let config = Arc::new(config);
        let (stores, membership) = match &config.store.location {
            StoreLocation::File(_) => (OwnedStores::File, None),
            StoreLocation::Postgres(cluster) => {
                let membership = Membership::join(cluster, &config, Arc::clone(&clock)).await?;
                (OwnedStores::Shards(BTreeMap::new()), Some(membership))
            }
        };
        let status = membership.as_ref().map(|membership| membership.status.clone());
        let web = Arc::new(web_state(&config, &clock, (&metrics, &reloads), status));
        let targets = Arc::new(ArcSwapOption::empty());
        let replicas = membership.as_ref().map(|membership| Arc::new(membership.commands()) as _);
        let executor = CommandExecutor { targets: Arc::clone(&targets), reloads: reloads.clone(), replicas };
        let queue = Arc::new(PollQueue::new(config.api.max_in_flight_per_official_account));
        let cluster = membership.as_ref().map(Membership::cluster);
        let context = RunContext {
            metrics,
            clock,
            queue,
            poll_log: Arc::default(),
            sink_admin: Arc::default(),
            sink_shares: Arc::default(),
            stores: Arc::clone(&web.stores),
            components: cluster.clone().map(|cluster| Arc::new(Components::of_cluster(cluster))),
            cluster,
        };
        let replica = Replica::start(context, web, targets, Arc::new(executor)).await?;
        let mut prepared = Box::pin(replica.prepare(Desired::new(config, stores))).await?;
        replica.register(&mut prepared).await?;
        Ok(Self {
            replica,
            membership,
            prepared,
            loader: None,
            reloads,
            reload_receiver,
            ownership,
            ownership_receiver,
        })
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
        let mut daemon = Daemon::start(self);
        daemon.announce().await;
        let ended = tokio::select! {
            biased;
            () = shutdown => Ok(()),
            failed = Box::pin(daemon.run()) => Err(failed),
        };
        Box::pin(daemon.drain(&ended)).await;
        ended
    }
}

fn web_state(
    config: &Config,
    clock: &Arc<dyn Clock>,
    (metrics, reloads): (&Arc<Metrics>, &ReloadRequests),
    cluster: Option<watch::Receiver<ClusterStatus>>,
) -> WebState {
    WebState {
        table: Arc::default(),
        metrics: Arc::clone(metrics),
        stores: Arc::default(),
        cluster,
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
