//! The daemon while it runs: waits for what makes it reconcile, reconciles, and drains at the end.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    App,
    cluster::{Membership, ShardNews},
    desired::Desired,
    error::AppError,
    leaving::Left,
    ownership::OwnershipRequest,
    reload::Reloader,
    replica::Replica,
    replica_commands::carry_out_commands,
    run::{Run, RunEvent},
    tasks::TaskName,
};
use crate::{
    config::Config,
    domain::{plan::RunId, quantity::counted},
    reload::{ReloadMode, ReloadRequest, ReloadTrigger},
    store::StoreError,
};

/// How long to wait before a reconcile that failed is tried again, if nobody asks for it before.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The daemon while it runs.
pub(super) struct Daemon {
    replica: Replica,
    desired: Desired,
    reloader: Reloader,
    reloads: mpsc::Receiver<ReloadRequest>,
    ownership: mpsc::Receiver<OwnershipRequest>,
    /// If the store is in PostgreSQL.
    cluster: Option<ClusterLink>,
    /// When a reconcile that failed is tried again.
    retry_at: Option<Instant>,
    /// When the files were last read.
    last_look: Instant,
}

/// What connects a replica with its heartbeats.
struct ClusterLink {
    news: mpsc::Receiver<ShardNews>,
    config: watch::Sender<Arc<Config>>,
    /// Tells the cluster that this replica is stopping.
    drain: CancellationToken,
}

/// What makes the daemon reconcile.
enum Cause {
    /// A part of a run has left, so that it may start again.
    Left(RunId, Left),
    Reload(ReloadRequest),
    Shards(ShardNews),
    /// The lease of a shard has ended.
    Lost(StoreError),
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

impl Daemon {
    /// Applies the first reconcile, and starts the tasks that every daemon has.
    pub(super) fn start(app: App) -> Self {
        let App { mut replica, membership, prepared, loader, reload_receiver, ownership_receiver, .. } = app;
        let desired = prepared.desired.clone();
        replica.context.metrics.config_reloaded(true, replica.context.clock.now().wall);
        // Nothing runs that could stop.
        drop(replica.apply(prepared));
        replica.start_shared_tasks();
        replica.log_token_wait();
        let cluster = membership.map(|membership| {
            let commands = carry_out_commands(membership.cluster(), Arc::clone(&replica.executor));
            let Membership { member, news, config, drain, .. } = membership;
            // They run until the end: leases last only as long as heartbeats are sent.
            let never = CancellationToken::new();
            replica.tasks.spawn(TaskName::ReplicaCommands, &never, commands.map(Ok));
            replica.tasks.spawn(TaskName::ClusterMember, &never, member.run());
            ClusterLink { news, config, drain }
        });
        Self {
            replica,
            desired,
            reloader: Reloader::new(loader),
            reloads: reload_receiver,
            ownership: ownership_receiver,
            cluster,
            retry_at: None,
            last_look: Instant::now(),
        }
    }

    /// Tells the service manager that the daemon is ready.
    pub(super) async fn announce(&self) {
        self.replica.service_manager.ready(&self.replica.web).await;
    }

    /// Reconciles until a part fails, which is returned. May be dropped while it waits.
    pub(super) async fn run(&mut self) -> AppError {
        loop {
            let cause = match self.next_cause().await {
                Ok(cause) => cause,
                Err(failed) => return failed,
            };
            if matches!(cause, Cause::Interval | Cause::Reload(_)) {
                self.last_look = Instant::now();
            }
            match Box::pin(self.reconcile(cause)).await {
                Reconciled::Completely => self.retry_at = None,
                Reconciled::Failed => self.retry_at = Some(Instant::now() + RETRY_AFTER),
                Reconciled::Nothing => {}
            }
            if let Some(cluster) = &self.cluster {
                let running = &self.desired.config;
                cluster.config.send_if_modified(|known| {
                    let has_changed = !Arc::ptr_eq(known, running);
                    known.clone_from(running);
                    has_changed
                });
            }
        }
    }

    /// Stops everything in order.
    pub(super) async fn drain(mut self, ended: &Result<(), AppError>) {
        self.replica.web.ready.store(false, Ordering::Relaxed);
        if let Some(mut cluster) = self.cluster.take() {
            cluster.drain.cancel();
            // What was acquired in the meantime is released with the rest.
            cluster.news.close();
            while let Ok(news) = cluster.news.try_recv() {
                if let ShardNews::Acquired(acquired) = news {
                    self.desired.stores.insert(acquired);
                }
            }
        }
        self.replica.end_notifications().await;
        self.replica.service_manager.stopping().await;
        if matches!(ended, Err(AppError::Store(_))) {
            join_all(std::mem::take(&mut self.replica.runs).into_values().map(Run::abandon)).await;
        }
        tracing::info!("Draining: running polls and delivery attempts finish");
        self.replica.stop(self.desired.config.shutdown_timeout).await;
        // Shards that were acquired and have no run yet are released, too.
        self.desired.stores.close().await;
        tracing::info!("Stopped");
    }

