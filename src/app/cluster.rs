//! Keeps a replica in its cluster: sends heartbeats, acquires shards that nobody owns, and asks the daemon to release shards of which it
//! has more than its share.
//!
//! Heartbeats never wait for anything else, because leases end without them. Acquiring goes on beside them, one attempt at a time. The
//! store decides who owns a shard; what is planned here may be outdated.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    mem::{self, Discriminant},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use glob::Pattern;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{error::AppError, replica_commands::ReplicaCommands};
use crate::{
    config::{ClusterConfig, Config, SinkConfig},
    domain::{
        clock::Clock,
        failure_streak::FailureStreak,
        quantity::counted,
        rebalance::{ShardMoves, plan_moves},
        shard::ShardNumber,
    },
    status::{ClusterStatus, Takeover},
    store::{Cluster, Heartbeat, ReplicaInfo, Store, StoreError},
};

/// How often a heartbeat is sent. A lease lasts for eight seconds.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// For how many heartbeats a shard may have no owner before a replica acquires it that has its share already, or ends the database
/// sessions that keep it locked.
const PATIENCE: u32 = 3;

/// What happens to the shards of this replica.
pub(super) enum ShardNews {
    /// It owns these now. Each is released when its store is closed.
    Acquired(Vec<(ShardNumber, Store)>),
    /// It should release these.
    Surplus(Vec<ShardNumber>),
    /// Whether all replicas have the same configuration, so that what is no longer configured may be retired.
    Agreement {
        /// The configuration of this replica that was compared.
        config: Arc<Config>,
        is_agreed: bool,
    },
}

/// One replica of a cluster.
pub(super) struct ClusterMember {
    cluster: Cluster,
    info: ReplicaInfo,
    config: watch::Receiver<Arc<Config>>,
    /// The configuration whose fingerprint the heartbeats have.
    compared: Arc<Config>,
    /// Whether the replicas agreed when the daemon was last told; `None` if it has not been told about this configuration.
    is_agreed: Option<bool>,
    clock: Arc<dyn Clock>,
    status: watch::Sender<ClusterStatus>,
    news: mpsc::Sender<ShardNews>,
    /// Asks it to acquire nothing more, and to tell the others.
    drain: CancellationToken,
    /// For how many heartbeats each shard has had no owner.
    unowned: BTreeMap<ShardNumber, u32>,
    failures: FailureStreak<Discriminant<StoreError>>,
}

/// What connects the daemon with its cluster.
pub(super) struct Membership {
    pub(super) member: ClusterMember,
    pub(super) news: mpsc::Receiver<ShardNews>,
    pub(super) status: watch::Receiver<ClusterStatus>,
    /// Takes the running configuration.
    pub(super) config: watch::Sender<Arc<Config>>,
    /// Tells the cluster that this replica is stopping.
    pub(super) drain: CancellationToken,
}

impl Membership {
    /// Connects to the database.
    pub(super) async fn join(
        configured: &ClusterConfig,
        config: &Arc<Config>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let cluster = Cluster::connect(configured.database.clone()).await?;
        let (news_sender, news) = mpsc::channel(1);
        let (status_sender, status) = watch::channel(ClusterStatus::default());
        let (config_sender, running_config) = watch::channel(Arc::clone(config));
        let drain = CancellationToken::new();
        let info = ReplicaInfo {
            name: configured.name.clone(),
            address: address(configured, config),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: clock.now().wall,
            fingerprint: fingerprint(config),
            is_draining: false,
        };
        let member = ClusterMember {
            cluster,
            info,
            config: running_config,
            compared: Arc::clone(config),
            is_agreed: None,
            clock,
            status: status_sender,
            news: news_sender,
            drain: drain.clone(),
            unowned: BTreeMap::new(),
            failures: FailureStreak::default(),
        };
        Ok(Self { member, news, status, config: config_sender, drain })
    }

    /// The store.
    pub(super) fn cluster(&self) -> Cluster {
        self.member.cluster.clone()
    }

