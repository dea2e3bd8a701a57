//! From the event log to one sink: read behind the cursor, deliver, move the cursor.
//!
//! Each sink has a dispatcher of its own, so that a slow or dead sink holds back neither polling nor the others. The
//! cursor moves only when the sink has confirmed, and stands below the lowest event that is not ([`window`]); what a crash
//! leaves between the two is delivered again. A commit wakes the dispatcher at once; it also looks by itself now and then,
//! so that a lost wake-up delays and loses nothing.
//!
//! What fails for the sink as a whole makes it wait, longer from failure to failure, with one attempt at a time until one
//! succeeds ([`outage`]). What the sink refuses for the event's own sake holds back only the events of its kf account, and
//! becomes a dead letter after [`MAX_REFUSALS`] ([`letters`]). What a person wants of a sink ([`admin`]) comes as an order, and
//! is carried out when nothing is under way.

pub mod admin;
mod circuit_breaker;
mod commands;
mod cursor;
mod dead_letters;
mod reader;
mod settling;
mod stop;
mod window;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

pub use self::commands::DispatcherCommands;
use self::{
    circuit_breaker::CircuitBreaker,
    commands::{DispatcherCommand, MAX_ORDERS},
    cursor::Cursor,
    dead_letters::DeadLetters,
    reader::Reader,
    stop::Stop,
    window::Window,
};
use crate::{
    domain::{
        clock::{Clock, Moment},
        failure_streak::FailureStreak,
    },
    metrics::Metrics,
    sink::{DeliveryError, Pace, Sink},
    status::SinkStatus,
    store::{EventFilter, LogPosition, RegisteredSink, Store, StoredEvent},
};

/// How often the log is looked at without a wake-up.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How often a sink may refuse an event before it becomes a dead letter.
const MAX_REFUSALS: u32 = 5;

/// How many dead letters a sink may have before it is stopped: some six megabytes. A receiver that refuses so many refuses
/// everything, and then the log is the better place for what comes. One that is refused again adds none.
const MAX_DEAD_LETTERS: u64 = 10_000;

/// What dispatchers share.
#[derive(Clone)]
pub struct DispatchContext {
    /// The log and the cursors.
    pub store: Store,
    /// Told of deliveries.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Delivers the log to one sink.
pub struct Dispatcher {
    name: String,
    sink: Arc<Sink>,
    reader: Reader,
    window: Window,
    cursor: Cursor,
    circuit_breaker: CircuitBreaker,
    stop: Stop,
    letters: DeadLetters,
    orders: mpsc::Receiver<DispatcherCommand>,
    /// The order that waits until nothing is under way.
    order: Option<DispatcherCommand>,
    failures: FailureStreak<String>,
    status: Arc<SinkStatus>,
    store: Store,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

/// The sink has ended for good; its undelivered events stay in the log.
#[derive(Debug, thiserror::Error)]
#[error("sink {name:?} has ended")]
pub struct SinkEnded {
    /// The sink.
    pub name: String,
    source: DeliveryError,
}

/// Events that were delivered together, and what became of that.
struct Attempt {
    events: Vec<Arc<StoredEvent>>,
    begun: Moment,
    outcome: Result<(), DeliveryError>,
}

impl Dispatcher {
    /// A dispatcher that goes on where the sink stands, with those events that pass the filter; and where it takes orders.
    pub fn new(
        name: String,
        sink: Sink,
        wanted: EventFilter,
        registered: &RegisteredSink,
        context: DispatchContext,
    ) -> (Self, DispatcherCommands) {
        let cursor = registered.cursor;
        let DispatchContext { store, metrics, clock } = context;
        let (sender, orders) = mpsc::channel(MAX_ORDERS);
        let status = Arc::new(SinkStatus::new(name.clone()));
        let dispatcher = Self {
            sink: Arc::new(sink),
            reader: Reader::new(name.clone(), wanted, store.clone(), Arc::clone(&clock)),
            window: Window::behind(cursor),
            cursor: Cursor::new(name.clone(), cursor, store.clone()),
            letters: DeadLetters::new(name.clone(), store.clone()),
            stop: Stop::known(name.clone(), registered.stopped.clone(), store.clone(), Arc::clone(&status)),
            name,
            circuit_breaker: CircuitBreaker::default(),
            orders,
            order: None,
            failures: FailureStreak::default(),
            status: Arc::clone(&status),
            store,
            metrics,
            clock,
        };
        (dispatcher, DispatcherCommands::new(sender, status))
    }

