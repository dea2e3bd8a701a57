//! The jobs of tokio-cron-scheduler: one for each expression of a schedule, never one for each account.
//!
//! A job only sends into a channel of capacity one, so it cannot block or panic, and signals that are not served yet
//! coalesce. Overruns, missed ticks and changes of the clock are handled by [`super::ticker::Ticker`].

use std::sync::{Arc, PoisonError};

use jiff::SignedDuration;
use tokio::sync::{Mutex, mpsc};
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use uuid::Uuid;

use crate::domain::{clock::Moment, cron::Schedule};

/// A smaller change of the clock needs no reaction: the scheduler checks it every half second.
pub(super) const SET_BACK_AT_LEAST: SignedDuration = SignedDuration::from_millis(500);

/// The scheduler. A daemon has only one, because the scheduler's tasks outlive it.
#[derive(Clone)]
pub struct CronScheduler {
    scheduler: JobScheduler,
    /// Locked while jobs are added or removed: the scheduler loses jobs when many are added concurrently.
    changing: Arc<Mutex<()>>,
    /// The clock as the tickers last saw it; `None` before the first look.
    clock: Arc<std::sync::Mutex<Option<ClockReading>>>,
}

#[derive(Clone, Copy)]
struct ClockReading {
    at: Moment,
    /// The largest [`Moment::wall_offset`] since the clock was last set back.
    wall_offset: SignedDuration,
}

/// The scheduler refused a job.
#[derive(Debug, thiserror::Error)]
#[error("the cron scheduler refused: {0}")]
pub struct CronSchedulerError(#[from] JobSchedulerError);

/// The jobs of one schedule, registered at one UTC offset and one setting of the clock.
#[derive(Debug)]
pub(super) struct CronJobs {
    ids: Vec<Uuid>,
    /// The UTC offset that the scheduler uses for them, in seconds.
    pub(super) utc_offset: i32,
    /// The largest [`Moment::wall_offset`] since they were registered. After the clock was set back, the scheduler signals none
    /// of them until it shows the time of the next tick again.
    pub(super) wall_offset: SignedDuration,
}

impl CronScheduler {
    /// Starts the scheduler's own tasks.
    pub async fn start() -> Result<Self, CronSchedulerError> {
        let scheduler = JobScheduler::new().await?;
        scheduler.start().await?;
        Ok(Self { scheduler, changing: Arc::default(), clock: Arc::default() })
    }

    /// Logs that the clock was set back, once for all tickers.
    pub(super) fn log_clock_change(&self, now: Moment) {
        let mut known = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = now.wall_offset();
        let last = known.unwrap_or(ClockReading { at: now, wall_offset: offset });
        if now.monotonic < last.at.monotonic {
            return; // another ticker has looked since
        }
        let set_back = last.wall_offset - offset;
        let was_set_back = set_back >= SET_BACK_AT_LEAST;
        let wall_offset = if was_set_back { offset } else { offset.max(last.wall_offset) };
        *known = Some(ClockReading { at: now, wall_offset });
        drop(known);
        if was_set_back {
            let set_back = SignedDuration::from_secs((set_back + SET_BACK_AT_LEAST).as_secs());
            tracing::warn!(
                "The clock was set back by {set_back:#}: schedules follow it, and so do the times in events and metrics"
            );
        }
    }

    /// Adds the jobs of a schedule, at the current UTC offset.
    pub(super) async fn add(
        &self,
        schedule: &Schedule,
        now: Moment,
        signal: &mpsc::Sender<()>,
    ) -> Result<CronJobs, CronSchedulerError> {
        let _changing = self.changing.lock().await;
        let mut ids = Vec::new();
        for expression in schedule.expressions() {
            let signal = signal.clone();
            let job = Job::new_async_tz(expression, schedule.timezone(), move |_, _| {
                // A full channel already has a signal that is not served yet.
                let _ = signal.try_send(());
                Box::pin(std::future::ready(()))
            })?;
            ids.push(self.scheduler.add(job).await?);
        }
        Ok(CronJobs { ids, utc_offset: schedule.offset_at(now.wall), wall_offset: now.wall_offset() })
    }

    /// Removes all jobs that can be removed, and returns the first failure.
    pub(super) async fn remove(&self, jobs: CronJobs) -> Result<(), CronSchedulerError> {
        let _changing = self.changing.lock().await;
        let mut removed = Ok(());
        for id in &jobs.ids {
            removed = removed.and(self.scheduler.remove(id).await);
        }
        Ok(removed?)
    }

    /// Stops signalling.
    pub async fn stop(mut self) -> Result<(), CronSchedulerError> {
        Ok(self.scheduler.shutdown().await?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::clock::at;

    #[tokio::test]
    async fn scheduler_forgets_removed_jobs() {
        let scheduler = CronScheduler::start().await.unwrap();
        let expressions = ["* * * * * *".to_owned(), "0 0 0 29 2 *".to_owned()];
        let schedule = Schedule::parse(&expressions, "UTC").unwrap();
        let (signal, mut signals) = mpsc::channel(1);
        let jobs = scheduler.add(&schedule, at(0), &signal).await.unwrap();
        drop(signal);
        scheduler.remove(jobs).await.unwrap();
        // Each job has a sender.
        let dropped = async { while signals.recv().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(60), dropped).await.unwrap();
    }
}
