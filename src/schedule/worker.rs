//! Those who take polls from the queue and make them.
//!
//! There are as many workers as requests may be in flight, so that nothing of an account at rest is kept but its row.
//! A poll that panics is one failed poll. When the next tick is far off, a poll that found WeChat busy is repeated a
//! few times in between ([`REPEATS`]).

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, time::DelayQueue};

use super::queue::{Job, PollQueue};
use crate::{
    domain::{backoff::ErrorClass, clock::Clock},
    poll::{PollOutcome, Poller},
};

/// How long after a busy answer a poll is repeated, one after the other.
const REPEATS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20)];

/// Polls are repeated only if the next tick is farther off than this.
const FAR_OFF: Duration = Duration::from_secs(60);

/// How many polls may wait to be handed to the repeater; what is beyond waits for its next tick.
pub const MAX_REPEAT_REQUESTS: usize = 4096;

/// What workers share.
pub struct Workers {
    /// Where polls wait.
    pub queue: Arc<PollQueue>,
    /// Who makes them.
    pub poller: Arc<Poller>,
    /// Where those go that are to be repeated.
    pub repeats: mpsc::Sender<Job>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Workers {
    /// One worker: makes polls until the queue is closed.
    pub async fn work(self: Arc<Self>) {
        while let Some(job) = self.queue.next().await {
            let outcome = AssertUnwindSafe(self.poller.poll(&job.guard)).catch_unwind().await;
            self.queue.done(job.lane);
            match outcome {
                Ok(PollOutcome::Failed(failure)) if failure.class == ErrorClass::Busy => self.repeat(job),
                // `Retry-After` asked for more time than this repeat left: the next one may come.
                Ok(PollOutcome::BackedOff) if job.repeats > 0 => self.repeat(job),
                Ok(_) => {}
                Err(_) => self.poller.panicked(&job.guard),
            }
        }
    }

    fn repeat(&self, job: Job) {
        let now = self.clock.now().wall;
        let far_off = job.sweep.next_due.is_none_or(|due| due > now + FAR_OFF);
        if far_off && job.repeats < REPEATS.len() {
            // Full: the next tick will do.
            let _ = self.repeats.try_send(job);
        }
    }
}

/// Puts polls into the queue again when their time has come, until the drain begins.
pub async fn repeat(queue: Arc<PollQueue>, mut requests: mpsc::Receiver<Job>, drain: CancellationToken) {
    let mut waiting = DelayQueue::new();
    loop {
        tokio::select! {
            () = drain.cancelled() => return,
            Some(job) = requests.recv() => {
                if let Some(delay) = REPEATS.get(job.repeats) {
                    waiting.insert(job, *delay);
                }
            }
            Some(expired) = waiting.next(), if !waiting.is_empty() => {
                let mut job = expired.into_inner();
                job.repeats += 1;
                queue.push([job]);
            }
        }
    }
}
