//! From the event log to one sink: read behind the cursor, deliver, move the cursor.
//!
//! Each sink has a dispatcher of its own, so that a slow or dead sink holds back neither polling nor the others. The
//! cursor moves only when the sink has confirmed, and stands below the lowest event that is not ([`window`]); what a crash
//! leaves between the two is delivered again. A commit wakes the dispatcher at once; it also looks by itself now and then,
//! so that a lost wake-up delays and loses nothing.
//!
//! What fails for the sink as a whole makes it wait, longer from failure to failure, with one attempt at a time until one
//! succeeds. What the sink refuses for the event's own sake holds back only the events of its kf account, and becomes a
//! dead letter after [`MAX_REFUSALS`].

mod cursor;
mod window;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{cursor::Cursor, window::Window};
use crate::{
    domain::clock::Clock,
    metrics::Metrics,
    sink::{DeliveryError, Pace, Sink},
    store::{DeadLetter, EventId, RegisteredSink, Store, StoredEvent},
};

/// How many events are read ahead of what the sink has confirmed: about half a megabyte.
const READ_AHEAD: usize = 1000;

/// How often the log is looked at without a wake-up.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The first wait after a failed attempt.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest wait after failed attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How often a sink may refuse an event before it becomes a dead letter.
const MAX_REFUSALS: u32 = 5;

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
    window: Window,
    cursor: Cursor,
    store: Store,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    /// When the monotonic clock of the window began.
    began: Instant,
    /// Failures of the sink as a whole, one after the other.
    failures: u32,
    /// No attempt begins before, after such a failure.
    resume_at: Option<Instant>,
    /// Whether the sink wants no more events.
    stopped: bool,
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
type Attempt = (Vec<Arc<StoredEvent>>, Result<(), DeliveryError>);

impl Dispatcher {
    /// A dispatcher that goes on where the sink stands.
    pub fn new(name: String, sink: Sink, registered: &RegisteredSink, context: DispatchContext) -> Self {
        let cursor = registered.cursor;
        let DispatchContext { store, metrics, clock } = context;
        Self {
            sink: Arc::new(sink),
            window: Window::behind(cursor),
            cursor: Cursor::new(name.clone(), cursor, store.clone()),
            name,
            store,
            metrics,
            clock,
            began: Instant::now(),
            failures: 0,
            resume_at: None,
            stopped: registered.stopped.is_some(),
        }
    }

