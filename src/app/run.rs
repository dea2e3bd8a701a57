//! A run: the part of the daemon that owns the accounts and sinks of one store, with its poller, dispatchers and housekeeping.
//!
//! A daemon with a SQLite store has one run; with a PostgreSQL store, one for each shard that it owns. Runs start and stop while the
//! process goes on, and share what the [`Replica`](super::replica::Replica) has: the queue, the tickers, the collectors, the HTTP client,
//! the tables for readers.
//!
//! [`Run::register`] is the only step of a reconcile that writes to the store. [`Run::apply`] cannot fail and does not wait.

mod apply;
mod register;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

pub(super) use self::{apply::AccountInputs, register::Registered};
use super::{
    accounts::KfAccountNames,
    context::RunContext,
    desired::{OfficialAccountPart, RunState},
    error::AppError,
    housekeeping::Housekeeping,
    leaving::{Leaving, LeavingGroup, Left},
    official_accounts::OfficialAccountFactory,
    operations::poll_deadline,
    run_sinks::RunSinks,
    tasks::{TaskName, TaskSet},
};
use crate::{
    config::{Config, StoreConfig},
    domain::plan::{Activity, RunId},
    poll::{OfficialAccount, PollLimits, Poller},
    schedule::queue::{LaneId, PollQueue},
    status::{AccountTable, WatchedAccount},
    store::{Store, StoreError},
    wechat::http::WechatClient,
};

/// How many notes of parts that have left may wait.
const LEFT_IN_QUEUE: usize = 16;

/// How long the store may take to write its log into its file at the end.
const STORE_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The run of one store.
pub(super) struct Run {
    id: RunId,
    pub(super) store: Store,
    pub(super) poller: Arc<Poller>,
    pub(super) factory: OfficialAccountFactory,
    pub(super) sinks: RunSinks,
    /// By appid.
    official_accounts: BTreeMap<Arc<str>, RunningAccount>,
    leaving: Leaving,
    left: mpsc::Receiver<Left>,
    left_sender: mpsc::Sender<Left>,
    /// The official accounts of this run, for housekeeping.
    table: Arc<AccountTable>,
    limits: Arc<ArcSwap<StoreConfig>>,
    tasks: TaskSet,
    /// Whether the loss of the store was reported.
    is_lost: bool,
    /// Asks the tasks to end, after the last poll.
    polls_done: CancellationToken,
    context: RunContext,
}

/// An official account that runs.
pub(super) struct RunningAccount {
    /// Without the kf accounts, which `official_account` has.
    pub(super) part: OfficialAccountPart,
    pub(super) official_account: Arc<OfficialAccount>,
    pub(super) lane: LaneId,
}

/// What happens to a run by itself.
pub(super) enum RunEvent {
    /// A part has left, so that it may start again.
    Left(Left),
    /// A task has failed, or the store is lost.
    Failed(AppError),
}

impl Run {
    /// A run of an open store, without accounts and sinks.
    pub(super) async fn new(
        id: RunId,
        store: Store,
        config: &Config,
        client: Arc<WechatClient>,
        context: &RunContext,
    ) -> Result<Self, StoreError> {
        let RunContext { metrics, clock, .. } = context;
        let components = context.components.clone().unwrap_or_default();
        let factory =
            OfficialAccountFactory::with_client(client, components, &store, Arc::clone(clock)).await?;
        let poller = Poller::new(store.clone(), Arc::clone(metrics), Arc::clone(clock), poll_limits(config))
            .with_log(Arc::clone(&context.poll_log));
        let (left_sender, left) = mpsc::channel(LEFT_IN_QUEUE);
        Ok(Self {
            id,
            poller: Arc::new(poller),
            factory,
            sinks: RunSinks::new(&store, context, left_sender.clone()),
            official_accounts: BTreeMap::new(),
            leaving: Leaving::default(),
            left,
            left_sender,
            table: Arc::default(),
            limits: Arc::new(ArcSwap::from_pointee(config.store.clone())),
            tasks: TaskSet::default(),
            is_lost: false,
            polls_done: CancellationToken::new(),
            context: context.clone(),
            store,
        })
    }

    /// What runs, with the kf accounts that are watched now.
    pub(super) fn state(&self) -> RunState {
        let parts = self.official_accounts.iter();
        RunState {
            official_accounts: parts.map(|(appid, running)| (Arc::clone(appid), running.part())).collect(),
            sinks: self.sinks.parts(),
        }
    }

    /// The official accounts that run, by appid.
    pub(super) fn official_accounts(&self) -> impl Iterator<Item = (&str, &RunningAccount)> {
        self.official_accounts.iter().map(|(appid, running)| (&**appid, running))
    }

    /// The kf accounts that are watched now.
    pub(super) fn watched(&self) -> KfAccountNames {
        let watched = |(appid, running): (&Arc<str>, &RunningAccount)| {
            (Arc::clone(appid), names(&running.official_account.accounts()).collect())
        };
        self.official_accounts.iter().map(watched).collect()
    }

    /// Removes from the desired state what cannot start yet, because it has not finished leaving. Returns how many parts that are.
    pub(super) fn defer(&self, desired: &mut RunState) -> usize {
        let before = desired.official_accounts.len();
        let mut deferred = 0;
        desired.official_accounts.retain(|appid, part| {
            let Some(leaving) = self.leaving.of(appid) else { return true };
            let Some(running) = self.official_accounts.get(appid) else { return false };
            let before = part.kf_accounts.len();
            if running.part.is_ending {
                *part = running.part();
                deferred += 1;
            } else {
                part.kf_accounts.retain(|kf_account| !leaving.contains_key(kf_account));
                deferred += before - part.kf_accounts.len();
            }
            true
        });
        deferred += before - desired.official_accounts.len();
        deferred + self.sinks.defer(desired)
    }