    /// Where it delivers to.
    pub fn sink(&self) -> Arc<Sink> {
        Arc::clone(&self.sink)
    }

    /// Delivers until `drain`, and then what is in the log by then: new attempts begin for so long at most, none after a
    /// failure, and those under way are finished.
    pub async fn run(mut self, drain: CancellationToken, begin_for: Duration) -> Result<(), SinkEnded> {
        let mut committed = self.store.committed();
        let mut under_way: FuturesUnordered<BoxFuture<'static, Attempt>> = FuturesUnordered::new();
        let mut begin_until: Option<Instant> = None;
        if let Some(reason) = self.stop.reason() {
            tracing::error!(sink = %self.name, "Delivery has ended before: {reason}; {}", self.until_resumed());
        }
        loop {
            // Marked as seen before reading, so that a commit in between wakes us again.
            let newest = *committed.borrow_and_update();
            let look_at = self.look(newest, under_way.len()).await;
            while begin_until.is_none_or(|until| Instant::now() < until)
                && let Some(events) = self.next(under_way.len())
            {
                under_way.push(attempt(Arc::clone(&self.sink), events, Arc::clone(&self.clock)));
            }
            if under_way.is_empty()
                && let Some(order) = self.order.take()
            {
                self.carry_out(order).await;
                continue;
            }
            if begin_until.is_some() && under_way.is_empty() {
                self.cursor.finish(self.window.cursor()).await;
                return Ok(());
            }
            tokio::select! {
                biased; // What the last polls committed is delivered before the drain is obeyed.
                () = self.cursor.store(self.window.cursor()) => {}
                Some(attempt) = under_way.next(), if !under_way.is_empty() => self.settle(attempt).await?,
                Some(order) = self.orders.recv(), if self.order.is_none() => self.order = Some(order),
                Ok(()) = committed.changed() => {}
                () = drain.cancelled(), if begin_until.is_none() => begin_until = Some(Instant::now() + begin_for),
                () = tokio::time::sleep_until(look_at) => {}
            }
        }
    }

    /// Reads on in the log if there is room, lets events in whose wait is over, and tells the store what it does not know.
    /// Says when to look again.
    async fn look(&mut self, newest: LogPosition, under_way: usize) -> Instant {
        let spare = match self.sink.pace() {
            // All that is here goes together.
            Pace::Together(_) => 0,
            Pace::OneByOne(most) => most.saturating_sub(under_way),
        };
        let is_behind = self.reader.read_on(&mut self.window, newest, spare).await;
        self.letters.look(&mut self.window, self.clock.now().monotonic).await;
        let retry = self.stop.tell_store(self.clock.now()).await;
        let now = self.clock.now().monotonic;
        let next = self.window.let_in(now).map(|until| until.saturating_sub(now));
        let waits = [self.circuit_breaker.wait(now), next, retry, is_behind.then_some(Duration::ZERO)];
        Instant::now() + waits.into_iter().flatten().fold(LOOK_INTERVAL, Duration::min)
    }

    /// What to deliver next, if an attempt more may begin.
    fn next(&mut self, under_way: usize) -> Option<Vec<Arc<StoredEvent>>> {
        let (together, most) = match self.sink.pace() {
            Pace::Together(most) => (most, 1),
            Pace::OneByOne(most) => (1, most),
        };
        let now = self.clock.now().monotonic;
        let is_held = self.stop.reason().is_some() || self.order.is_some();
        if is_held || !self.circuit_breaker.lets_begin(now, under_way, most) {
            return None;
        }
        let events = match self.sink.pace() {
            Pace::Together(_) => self.window.take_together(together),
            Pace::OneByOne(_) => self.window.take_one().into_iter().collect(),
        };
        if events.is_empty() {
            return None;
        }
        self.circuit_breaker.begin();
        Some(events)
    }
}

fn attempt(
    sink: Arc<Sink>,
    events: Vec<Arc<StoredEvent>>,
    clock: Arc<dyn Clock>,
) -> BoxFuture<'static, Attempt> {
    let begun = clock.now();
    Box::pin(async move {
        let outcome = sink.deliver(&events).await;
        Attempt { events, begun, outcome }
    })
}