    /// Delivers until `drain`, and then what is in the log by then, unless an attempt fails or it is aborted.
    pub async fn run(mut self, drain: CancellationToken) -> Result<(), SinkEnded> {
        let mut committed = self.store.committed();
        let mut under_way: FuturesUnordered<BoxFuture<'static, Attempt>> = FuturesUnordered::new();
        let mut draining = false;
        loop {
            // Marked as seen before reading, so that a commit in between wakes us again.
            let newest = *committed.borrow_and_update();
            let wake_at = self.look(newest).await;
            while let Some(events) = self.next(under_way.len()) {
                under_way.push(attempt(Arc::clone(&self.sink), events));
            }
            if draining && under_way.is_empty() {
                self.cursor.store_now(self.window.cursor()).await;
                return Ok(());
            }
            tokio::select! {
                biased; // What the last polls committed is delivered before the drain is obeyed.
                Some((events, outcome)) = under_way.next(), if !under_way.is_empty() => {
                    self.settle(&events, outcome).await?;
                }
                () = self.cursor.store(self.window.cursor()) => {}
                _ = committed.changed(), if self.resume_at.is_none() => {}
                () = drain.cancelled(), if !draining => draining = true,
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    /// Reads on in the log if there is room, and lets events in whose wait is over. Says when to look again.
    async fn look(&mut self, newest: EventId) -> Instant {
        let now = Instant::now();
        if self.resume_at.is_some_and(|resume_at| resume_at <= now) {
            self.resume_at = None;
        }
        if self.resume_at.is_none() && self.window.len() <= READ_AHEAD / 2 && self.window.read_to() < newest {
            match self.store.read_events_after(self.window.read_to(), READ_AHEAD).await {
                Ok(events) => {
                    let read_to = events.last().map_or(newest, |event| event.id);
                    self.window.add(events, read_to);
                }
                Err(error) => self.failed(&crate::chain(&error), None),
            }
        }
        let next = self.window.let_in(now - self.began).map(|until| self.began + until);
        [self.resume_at, next].into_iter().flatten().fold(now + LOOK_INTERVAL, Instant::min)
    }

    /// What to deliver next, if an attempt more may begin.
    fn next(&mut self, under_way: usize) -> Option<Vec<Arc<StoredEvent>>> {
        if self.stopped || self.resume_at.is_some() {
            return None;
        }
        match self.sink.pace() {
            Pace::Together(most) if under_way == 0 => {
                Some(self.window.take_together(most)).filter(|events| !events.is_empty())
            }
            Pace::Together(_) => None,
            // After a failure one attempt shows whether the sink is back.
            Pace::OneByOne(most) if under_way < if self.failures == 0 { most } else { 1 } => {
                self.window.take_one().map(|event| vec![event])
            }
            Pace::OneByOne(_) => None,
        }
    }

    /// Takes note of what became of an attempt.
    async fn settle(
        &mut self,
        events: &[Arc<StoredEvent>],
        outcome: Result<(), DeliveryError>,
    ) -> Result<(), SinkEnded> {
        match outcome {
            Ok(()) => {
                self.window.settle(events);
                if let Some(counters) = self.metrics.sink(&self.name) {
                    counters.delivered(events.len() as u64);
                }
                self.recovered();
            }
            Err(DeliveryError::Retryable { reason, after }) => {
                self.window.put_back(events);
                self.failed(&reason, after);
            }
            Err(DeliveryError::Refused { reason, answer }) => {
                for event in events {
                    self.refused(event, &reason, &answer).await;
                }
            }
            Err(DeliveryError::Stopped { reason }) => {
                self.window.put_back(events);
                self.stop(&reason).await;
            }
            Err(source @ DeliveryError::Gone) => return Err(SinkEnded { name: self.name.clone(), source }),
        }
        Ok(())
    }

    /// The sink is there, and will not have this event.
    async fn refused(&mut self, event: &Arc<StoredEvent>, reason: &str, answer: &str) {
        if let Some(counters) = self.metrics.sink(&self.name) {
            counters.failed();
        }
        let refusals = self.window.refusals(event) + 1;
        if refusals >= MAX_REFUSALS && self.bury(event, reason, answer).await {
            self.window.settle(std::slice::from_ref(event));
            return;
        }
        let wait = wait_after(refusals, fastrand::f64());
        tracing::debug!(sink = %self.name, event = event.id.0, refusals, "An event was refused: {reason}");
        self.window.delay(event, self.began.elapsed() + wait);
    }

    /// Whether it is a dead letter now; a store that fails leaves it to the next attempt.
    async fn bury(&self, event: &StoredEvent, reason: &str, answer: &str) -> bool {
        let letter = DeadLetter {
            sink: self.name.clone(),
            event: event.clone(),
            reason: format!("{reason}: {answer}").trim_end_matches(": ").to_owned(),
            died_at: self.clock.now().wall,
        };
        match self.store.bury(letter).await {
            Ok(()) => {
                tracing::error!(
                    sink = %self.name, event = event.id.0, attempts = MAX_REFUSALS,
                    "An event is given up, and kept as a dead letter: {reason}"
                );
                true
            }
            Err(error) => {
                tracing::debug!(sink = %self.name, "Dead letter not stored: {}", crate::chain(&error));
                false
            }
        }
    }

    /// The sink wants no more events. What is under way is finished; the rest stays in the log.
    async fn stop(&mut self, reason: &str) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        tracing::error!(
            sink = %self.name,
            "Delivery has ended until it is resumed or the sink's url is changed: {reason}; events are kept meanwhile"
        );
        if let Err(error) = self.store.stop_sink(&self.name, reason, self.clock.now().wall).await {
            // A restart tries once more, and is told the same.
            tracing::warn!(sink = %self.name, "That is not remembered: {}", crate::chain(&error));
        }
    }

    /// Nothing can be delivered at present: all attempts wait.
    fn failed(&mut self, reason: &str, after: Option<Duration>) {
        if let Some(counters) = self.metrics.sink(&self.name) {
            counters.failed();
        }
        if self.resume_at.is_some() {
            return; // Several attempts were under way when the sink went; it went once.
        }
        self.failures = self.failures.saturating_add(1);
        let wait = wait_after(self.failures, fastrand::f64());
        let wait = after.map_or(wait, |after| after.clamp(wait, LONGEST_WAIT.max(wait)));
        self.resume_at = Some(Instant::now() + wait);
        if self.failures == 1 {
            tracing::error!(sink = %self.name, "Delivery stands still and will be tried again: {reason}");
        } else {
            tracing::debug!(sink = %self.name, failures = self.failures, "Delivery still stands still: {reason}");
        }
    }

    fn recovered(&mut self) {
        let failures = std::mem::take(&mut self.failures);
        if failures > 0 {
            tracing::info!(sink = %self.name, failures, "Delivery goes on");
        }
    }
}

fn attempt(sink: Arc<Sink>, events: Vec<Arc<StoredEvent>>) -> BoxFuture<'static, Attempt> {
    Box::pin(async move {
        let outcome = sink.deliver(&events).await;
        (events, outcome)
    })
}

/// Doubles from failure to failure, shortened by up to a fifth.
fn wait_after(failures: u32, jitter: f64) -> Duration {
    let wait = FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_WAIT);
    wait.mul_f64(1.0 - 0.2 * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_cap() {
        let waits = [1, 2, 3, 8, 9, 100].map(|failures| wait_after(failures, 0.0).as_millis());
        assert_eq!(waits, [500, 1000, 2000, 60_000, 60_000, 60_000]);
        assert!(wait_after(1, 1.0) >= Duration::from_millis(400));
    }
}
