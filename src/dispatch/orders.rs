//! What a dispatcher is told to do beside delivering. An order waits until nothing is under way, and nothing begins while it
//! waits, so that what is confirmed late is never taken for an answer to what came after.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::{Dispatcher, cursor::Cursor, outage::Outage, window::Window};
use crate::{
    status::SinkStatus,
    store::{EventId, Rewound, StoreError},
};

/// How many orders may wait: people give them one by one.
pub(super) const MAX_ORDERS: usize = 4;

/// An order, and where its result goes. Whoever gave it may have gone.
#[derive(Debug)]
pub(super) enum Order {
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
pub struct Orders {
    sender: mpsc::Sender<Order>,
    pub(super) status: Arc<SinkStatus>,
}

impl Orders {
    pub(super) fn new(sender: mpsc::Sender<Order>, status: Arc<SinkStatus>) -> Self {
        Self { sender, status }
    }

    /// How deliveries go, also while the dispatcher runs.
    pub fn status(&self) -> Arc<SinkStatus> {
        Arc::clone(&self.status)
    }

    /// Gives an order and waits for what comes of it. `None` if the dispatcher has ended, or ends before that.
    pub(super) async fn give<T>(
        &self,
        order: impl FnOnce(Answer<T>) -> Order,
    ) -> Option<Result<T, StoreError>> {
        let (answer, result) = oneshot::channel();
        self.sender.send(order(answer)).await.ok()?;
        result.await.ok()
    }

    /// The store has suspended the sink. A dispatcher that has ended needs not know.
    pub(super) async fn suspended(&self, reason: String) {
        self.sender.send(Order::Suspended(reason)).await.ok();
    }
}

impl Dispatcher {
    /// Only while nothing is under way.
    pub(super) async fn carry_out(&mut self, order: Order) {
        // What the store has of the cursor must not be older than what an order changes it from.
        self.cursor.finish(self.window.cursor()).await;
        match order {
            Order::Resume(answer) => {
                let resumed = self.store.resume_sink(&self.name).await;
                if let Ok(registered) = &resumed {
                    tracing::info!(sink = %self.name, "Delivery is resumed");
                    self.stopped = None;
                    self.outage = Outage::default();
                    self.go_on_behind(registered.cursor);
                }
                answer.send(resumed.map(drop)).ok();
            }
            Order::Replay(since, answer) => {
                let rewound = self.store.rewind_cursor(&self.name, since).await;
                if let Ok((cursor, Rewound { events, .. })) = &rewound {
                    tracing::info!(sink = %self.name, events, "Events are delivered once more");
                    self.go_on_behind(*cursor);
                }
                answer.send(rewound.map(|(_, rewound)| rewound)).ok();
            }
            Order::Retry(answer) => {
                let retried = self.store.retry_dead_letters(&self.name).await;
                if let Ok(letters) = &retried {
                    tracing::info!(sink = %self.name, letters, "Dead letters are delivered once more");
                    self.letters.are_wanted();
                }
                answer.send(retried).ok();
            }
            Order::Drop(answer) => {
                let dropped = self.store.drop_dead_letters(&self.name).await;
                if let Ok(letters) = &dropped {
                    tracing::info!(sink = %self.name, letters, "Dead letters are dropped");
                    // Some of them may stand there.
                    self.go_on_behind(self.window.cursor());
                }
                answer.send(dropped).ok();
            }
            Order::Suspended(reason) => self.stopped = Some(reason),
        }
    }

    fn go_on_behind(&mut self, cursor: EventId) {
        self.window = Window::behind(cursor);
        self.cursor = Cursor::new(self.name.clone(), cursor, self.store.clone());
        self.letters.are_wanted();
    }
}
