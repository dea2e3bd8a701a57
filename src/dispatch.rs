//! Delivers the event log to the sinks: reads events after a sink's cursor, sends them, and moves the cursor.
//!
//! Each sink has its own dispatcher in each run, so that a slow or dead sink delays neither polling nor other sinks. The cursor stands
//! before the lowest event that the sink has not acknowledged ([`window`]). After a crash, events that were acknowledged
//! after it are delivered again. A commit wakes the dispatcher at once. It also looks at the log now and then, so that a
//! lost wake-up delays events but loses none.
//!
//! A failure of the sink as a whole opens a circuit breaker: the dispatcher backs off, longer after each failure, and makes
//! one attempt at a time until one succeeds ([`circuit_breaker`]). The dispatchers of one sink share it ([`share`]). An event
//! that the sink refuses delays only the events of its kf account, and becomes a dead letter after a few refusals
//! ([`dead_letters`]). Commands of an operator ([`admin`]) and changes of the sink's options ([`replacement`]) are executed
//! while no attempt is in flight. No attempt starts without a trusted lease.

pub mod admin;
mod backoff;
mod circuit_breaker;
mod commands;
mod cursor;
mod dead_letters;
mod execute;
mod reader;
mod replacement;
mod settle;
mod settled;
mod share;
mod stop_recorder;
mod window;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

pub use self::{
    commands::DispatcherHandle,
    share::{SinkShare, SinkShares},
};
use self::{
    commands::{DispatcherCommand, MAX_QUEUED_COMMANDS},
    cursor::Cursor,
    dead_letters::DeadLetters,
    reader::Reader,
    replacement::ReplacementSlot,
    share::AttemptPermit,
    stop_recorder::StopRecorder,
    window::Window,
};
use crate::{
    domain::{
        clock::{Clock, Moment},
        lease::Lease,
        sink_state::BY_OPERATOR,
    },
    sink::{Acknowledged, DeliveryError, DeliveryMode, Sink},
    status::SinkStatus,
    store::{EventFilter, LogPosition, RegisteredSink, Store, StoredEvent},
};

/// How often the log is read without a wake-up.
const READ_INTERVAL: Duration = Duration::from_secs(5);

/// What all dispatchers share.
#[derive(Clone)]
pub struct DispatchContext {
    /// The event log and the cursors.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// No attempt starts while it is not trusted: another process may deliver the same events.
    pub lease: Arc<Lease>,
}

/// Delivers the log to one sink.
pub struct Dispatcher {
    name: String,
    /// Shared with the handle.
    sink: Arc<ArcSwap<Sink>>,
    reader: Reader,
    window: Window,
    cursor: Cursor,
    share: Arc<SinkShare>,
    stop_recorder: StopRecorder,
    dead_letters: DeadLetters,
    commands: mpsc::Receiver<DispatcherCommand>,
    /// Waits until no attempt is in flight.
    pending_command: Option<DispatcherCommand>,
    replacement: Arc<ReplacementSlot>,
    status: Arc<SinkStatus>,
    /// Whether no other dispatcher of the sink has logged that it is stopped.
    is_stop_news: bool,
    store: Store,
    clock: Arc<dyn Clock>,
    lease: Arc<Lease>,
}

/// The sink has ended for good. Its undelivered events stay in the log.
#[derive(Debug, thiserror::Error)]
#[error("sink {name:?} has ended")]
pub struct SinkEnded {
    /// The sink.
    pub name: String,
    source: DeliveryError,
}

/// A finished attempt to deliver events together.
struct Attempt {
    events: Vec<Arc<StoredEvent>>,
    started_at: Moment,
    outcome: Result<Acknowledged, DeliveryError>,
    permit: AttemptPermit,
}

impl Dispatcher {
    /// A dispatcher that delivers the events that pass the filter, from the sink's cursor on, and its handle.
    pub fn new(
        share: Arc<SinkShare>,
        sink: impl Into<Arc<Sink>>,
        filter: EventFilter,
        registered: &RegisteredSink,
        context: DispatchContext,
    ) -> (Self, DispatcherHandle) {
        let RegisteredSink { cursor, state } = registered.clone();
        let DispatchContext { store, clock, lease } = context;
        let (sender, commands) = mpsc::channel(MAX_QUEUED_COMMANDS);
        let status = Arc::clone(&share.status);
        let name = status.name.clone();
        let is_stop_news = state.is_stopped() && !status.is_stopped();
        if is_stop_news {
            status.set_state(state);
        }
        let sink = Arc::new(ArcSwap::new(sink.into()));
        let replacement = Arc::<ReplacementSlot>::default();
        let dispatcher = Self {
            sink: Arc::clone(&sink),
            reader: Reader::new(name.clone(), filter, store.clone(), Arc::clone(&clock)),
            window: Window::after(cursor),
            cursor: Cursor::new(name.clone(), cursor, store.clone()),
            dead_letters: DeadLetters::new(name.clone(), store.clone()),
            stop_recorder: StopRecorder::new(name.clone(), store.clone(), Arc::clone(&status)),
            name,
            share,
            commands,
            pending_command: None,
            replacement: Arc::clone(&replacement),
            status: Arc::clone(&status),
            is_stop_news,
            store,
            clock,
            lease,
        };
        (dispatcher, DispatcherHandle { sender, replacement, sink, status })
    }

