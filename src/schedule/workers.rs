//! The workers, which take polls from the queue and make them.
//!
//! There are as many workers as requests may be in flight, so an account that is not being polled needs no task. A poll that
//! panics is one failed poll. A poll that found WeChat busy is retried a few times ([`RETRIES`]) if the next tick is far off.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;

use super::queue::{PollQueue, QueuedPoll};
use crate::{
    domain::{backoff::RetryDelays, clock::Clock, error_class::ErrorClass},
    poll::PollOutcome,
};

/// The retries of a poll that found WeChat busy.
const RETRIES: RetryDelays =
    RetryDelays(&[Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20)]);

/// Polls are retried only if the next tick is further off than this.
const MIN_TIME_TO_NEXT_TICK: Duration = Duration::from_secs(60);

/// What the workers share.
pub struct Workers {
    /// The waiting polls.
    pub queue: Arc<PollQueue>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Workers {
    /// Runs one of the workers that [`PollQueue::set_workers`] asked for, until the queue is closed or there are too many.
    pub async fn run_one(self: Arc<Self>) {
        while let Some((poll, poller)) = self.queue.next().await {
            let outcome = AssertUnwindSafe(poller.poll(&poll.guard)).catch_unwind().await;
            self.queue.finish(poll.lane);
            match outcome {
                Ok(PollOutcome::Failed(failure)) if failure.class == ErrorClass::Busy => self.retry(poll),
                // `Retry-After` asked for a longer wait than this retry left: another retry may follow.
                Ok(PollOutcome::BackedOff) if poll.retries > 0 => self.retry(poll),
                Ok(_) => {}
                Err(_) => poller.record_panic(&poll.guard),
            }
        }
    }

    fn retry(&self, poll: QueuedPoll) {
        let now = self.clock.now().wall;
        let is_far_off = poll.sweep.next_due.is_none_or(|due| due > now + MIN_TIME_TO_NEXT_TICK);
        if is_far_off && let Some(delay) = RETRIES.next(poll.retries.into(), fastrand::f64()) {
            self.queue.retry(poll, delay);
        }
    }
}