    /// Asks the replicas to carry out commands.
    pub(super) fn commands(&self) -> ReplicaCommands {
        ReplicaCommands { cluster: self.cluster(), status: self.status.clone() }
    }
}

impl ClusterMember {
    /// Runs until it is aborted. Fails if another replica has started with the same name.
    pub(super) async fn run(mut self) -> Result<(), AppError> {
        let mut ticks = tokio::time::interval(HEARTBEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut acquiring: Option<BoxFuture<'static, Option<ShardNews>>> = None;
        // What the daemon has not been told yet, because it is busy.
        let mut acquired: Option<ShardNews> = None;
        loop {
            let (drain, news) = (self.drain.clone(), self.news.clone());
            tokio::select! {
                biased;
                () = drain.cancelled(), if !self.info.is_draining => {
                    self.info.is_draining = true;
                    acquiring = None;
                    ticks.reset_immediately();
                }
                _ = ticks.tick() => {
                    let Some(heartbeat) = self.send_heartbeat().await? else { continue };
                    self.tell_agreement(heartbeat.is_agreed());
                    let moves = self.plan(&heartbeat);
                    if acquiring.is_none() && acquired.is_none() && !self.info.is_draining {
                        acquiring = self.acquire(&heartbeat, &moves);
                    }
                    if !moves.release.is_empty() {
                        // The daemon may still be busy with earlier news. The next heartbeat asks again.
                        self.news.try_send(ShardNews::Surplus(moves.release)).ok();
                    }
                }
                done = poll(&mut acquiring) => (acquiring, acquired) = (None, done),
                room = news.reserve(), if acquired.is_some() => {
                    // Nobody receives it when the daemon stops. Then the next heartbeat releases what was acquired.
                    if let (Ok(room), Some(acquired)) = (room, acquired.take()) {
                        room.send(acquired);
                    }
                }
            }
        }
    }

    /// `None` if the database does not answer.
    async fn send_heartbeat(&mut self) -> Result<Option<Heartbeat>, StoreError> {
        let sent_at = self.clock.now().monotonic;
        if self.config.has_changed().unwrap_or_default() {
            self.compared = Arc::clone(&self.config.borrow_and_update());
            self.info.fingerprint = fingerprint(&self.compared);
            // A reload retires nothing until this heartbeat has found that all agree.
            self.is_agreed = None;
        }
        match self.cluster.send_heartbeat(&self.info, sent_at).await {
            Ok(heartbeat) => {
                if let Some(recovery) = self.failures.succeeded(self.clock.now()) {
                    tracing::info!(failures = recovery.failures, "The database answers heartbeats again");
                }
                let (replica, now) = (self.cluster.replica(), self.clock.now());
                self.status.send_modify(|status| *status = status.after(replica, &heartbeat, now));
                Ok(Some(heartbeat))
            }
            Err(error @ StoreError::SameName { .. }) => Err(error),
            Err(error) => {
                let what = "No heartbeat: polls and deliveries stop when the leases end";
                if self.failures.failed(mem::discriminant(&error), self.clock.now()) {
                    tracing::warn!("{what}: {}", crate::chain(&error));
                } else {
                    tracing::debug!("{what}: {}", crate::chain(&error));
                }
                Ok(None)
            }
        }
    }

    /// Tells the daemon whether the replicas agree, if that has changed.
    fn tell_agreement(&mut self, is_agreed: bool) {
        let config = Arc::clone(&self.compared);
        if self.is_agreed != Some(is_agreed)
            && self.news.try_send(ShardNews::Agreement { config, is_agreed }).is_ok()
        {
            self.is_agreed = Some(is_agreed);
        }
    }

    fn plan(&mut self, heartbeat: &Heartbeat) -> ShardMoves {
        let unowned = heartbeat.view.shards.iter().filter(|shard| shard.owner.is_none());
        let waited = |number| self.unowned.get(&number).copied().unwrap_or_default() + 1;
        self.unowned = unowned.map(|shard| (shard.number, waited(shard.number))).collect();
        plan_moves(&heartbeat.view, self.cluster.replica())
    }

    /// Starts to acquire what this replica should own; `None` if that is nothing.
    fn acquire(
        &self,
        heartbeat: &Heartbeat,
        moves: &ShardMoves,
    ) -> Option<BoxFuture<'static, Option<ShardNews>>> {
        let neglected: BTreeSet<ShardNumber> =
            self.unowned.iter().filter(|(_, waited)| **waited > PATIENCE).map(|(shard, _)| *shard).collect();
        let mut wanted: BTreeSet<ShardNumber> = moves.acquire.iter().copied().collect();
        wanted.extend(heartbeat.inherited.iter().copied());
        wanted.extend(&neglected);
        if wanted.is_empty() {
            return None;
        }
        let locked = heartbeat.expired.iter().filter(|(shard, _)| neglected.contains(shard));
        let dead: BTreeSet<_> = locked.map(|(_, owner)| *owner).collect();
        let (cluster, info) = (self.cluster.clone(), self.info.clone());
        let counters = Arc::clone(&self.status.borrow().counters);
        let (inherited, expired) = (heartbeat.inherited.clone(), heartbeat.expired.clone());
        let reason = move |shard: ShardNumber| match () {
            () if inherited.contains(&shard) => Takeover::Restart,
            () if expired.iter().any(|(expired, _)| *expired == shard) => Takeover::Expired,
            () => Takeover::Released,
        };
        let acquire = async move {
            for replica in dead {
                tracing::warn!(%replica, "Ending the database sessions of a replica that is gone: they keep its shards locked");
                if let Err(error) = cluster.end_sessions_of(replica).await {
                    tracing::warn!("Could not end them: {}", crate::chain(&error));
                }
            }
            let wanted: Vec<ShardNumber> = wanted.into_iter().collect();
            match cluster.acquire_shards(&info, &wanted).await {
                Ok(acquired) if acquired.is_empty() => None,
                Ok(acquired) => {
                    acquired.iter().for_each(|(shard, _)| counters.count_takeover(reason(*shard)));
                    tracing::info!("Acquired {}", counted(acquired.len() as u64, "shard"));
                    Some(ShardNews::Acquired(acquired))
                }
                Err(error) => {
                    tracing::warn!("Could not acquire shards: {}", crate::chain(&error));
                    None
                }
            }
        };
        Some(acquire.boxed())
    }
}