    /// Delivers until `drain`, then what the log contains by then: starts new attempts for at most the grace period, none
    /// after a failure, and waits for those in flight.
    pub async fn run(mut self, drain: CancellationToken, grace_period: Duration) -> Result<(), SinkEnded> {
        let mut committed = self.store.committed();
        let mut in_flight: FuturesUnordered<BoxFuture<'static, Attempt>> = FuturesUnordered::new();
        let mut start_until: Option<Instant> = None;
        let mut freed = self.share.freed();
        if self.is_stop_news {
            self.log_stop();
        }
        loop {
            // Marked as seen before reading, so that a commit in between wakes us again. So is what other dispatchers free.
            freed.mark_unchanged();
            let newest = *committed.borrow_and_update();
            let wake_at = self.prepare_events(newest, in_flight.len()).await;
            while start_until.is_none_or(|until| Instant::now() < until)
                && let Some((permit, events)) = self.next_events()
            {
                in_flight.push(attempt(self.sink.load_full(), events, permit, Arc::clone(&self.clock)));
            }
            if in_flight.is_empty()
                && let Some(command) = self.next_command()
            {
                self.execute(command).await;
                continue;
            }
            if start_until.is_some() && in_flight.is_empty() {
                self.cursor.finish(self.window.cursor()).await;
                return Ok(());
            }
            tokio::select! {
                biased; // Events of the last polls are delivered before the drain begins.
                () = self.cursor.store(self.window.cursor()) => {}
                Some(attempt) = in_flight.next(), if !in_flight.is_empty() => self.settle(attempt).await?,
                Some(command) = self.commands.recv(), if self.pending_command.is_none() => {
                    self.pending_command = Some(command);
                }
                Ok(()) = committed.changed() => {}
                () = drain.cancelled(), if start_until.is_none() => {
                    start_until = Some(Instant::now() + grace_period);
                    self.replacement.close();
                }
                () = self.replacement.arrived() => {}
                Ok(()) = freed.changed() => {}
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    /// Reads the log if there is room, releases events whose backoff is over, and records an unrecorded stop. Returns when
    /// to call it again.
    async fn prepare_events(&mut self, newest: LogPosition, in_flight: usize) -> Instant {
        let spare = match self.sink.load().delivery_mode() {
            // A batch takes all events that are here.
            DeliveryMode::Batch { .. } => 0,
            DeliveryMode::Concurrent { max_in_flight } => max_in_flight.saturating_sub(in_flight),
        };
        let read_again = self.reader.read(&mut self.window, newest, spare).await;
        self.dead_letters.read(&mut self.window, self.clock.now().monotonic).await;
        let record_stop_in = self.stop_recorder.record(self.clock.now()).await;
        let now = self.clock.now().monotonic;
        let release_in = self.window.release_delayed(now).map(|until| until.saturating_sub(now));
        let waits = [self.share.wait(now), release_in, record_stop_in, read_again.then_some(Duration::ZERO)];
        Instant::now() + waits.into_iter().flatten().fold(READ_INTERVAL, Duration::min)
    }

    /// The command to execute while no attempt is in flight.
    fn next_command(&mut self) -> Option<DispatcherCommand> {
        let replace =
            self.replacement.take().map(|replacement| DispatcherCommand::Replace(Box::new(replacement)));
        replace.or_else(|| self.pending_command.take())
    }

    /// Logs that the sink is stopped, if it is.
    fn log_stop(&self) {
        match self.status.read().state.stop_reason() {
            None => {}
            Some(BY_OPERATOR) => {
                tracing::warn!(sink = %self.name, "Sink is still stopped {BY_OPERATOR}; {}", self.how_to_resume());
            }
            Some(reason) => {
                tracing::error!(sink = %self.name, "Sink is still stopped: {reason}; {}", self.how_to_resume());
            }
        }
    }

    /// The events of the next attempt, if one may start.
    fn next_events(&mut self) -> Option<(AttemptPermit, Vec<Arc<StoredEvent>>)> {
        let now = self.clock.now();
        let has_command = self.pending_command.is_some() || self.replacement.is_occupied();
        if has_command || self.status.is_stopped() || !self.lease.is_trusted(now) {
            return None;
        }
        let mode = self.sink.load().delivery_mode();
        let max_in_flight = match mode {
            DeliveryMode::Batch { .. } => 1,
            DeliveryMode::Concurrent { max_in_flight } => max_in_flight,
        };
        let window = &mut self.window;
        self.share.start_attempt(now.monotonic, max_in_flight, || {
            let events = match mode {
                DeliveryMode::Batch { max_events } => window.next_batch(max_events),
                DeliveryMode::Concurrent { .. } => window.next_event().into_iter().collect(),
            };
            (!events.is_empty()).then_some(events)
        })
    }
}

fn attempt(
    sink: Arc<Sink>,
    events: Vec<Arc<StoredEvent>>,
    permit: AttemptPermit,
    clock: Arc<dyn Clock>,
) -> BoxFuture<'static, Attempt> {
    let started_at = clock.now();
    Box::pin(async move {
        let outcome = AssertUnwindSafe(sink.deliver(&events)).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|_| {
            let reason = "the attempt panicked: this is a bug in kfwatch, please report it".to_owned();
            Err(DeliveryError::Retryable { reason, after: None })
        });
        Attempt { events, started_at, outcome, permit }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use jiff::Timestamp;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        domain::sink_state::SinkState,
        sink::jsonl::{JsonlSink, JsonlTarget},
        store::{SinkRegistration, StartPosition},
    };

    /// A clock that stands still between steps.
    #[derive(Debug, Default)]
    pub(super) struct SteppedClock(AtomicU64);

    impl SteppedClock {
        fn step(&self, seconds: u64) {
            self.0.fetch_add(seconds, Ordering::Relaxed);
        }
    }

    impl Clock for SteppedClock {
        fn now(&self) -> Moment {
            let monotonic = Duration::from_secs(self.0.load(Ordering::Relaxed));
            Moment { wall: Timestamp::UNIX_EPOCH, monotonic }
        }
    }

    /// The dispatcher of the sink `log`, which takes batches, and the directory of its store.
    pub(super) async fn dispatcher(clock: &Arc<SteppedClock>) -> (Dispatcher, DispatcherHandle, TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("kfwatch.db")).unwrap();
        let registration =
            SinkRegistration { name: "log".to_owned(), start: StartPosition::Now, destination: None };
        let registered = store.register_sinks(vec![registration], Timestamp::UNIX_EPOCH).await.unwrap();
        let clock = Arc::<SteppedClock>::clone(clock);
        let context =
            DispatchContext { store, clock, lease: Arc::new(Lease::until(Duration::from_secs(1000))) };
        let sink = Sink::Jsonl(Box::new(JsonlSink::new(JsonlTarget::Stdout)));
        let (dispatcher, handle) = Dispatcher::new(
            SinkShare::new("log".to_owned()),
            sink,
            EventFilter::default(),
            &registered[0],
            context,
        );
        (dispatcher, handle, directory)
    }

    #[tokio::test]
    async fn replacement_needs_no_room_in_command_queue() {
        let (mut dispatcher, handle, _directory) = dispatcher(&Arc::<SteppedClock>::default()).await;
        while handle.sender.try_send(DispatcherCommand::NoteStop).is_ok() {}
        let sink = Sink::Jsonl(Box::new(JsonlSink::new(JsonlTarget::Stdout)));
        let registered = RegisteredSink { cursor: LogPosition(0), state: SinkState::Delivering };
        handle.replace(sink, EventFilter::default(), &registered);
        dispatcher.window.add(vec![StoredEvent::sample("")], LogPosition(1));
        assert!(dispatcher.next_events().is_none(), "no attempt starts any more");
        assert!(matches!(dispatcher.next_command(), Some(DispatcherCommand::Replace(_))));
    }

    #[tokio::test]
    async fn no_attempt_starts_after_the_end_of_the_lease() {
        let clock = Arc::<SteppedClock>::default();
        let (mut dispatcher, _handle, _directory) = dispatcher(&clock).await;
        dispatcher.window.add(vec![StoredEvent::sample("")], LogPosition(1));
        clock.step(1000);
        assert!(dispatcher.next_events().is_none());
        dispatcher.lease.trust_until(Duration::from_secs(1001));
        assert!(dispatcher.next_events().is_some());
    }

    #[tokio::test]
    async fn retry_that_postpones_all_events_does_not_block_the_sink() {
        let clock = Arc::<SteppedClock>::default();
        let (mut dispatcher, _handle, _directory) = dispatcher(&clock).await;
        dispatcher.window.add(vec![StoredEvent::sample("")], StoredEvent::sample("").id);
        for is_retry in [false, true] {
            let (permit, events) = dispatcher.next_events().unwrap();
            let postponed = events.iter().map(|event| (Arc::clone(event), Duration::from_secs(60))).collect();
            let outcome = if is_retry {
                Ok(Acknowledged { postponed })
            } else {
                Err(DeliveryError::Retryable { reason: "the network is down".to_owned(), after: None })
            };
            let attempt = Attempt { events, started_at: clock.now(), outcome, permit };
            dispatcher.settle(attempt).await.unwrap();
            clock.step(60);
        }
        dispatcher.window.release_delayed(clock.now().monotonic);
        assert!(dispatcher.next_events().is_some(), "no attempt starts any more");
    }
}