    /// Sets what the run has of the settings.
    pub(super) fn configure(&mut self, config: &Config) {
        self.poller.set_limits(poll_limits(config));
        self.limits.store(Arc::new(config.store.clone()));
        let statuses = self.official_accounts.values().map(|running| running.official_account.status.clone());
        self.table.publish(statuses.collect());
        if !self.tasks.contains(&TaskName::Housekeeping) {
            self.start_housekeeping();
        }
    }

    /// Sets whether the run acts for its accounts. Polls and attempts in flight finish.
    pub(super) fn set_activity(&self, activity: Activity) {
        self.store.lease().set_suspended(activity == Activity::Paused);
    }

    /// Notes that parts have finished leaving.
    pub(super) fn note_left(&mut self, left: &Left) {
        match left {
            Left::KfAccounts(accounts) => self.leaving.remove(accounts),
            Left::Sink(name) => self.sinks.note_ended(name),
        }
    }

    /// Waits until something happens. The loss of the store is reported once. Cancel safe.
    pub(super) async fn next_event(&mut self) -> RunEvent {
        loop {
            let failed = tokio::select! {
                biased;
                lost = self.store.lost(), if !self.is_lost => AppError::Store(lost),
                failed = self.tasks.failure() => failed.1,
                failed = self.sinks.failure() => failed,
                Some(left) = self.left.recv() => return RunEvent::Left(left),
            };
            // Housekeeping notices it, too.
            let is_loss = matches!(failed, AppError::Store(_));
            if !is_loss || !std::mem::replace(&mut self.is_lost, true) {
                return RunEvent::Failed(failed);
            }
        }
    }

    /// Ends a run that is no longer owned. One whose store is lost ends at once; otherwise it [stops](Self::stop).
    pub(super) async fn end(self, timeout: Duration) {
        if self.store.lost().now_or_never().is_some() {
            self.abandon().await;
        } else {
            self.stop(timeout).await;
        }
    }

    /// Stops the run: its polls finish, the times of the last ones are stored, each sink finishes its attempt, the store is closed.
    /// Each of these waits for those before it only until its share of the timeout is over: a call that hangs must not stop sinks from
    /// finishing. What one does not need is there for the next.
    pub(super) async fn stop(mut self, timeout: Duration) {
        let begun = Instant::now();
        let until = |eighths| (timeout / 8 * eighths).saturating_sub(begun.elapsed());
        self.left.close();
        let polled: Vec<LeavingGroup> = self.leave_all();
        let polls = polled.iter().map(LeavingGroup::retired).collect::<FuturesUnordered<_>>();
        let polls = polls.for_each(async |_| {});
        if tokio::time::timeout(until(4), polls).await.is_err() {
            tracing::warn!("Draining: polls did not finish within their share of shutdown_timeout");
        }
        self.polls_done.cancel();
        self.tasks.drain(|_| true, until(5), "housekeeping").await;
        self.sinks.stop(until(7)).await;
        self.close().await;
    }

    /// Ends everything at once, because the store is lost: nothing may be delivered or polled any more.
    pub(super) async fn abandon(mut self) {
        self.left.close();
        self.sinks.abort().await;
        self.leave_all();
        self.tasks.abort(|_| true).await;
        self.close().await;
    }

    /// Makes sure that no poll starts any more. The accounts stay in the table, so that housekeeping can store when they were last seen.
    fn leave_all(&self) -> Vec<LeavingGroup> {
        self.official_accounts.values().map(|running| end_polls(&self.context.queue, running)).collect()
    }

    async fn close(&self) {
        self.poller.log().flush();
        if tokio::time::timeout(STORE_CLOSE_TIMEOUT, self.store.close()).await.is_err() {
            tracing::warn!("The store did not close in time; committed data is safe");
        }
    }

    fn start_housekeeping(&mut self) {
        let housekeeping = Housekeeping {
            store: self.store.clone(),
            clock: Arc::clone(&self.context.clock),
            table: Arc::clone(&self.table),
            sinks: Arc::clone(&self.context.sink_admin),
            limits: Arc::clone(&self.limits),
            stores: Arc::clone(&self.context.stores),
            store_failures: Mutex::default(),
        };
        let task = housekeeping.run(self.polls_done.clone());
        self.tasks.spawn(TaskName::Housekeeping, &self.polls_done, async { Ok(task.await?) });
    }
}

impl RunningAccount {
    /// What runs, with the kf accounts that are watched now.
    fn part(&self) -> OfficialAccountPart {
        self.part.with_kf_accounts(names(&self.official_account.accounts()).collect())
    }
}

/// Makes sure that no poll of an official account starts any more. Its kf accounts stay in what readers see.
fn end_polls(queue: &PollQueue, running: &RunningAccount) -> LeavingGroup {
    queue.remove_lane(running.lane);
    let accounts = running.official_account.accounts().to_vec();
    accounts.iter().for_each(|account| account.leave());
    LeavingGroup { official_account: Some(Arc::clone(&running.official_account)), accounts }
}

fn names(accounts: &[Arc<WatchedAccount>]) -> impl Iterator<Item = Arc<str>> {
    accounts.iter().map(|account| Arc::clone(&account.account().kf_account))
}

/// The times that bound polls.
fn poll_limits(config: &Config) -> PollLimits {
    PollLimits {
        deadline: poll_deadline(config),
        blind_after: config.poll.blind_after,
        backoff_policy: config.backoff_policy,
    }
}