/// Waits for the future, if there is one.
async fn poll<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// A digest of what decides which calls are made and which events exist. Secrets and what each replica has for itself do not: files of
/// sinks, addresses, the log.
fn fingerprint(config: &Config) -> Vec<u8> {
    let mut digest = Sha256::new();
    let mut add = |part: &dyn fmt::Debug| digest.update(format!("{part:?}\n"));
    for of in &config.official_accounts {
        let patterns: Vec<&str> = of.patterns.iter().chain(&of.exclude).map(Pattern::as_str).collect();
        add(&(&of.name, &of.appid, &of.kf_accounts, patterns, &of.schedule, of.max_requests_per_minute));
    }
    for SinkConfig { name, types, official_accounts, start, target } in &config.sinks {
        add(&(name, types, official_accounts, start, mem::discriminant(target)));
    }
    let Config { poll, backoff_policy, collectors, store, .. } = config;
    add(&(poll.spread, poll.blind_after, backoff_policy, collectors));
    add(&(store.event_retention, store.event_log_max_bytes, store.dead_letter_retention));
    digest.finalize().to_vec()
}

/// Where the page of this replica is, for people.
fn address(configured: &ClusterConfig, config: &Config) -> String {
    match (&configured.advertise, config.web.listen.first()) {
        (Some(url), _) => url.to_string(),
        (None, Some(address)) => format!("http://{}:{}/", configured.name, address.port()),
        (None, None) => String::new(),
    }
}
