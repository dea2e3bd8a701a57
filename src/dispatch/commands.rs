//! What a dispatcher is told to do beside delivering. An order waits until nothing is under way, and nothing begins while it
//! waits, so that what is confirmed late is never taken for an answer to what came after.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::{Dispatcher, circuit_breaker::CircuitBreaker, cursor::Cursor, window::Window};
use crate::{
    status::SinkStatus,
    store::{LogPosition, Rewound, StoreError},
};

/// How many orders may wait: people give them one by one.
pub(super) const MAX_ORDERS: usize = 4;

/// An order, and where its result goes. Whoever gave it may have gone.
#[derive(Debug)]
pub(super) enum DispatcherCommand {
    /// Deliver again, although the sink was stopped or suspended.
    Resume(Answer<()>),
    /// Deliver what was observed since once more.
    Replay(Timestamp, Answer<Rewound>),
    /// Deliver the dead letters once more.
    Retry(Answer<u64>),
    /// Forget the dead letters.
    Drop(Answer<u64>),
    /// The store has suspended the sink, for this reason.
    Suspended(String),
}

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// Where a dispatcher takes orders, and how it says that it does.
#[derive(Clone, Debug)]
pub struct DispatcherCommands {
    sender: mpsc::Sender<DispatcherCommand>,
    pub(super) status: Arc<SinkStatus>,
}

impl DispatcherCommands {
    pub(super) fn new(sender: mpsc::Sender<DispatcherCommand>, status: Arc<SinkStatus>) -> Self {
        Self { sender, status }
    }

    /// How deliveries go, also while the dispatcher runs.
    pub fn status(&self) -> Arc<SinkStatus> {
        Arc::clone(&self.status)
    }

    /// Gives an order and waits for what comes of it. `None` if the dispatcher has ended, or ends before that.
    pub(super) async fn give<T>(
        &self,
        order: impl FnOnce(Answer<T>) -> DispatcherCommand,
    ) -> Option<Result<T, StoreError>> {
        let (answer, result) = oneshot::channel();
        self.sender.send(order(answer)).await.ok()?;
        result.await.ok()
    }

    /// The store has suspended the sink. A dispatcher that has ended needs not know.
    pub(super) async fn suspended(&self, reason: String) {
        self.sender.send(DispatcherCommand::Suspended(reason)).await.ok();
    }
}

impl Dispatcher {
    /// Only while nothing is under way.
    pub(super) async fn carry_out(&mut self, order: DispatcherCommand) {
        // What the store has of the cursor must not be older than what an order changes it from.
        self.cursor.finish(self.window.cursor()).await;
        match order {
            DispatcherCommand::Resume(answer) => {
                let resumed = self.store.resume_sink(&self.name).await;
                if let Ok(registered) = &resumed {
                    tracing::info!(sink = %self.name, "Delivery is resumed");
                    self.stop.end();
                    self.circuit_breaker = CircuitBreaker::default();
                    self.go_on_behind(registered.cursor);
                }
                answer.send(resumed.map(drop)).ok();
            }
            DispatcherCommand::Replay(since, answer) => {
                let rewound = self.store.rewind_cursor(&self.name, since).await;
                if let Ok((cursor, Rewound { events, .. })) = &rewound {
                    tracing::info!(sink = %self.name, events, "Events are delivered once more");
                    self.go_on_behind(*cursor);
                }
                answer.send(rewound.map(|(_, rewound)| rewound)).ok();
            }
            DispatcherCommand::Retry(answer) => {
                let retried = self.store.retry_dead_letters(&self.name).await;
                if let Ok(letters) = &retried {
                    tracing::info!(sink = %self.name, letters, "Dead letters are delivered once more");
                    self.letters.are_wanted();
                }
                answer.send(retried).ok();
            }
            DispatcherCommand::Drop(answer) => {
                let dropped = self.store.drop_dead_letters(&self.name).await;
                if let Ok(letters) = &dropped {
                    tracing::info!(sink = %self.name, letters, "Dead letters are dropped");
                    // Some of them may stand there.
                    self.go_on_behind(self.window.cursor());
                }
                answer.send(dropped).ok();
            }
            DispatcherCommand::Suspended(reason) => self.suspended(reason).await,
        }
    }

    /// Somebody may have resumed the sink since the store suspended it, by an order that came before this one.
    async fn suspended(&mut self, reason: String) {
        let is_over = self.store.pending(&self.name).await.is_ok_and(|pending| !pending.stopped);
        if !is_over {
            self.stop.begun_by_store(reason);
        }
    }

    fn go_on_behind(&mut self, cursor: LogPosition) {
        self.window = Window::behind(cursor);
        self.cursor = Cursor::new(self.name.clone(), cursor, self.store.clone());
        self.letters.look_anew();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        dispatch::DispatchContext,
        domain::clock::{Clock, Moment},
        metrics::Metrics,
        sink::{
            Sink,
            jsonl::{JsonlSink, Target},
        },
        store::{EventFilter, SinkRegistration, Start, Store},
    };

    /// It stands still.
    struct Stopped;

    impl Clock for Stopped {
        fn now(&self) -> Moment {
            Moment { wall: Timestamp::UNIX_EPOCH, monotonic: Duration::ZERO }
        }
    }

    #[tokio::test]
    async fn a_sink_that_was_resumed_before_its_dispatcher_heard_of_the_suspension_stays_resumed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("kfwatch.db")).unwrap();
        let registration = SinkRegistration { name: "log".to_owned(), start: Start::Now, destination: None };
        let registered = store.register_sinks(vec![registration], Timestamp::UNIX_EPOCH).await.unwrap();
        let metrics = Arc::new(Metrics::new(["log".to_owned()]).unwrap());
        let context = DispatchContext { store: store.clone(), metrics, clock: Arc::new(Stopped) };
        let sink = Sink::Jsonl(JsonlSink::new(Target::Stdout));
        let (mut dispatcher, _orders) =
            Dispatcher::new("log".to_owned(), sink, EventFilter::default(), &registered[0], context);

        store.suspend_sink("log", "too large", Timestamp::UNIX_EPOCH).await.unwrap();
        dispatcher.carry_out(DispatcherCommand::Suspended("too large".to_owned())).await;
        assert_eq!(dispatcher.stop.reason(), Some("too large"));
        for order in [
            DispatcherCommand::Resume(oneshot::channel().0),
            DispatcherCommand::Suspended("too large".to_owned()),
        ] {
            dispatcher.carry_out(order).await;
            assert_eq!(dispatcher.stop.reason(), None);
        }
    }
}