    /// Waits until the daemon has to reconcile. Fails if a part fails.
    async fn next_cause(&mut self) -> Result<Cause, AppError> {
        let Self { replica, desired, reloads, ownership, cluster, retry_at, last_look, .. } = self;
        let interval = desired.config.reload_interval;
        Ok(tokio::select! {
            biased;
            (_, failed) = replica.tasks.failure() => return Err(failed),
            (run, event) = next_event(&mut replica.runs) => match event {
                RunEvent::Left(left) => Cause::Left(run, left),
                RunEvent::Failed(AppError::Store(error)) if may_lose(desired, &error) => {
                    Cause::Lost(error)
                }
                RunEvent::Failed(error) => return Err(error),
            },
            Some(news) = next_news(cluster) => Cause::Shards(news),
            Some(request) = ownership.recv() => Cause::Ownership(request),
            Some(request) = reloads.recv() => Cause::Reload(request),
            () = tokio::time::sleep_until(retry_at.unwrap_or(*last_look)), if retry_at.is_some() => Cause::Retry,
            () = tokio::time::sleep_until(*last_look + interval.unwrap_or_default()), if interval.is_some() => {
                Cause::Interval
            }
        })
    }

    /// Makes the daemon equal the desired state, after that has changed or a part that left may start again. May be dropped while it
    /// waits.
    async fn reconcile(&mut self, cause: Cause) -> Reconciled {
        let Self { replica, desired, reloader, .. } = self;
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
            Cause::Shards(news) => note_shards(news, replica, desired).await,
            Cause::Lost(error) => note_lost(replica, desired, &error),
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
                return if is_applied { completeness(replica, desired) } else { Reconciled::Nothing };
            }
            Cause::Interval => {
                // The outcome is logged.
                let outcome =
                    reloader.reload(replica, desired, ReloadMode::Apply, ReloadTrigger::Interval).await;
                return if outcome.is_ok() { completeness(replica, desired) } else { Reconciled::Nothing };
            }
            // A shard may have been lost before its run started.
            Cause::Retry => note_lost(replica, desired, &StoreError::LeaseLost),
        }
        match replica.reconcile(desired.clone()).await {
            Ok(()) => completeness(replica, desired),
            Err(error) => {
                tracing::warn!("A change could not be completed, trying again: {}", crate::chain(&error));
                Reconciled::Failed
            }
        }
    }
}

/// Whether something is left to be done after a reconcile: what was to be retired waits until everything else is as configured, and a
/// shard may not have started.
fn completeness(replica: &Replica, desired: &Desired) -> Reconciled {
    let has_started = |run: &RunId| replica.runs.contains_key(run);
    let is_complete =
        replica.may_retire == desired.may_retire && desired.stores.runs().iter().all(has_started);
    if is_complete { Reconciled::Completely } else { Reconciled::Failed }
}

/// Changes which shards are desired.
async fn note_shards(news: ShardNews, replica: &mut Replica, desired: &mut Desired) {
    match news {
        ShardNews::Surplus(surplus) => {
            tracing::info!("Releasing {}: other replicas have less", counted(surplus.len() as u64, "shard"));
            desired.stores.remove(&surplus);
        }
        // It may be about the configuration before a reload.
        ShardNews::Agreement { config, .. } if !Arc::ptr_eq(&config, &desired.config) => {}
        ShardNews::Agreement { is_agreed, .. } => {
            if !is_agreed && desired.may_retire {
                tracing::warn!(
                    "The replicas have different configurations: until they agree, nothing is recorded as removed"
                );
            }
            desired.may_retire = is_agreed;
        }
        ShardNews::Acquired(acquired) => {
            // A shard may have been lost and acquired again before this was noticed. Its former run ends first.
            note_lost(replica, desired, &StoreError::LeaseLost);
            let former = acquired.iter().filter_map(|(shard, _)| replica.runs.remove(&RunId::from(*shard)));
            let former: Vec<Run> = former.collect();
            join_all(former.into_iter().map(Run::abandon)).await;
            desired.stores.insert(acquired);
        }
    }
}

/// Removes the shards that are lost from the desired ones. Several are often lost together, and the first one that is noticed is the reason.
fn note_lost(replica: &Replica, desired: &mut Desired, error: &StoreError) {
    let lost = desired.stores.remove_lost();
    if lost > 0 {
        tracing::warn!("Lost {}: {}", counted(lost as u64, "shard"), crate::chain(error));
    }
    if let Some(cluster) = &replica.web.cluster {
        cluster.borrow().counters.count_lost(lost as u64);
    }
}

/// Whether the daemon goes on without a shard whose store has failed.
fn may_lose(desired: &Desired, error: &StoreError) -> bool {
    desired.stores.are_shards() && !matches!(error, StoreError::SameName { .. })
}

async fn next_news(cluster: &mut Option<ClusterLink>) -> Option<ShardNews> {
    match cluster {
        Some(cluster) => cluster.news.recv().await,
        None => std::future::pending().await,
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
