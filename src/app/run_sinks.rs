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
    desired::{RunPlan, RunState, SinkPart},
    error::AppError,
    leaving::Left,
    tasks::{TaskName, TaskSet},
};
use crate::{
    dispatch::{DispatchContext, Dispatcher, DispatcherHandle, SinkShares},
    domain::plan::Step,
    sink::Sink,
    store::{RegisteredSink, SinkRegistration, Store},
};

/// The sinks of a run.
pub(super) struct RunSinks {
    /// By name.
    running: BTreeMap<Arc<str>, RunningSink>,
    /// How long a dispatcher that ends may start attempts.
    begin_for: Duration,
    /// Removed sinks whose dispatchers have not ended yet.
    ending: BTreeSet<Arc<str>>,
    context: DispatchContext,
    shares: Arc<SinkShares>,
    left: mpsc::Sender<Left>,
    tasks: TaskSet,
    /// The run stops: no sink starts again.
    all_stop: CancellationToken,
}

struct RunningSink {
    part: SinkPart,
    /// What it uses, or is about to use.
    sink: Arc<Sink>,
    handle: DispatcherHandle,
    stop: CancellationToken,
    /// Its dispatcher has ended for good. Other options start another one.
    has_failed: bool,
}

/// The sinks that a plan starts or changes, by name. All runs share them.
pub(super) type BuiltSinks = HashMap<Arc<str>, Arc<Sink>>;

impl RunSinks {
    pub(super) fn new(store: &Store, context: &RunContext, left: mpsc::Sender<Left>) -> Self {
        let shares = Arc::clone(&context.sink_shares);
        let context =
            DispatchContext { store: store.clone(), clock: Arc::clone(&context.clock), lease: store.lease() };
        let (running, ending) = (BTreeMap::new(), BTreeSet::new());
        Self {
            running,
            begin_for: Duration::ZERO,
            ending,
            context,
            shares,
            left,
            tasks: TaskSet::default(),
            all_stop: CancellationToken::new(),
        }
    }

    pub(super) fn parts(&self) -> BTreeMap<Arc<str>, SinkPart> {
        self.running.iter().map(|(name, running)| (Arc::clone(name), running.part.clone())).collect()
    }

    /// The handles of all dispatchers.
    pub(super) fn dispatchers(&self) -> impl Iterator<Item = DispatcherHandle> {
        self.running.values().map(|running| running.handle.clone())
    }

    /// The sink of this name, if it runs with these options.
    pub(super) fn sink(&self, name: &str, part: &SinkPart) -> Option<Arc<Sink>> {
        let running = self.running.get(name).filter(|running| running.part == *part && !running.has_failed);
        running.map(|running| Arc::clone(&running.sink))
    }

    /// Removes from the desired state the sinks whose former dispatcher has not ended yet, and returns their number.
    pub(super) fn defer(&self, desired: &mut RunState) -> usize {
        let before = desired.sinks.len();
        desired.sinks.retain(|name, _| !self.ending.contains(name));
        before - desired.sinks.len()
    }

    /// What the store needs to know of all desired sinks, with their names.
    pub(super) fn registrations(&self, desired: &RunState) -> (Vec<Arc<str>>, Vec<SinkRegistration>) {
        desired
            .sinks
            .iter()
            .map(|(name, part)| (Arc::clone(name), build_sinks::registration(&part.config)))
            .unzip()
    }

    /// Makes the sinks equal the desired ones. `begin_for`: how long a dispatcher that ends may start attempts.
    pub(super) fn apply(
        &mut self,
        plan: &RunPlan<'_>,
        built: &BuiltSinks,
        registered: &HashMap<Arc<str>, RegisteredSink>,
        begin_for: Duration,
    ) {
        self.begin_for = begin_for;
        for step in &plan.sinks {
            match *step {
                Step::Start(name, part) => {
                    if let (Some(sink), Some(registered)) = (built.get(name), registered.get(name)) {
                        self.start(name, part, sink, registered);
                    }
                }
                Step::Change(name, _, to) | Step::Restart(name, _, to) => {
                    let (Some(sink), Some(registered)) = (built.get(name), registered.get(name)) else {
                        continue;
                    };
                    match self.running.get_mut(name) {
                        Some(running) if !running.has_failed => {
                            let filter = build_sinks::filter(&to.config);
                            running.handle.replace(Arc::clone(sink), filter, registered);
                            (running.part, running.sink) = (to.clone(), Arc::clone(sink));
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
    }

    fn start(&mut self, name: &Arc<str>, part: &SinkPart, sink: &Arc<Sink>, registered: &RegisteredSink) {
        // What a dispatcher that has failed leaves behind.
        self.running.remove(name);
        let (share, filter) = (self.shares.of(name), build_sinks::filter(&part.config));
        let (dispatcher, handle) =
            Dispatcher::new(share, Arc::clone(sink), filter, registered, self.context.clone());
        let stop = CancellationToken::new();
        let (running, left) = (dispatcher.run(stop.clone(), self.begin_for), self.left.clone());
        let (ended_name, all_stop) = (Arc::clone(name), self.all_stop.clone());
        self.tasks.spawn(TaskName::Dispatcher(Arc::clone(name)), &stop, async move {
            let ended = running.await;
            // When the run stops, nobody may receive it.
            let _ = all_stop.run_until_cancelled(left.send(Left::Sink(ended_name))).await;
            Ok(ended?)
        });
        let (part, sink) = (part.clone(), Arc::clone(sink));
        self.running.insert(Arc::clone(name), RunningSink { part, sink, handle, stop, has_failed: false });
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
