//! The sinks of a run: each has a dispatcher in a task of its own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    build_sinks,
    context::RunContext,
    desired::{Plan, SinkPart, State},
    error::AppError,
    leaving::Left,
    tasks::{TaskName, TaskSet},
};
use crate::{
    config::Config,
    dispatch::{DispatchContext, Dispatcher, DispatcherHandle, admin::SinkAdmin},
    domain::plan::Step,
    sink::Sink,
    status::SinkStatus,
    store::{RegisteredSink, SinkRegistration, Store},
};

/// The sinks of a run.
pub(super) struct RunSinks {
    /// By name.
    running: BTreeMap<Arc<str>, RunningSink>,
    admin: Arc<SinkAdmin>,
    /// How long a dispatcher that ends may start attempts.
    begin_for: Duration,
    /// Removed sinks whose dispatchers have not ended yet.
    ending: BTreeSet<Arc<str>>,
    context: DispatchContext,
    left: mpsc::Sender<Left>,
    tasks: TaskSet,
    /// The run stops: no sink starts again.
    all_stop: CancellationToken,
}

struct RunningSink {
    part: SinkPart,
    handle: DispatcherHandle,
    stop: CancellationToken,
    /// Its dispatcher has ended for good. Other options start another one.
    has_failed: bool,
}

/// The sinks that a plan starts or changes, built and not yet connected, by name.
pub(super) type BuiltSinks = HashMap<Arc<str>, Sink>;

impl RunSinks {
    pub(super) fn new(store: &Store, context: &RunContext, left: mpsc::Sender<Left>) -> Self {
        let context =
            DispatchContext { store: store.clone(), clock: Arc::clone(&context.clock), lease: store.lease() };
        let admin = Arc::new(SinkAdmin::new(store.clone()));
        let (running, ending) = (BTreeMap::new(), BTreeSet::new());
        Self {
            running,
            admin,
            begin_for: Duration::ZERO,
            ending,
            context,
            left,
            tasks: TaskSet::default(),
            all_stop: CancellationToken::new(),
        }
    }

    pub(super) fn admin(&self) -> Arc<SinkAdmin> {
        Arc::clone(&self.admin)
    }

    pub(super) fn parts(&self) -> BTreeMap<Arc<str>, SinkPart> {
        self.running.iter().map(|(name, running)| (Arc::clone(name), running.part.clone())).collect()
    }

    /// The sinks as readers see them, in the order of the configuration.
    pub(super) fn statuses(&self, config: &Config) -> Vec<Arc<SinkStatus>> {
        let running = config.sinks.iter().filter_map(|sink| self.running.get(sink.name.as_str()));
        running.map(|running| running.handle.status()).collect()
    }

    /// Removes from the desired state the sinks whose former dispatcher has not ended yet, and returns their number.
    pub(super) fn defer(&self, desired: &mut State) -> usize {
        let before = desired.sinks.len();
        desired.sinks.retain(|name, _| !self.ending.contains(name));
        before - desired.sinks.len()
    }

    /// What the store needs to know of all desired sinks, with their names.
    pub(super) fn registrations(&self, desired: &State) -> (Vec<Arc<str>>, Vec<SinkRegistration>) {
        desired
            .sinks
            .iter()
            .map(|(name, part)| (Arc::clone(name), build_sinks::registration(&part.config)))
            .unzip()
    }

    /// Makes the sinks equal the desired ones. `begin_for`: how long a dispatcher that ends may start attempts.
    pub(super) fn apply(
        &mut self,
        plan: &Plan<'_>,
        built: &mut BuiltSinks,
        registered: &HashMap<Arc<str>, RegisteredSink>,
        begin_for: Duration,
    ) {
        self.begin_for = begin_for;
        for step in &plan.sinks {
            match *step {
                Step::Start(name, part) => {
                    if let (Some(sink), Some(registered)) = (built.remove(name), registered.get(name)) {
                        self.start(name, part, sink, registered);
                    }
                }
                Step::Change(name, _, to) | Step::Restart(name, _, to) => {
                    let (Some(sink), Some(registered)) = (built.remove(name), registered.get(name)) else {
                        continue;
                    };
                    match self.running.get_mut(name) {
                        Some(running) if !running.has_failed => {
                            running.handle.replace(sink, build_sinks::filter(&to.config), registered);
                            running.part = to.clone();
                        }
                        _ => self.start(name, to, sink, registered),
                    }
                }
                Step::Stop(name, _) => {
                    if let Some(running) = self.running.remove(name).filter(|running| !running.has_failed) {
                        running.stop.cancel();
                        self.ending.insert(Arc::clone(name));
                    }
                }
            }
        }
        self.admin.set_dispatchers(self.running.values().map(|running| running.handle.clone()));
    }

    fn start(&mut self, name: &Arc<str>, part: &SinkPart, sink: Sink, registered: &RegisteredSink) {
        let filter = build_sinks::filter(&part.config);
        let (dispatcher, handle) =
            Dispatcher::new(name.to_string(), sink, filter, registered, self.context.clone());
        let stop = CancellationToken::new();
        let (running, left) = (dispatcher.run(stop.clone(), self.begin_for), self.left.clone());
        let (ended_name, all_stop) = (Arc::clone(name), self.all_stop.clone());
        self.tasks.spawn(TaskName::Dispatcher(Arc::clone(name)), &stop, async move {
            let ended = running.await;
            // When the run stops, nobody may receive it.
            let _ = all_stop.run_until_cancelled(left.send(Left::Sink(ended_name))).await;
            Ok(ended?)
        });
        self.running
            .insert(Arc::clone(name), RunningSink { part: part.clone(), handle, stop, has_failed: false });
    }

    /// Notes that the dispatcher of a sink has ended: of one that was removed, so that it may start again, or because it has failed.
    pub(super) fn note_ended(&mut self, name: &str) {
        if !self.ending.remove(name)
            && let Some(running) = self.running.get_mut(name)
        {
            running.has_failed = true;
        }
    }

    /// Waits until a dispatcher has failed, if it was the last one. The failure of any other is logged; its events stay in the store.
    pub(super) async fn failure(&mut self) -> AppError {
        loop {
            let (_, error) = self.tasks.failure().await;
            match error {
                AppError::SinkEnded(ended) if self.tasks.is_empty() => return AppError::NoSink(ended),
                AppError::SinkEnded(ended) => tracing::error!("{}", crate::chain(&ended)),
                error => return error,
            }
        }
    }

    /// Stops all sinks. Each finishes its attempt.
    pub(super) async fn stop(&mut self, grace: Duration) {
        self.all_stop.cancel();
        self.running.values().for_each(|running| running.stop.cancel());
        self.tasks.drain(|_| true, grace, "sinks").await;
    }

    /// Stops all sinks at once.
    pub(super) async fn abort(&mut self) {
        self.running.values().for_each(|running| running.stop.cancel());
        self.tasks.abort(|_| true).await;
    }
}
