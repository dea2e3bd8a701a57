//! Those who take polls from the queue and make them.
//!
//! There are as many workers as requests may be in flight, so that nothing of an account at rest is kept but its row.
//! A poll that panics is one failed poll. When the next tick is far off, a poll that found WeChat busy is repeated a
//! few times in between ([`RETRIES`]).

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, time::DelayQueue};

use super::queue::{Job, PollQueue};
use crate::{
    domain::{backoff::RetryDelays, clock::Clock, error_class::ErrorClass},
    poll::{PollOutcome, Poller},
};

/// The retries of a poll that found WeChat busy.
const RETRIES: RetryDelays =
    RetryDelays(&[Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20)]);

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
    pub repeats: mpsc::Sender<(Job, Duration)>,
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
        if far_off && let Some(delay) = RETRIES.next(job.repeats, fastrand::f64()) {
            // Full: the next tick will do.
            let _ = self.repeats.try_send((job, delay));
        }
    }
}

/// Puts polls into the queue again when their time has come, until the drain begins.
pub async fn repeat(
    queue: Arc<PollQueue>,
    mut requests: mpsc::Receiver<(Job, Duration)>,
    drain: CancellationToken,
) {
    let mut waiting = DelayQueue::new();
    loop {
        tokio::select! {
            () = drain.cancelled() => return,
            Some((job, delay)) = requests.recv() => {
                waiting.insert(job, delay);
            }
            Some(expired) = waiting.next(), if !waiting.is_empty() => {
                let mut job = expired.into_inner();
                job.repeats += 1;
                queue.push([job]);
            }
        }
    }
}
