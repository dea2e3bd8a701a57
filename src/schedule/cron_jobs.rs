//! The jobs of tokio-cron-scheduler: one for each expression of a schedule, never one for each account.
//!
//! A job only sends into a channel of capacity one, so it cannot block or panic, and signals that are not served yet
//! coalesce. Overruns, missed ticks and changes of the UTC offset are handled by [`super::ticker::Ticker`].

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Mutex, mpsc};
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use uuid::Uuid;

use crate::domain::cron::Schedule;

/// The scheduler. A daemon has only one, because the scheduler's tasks outlive it.
#[derive(Clone)]
pub struct CronScheduler {
    scheduler: JobScheduler,
    /// Locked while jobs are added or removed: the scheduler loses jobs when many are added concurrently.
    changing: Arc<Mutex<()>>,
}

/// The scheduler refused a job.
#[derive(Debug, thiserror::Error)]
#[error("the cron scheduler refused: {0}")]
pub struct CronSchedulerError(#[from] JobSchedulerError);

/// The jobs of one schedule, registered at one UTC offset.
#[derive(Debug)]
pub(super) struct CronJobs {
    ids: Vec<Uuid>,
    /// The offset that the scheduler uses for them, in seconds.
    pub(super) utc_offset: i32,
}

impl CronScheduler {
    /// Starts the scheduler's own tasks.
    pub async fn start() -> Result<Self, CronSchedulerError> {
        let scheduler = JobScheduler::new().await?;
        scheduler.start().await?;
        Ok(Self { scheduler, changing: Arc::default() })
    }

    /// Adds the jobs of a schedule, at the current UTC offset.
    pub(super) async fn add(
        &self,
        schedule: &Schedule,
        now: Timestamp,
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
        Ok(CronJobs { ids, utc_offset: schedule.offset_at(now) })
    }

    pub(super) async fn remove(&self, jobs: CronJobs) -> Result<(), CronSchedulerError> {
        let _changing = self.changing.lock().await;
        for id in &jobs.ids {
            self.scheduler.remove(id).await?;
        }
        Ok(())
    }

    /// Stops signalling.
    pub async fn stop(mut self) -> Result<(), CronSchedulerError> {
        Ok(self.scheduler.shutdown().await?)
    }
}
