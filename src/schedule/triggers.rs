//! tokio-cron-scheduler, as far as it can be relied on.
//!
//! One job for each expression of a schedule, never one for each account. A job only puts a token into a channel of
//! capacity one: it cannot block, cannot panic, and ticks that nobody has served yet fall together. Everything else
//! (overruns, deadlines, missed ticks, changes of the UTC offset) is the [`super::ticker::Ticker`]'s.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Mutex, mpsc};
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use uuid::Uuid;

use crate::domain::cron::Schedule;

/// The scheduler; there is one in a daemon, because its tasks outlive it.
#[derive(Clone)]
pub struct Triggers {
    scheduler: JobScheduler,
    /// Held while jobs are added or removed: the scheduler loses jobs that are added concurrently in large numbers.
    one_by_one: Arc<Mutex<()>>,
}

/// The scheduler refused a job, and with it the schedule.
#[derive(Debug, thiserror::Error)]
#[error("the cron scheduler refused: {0}")]
pub struct TriggerError(#[from] JobSchedulerError);

/// The jobs of one schedule, registered at one UTC offset.
#[derive(Debug)]
pub struct Registration {
    jobs: Vec<Uuid>,
    /// The offset that the scheduler computes with, in seconds.
    pub utc_offset: i32,
}

impl Triggers {
    /// Starts the scheduler's own tasks.
    pub async fn start() -> Result<Self, TriggerError> {
        let scheduler = JobScheduler::new().await?;
        scheduler.start().await?;
        Ok(Self { scheduler, one_by_one: Arc::default() })
    }

    /// Registers the schedule's jobs with the UTC offset that holds now.
    pub async fn register(
        &self,
        schedule: &Schedule,
        now: Timestamp,
        tick: &mpsc::Sender<()>,
    ) -> Result<Registration, TriggerError> {
        let _one_by_one = self.one_by_one.lock().await;
        let mut jobs = Vec::new();
        for expression in schedule.expressions() {
            let tick = tick.clone();
            let job = Job::new_async_tz(expression, schedule.timezone(), move |_, _| {
                let tick = tick.clone();
                Box::pin(async move {
                    // Full: a tick waits to be served already.
                    let _ = tick.try_send(());
                })
            })?;
            jobs.push(self.scheduler.add(job).await?);
        }
        Ok(Registration { jobs, utc_offset: schedule.offset_at(now) })
    }

    /// Takes the jobs of a registration back.
    pub async fn remove(&self, registration: Registration) -> Result<(), TriggerError> {
        let _one_by_one = self.one_by_one.lock().await;
        for job in &registration.jobs {
            self.scheduler.remove(job).await?;
        }
        Ok(())
    }

    /// Stops triggering.
    pub async fn stop(mut self) -> Result<(), TriggerError> {
        Ok(self.scheduler.shutdown().await?)
    }
}
