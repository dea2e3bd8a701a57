//! Serves the ticks of one schedule: starts their sweeps and queues the accounts, spread over time.
//!
//! A ticker serves each tick once: when the cron scheduler signals it, or [`GRACE`] after it was due. It checks the wall clock
//! at least every [`MAX_SLEEP`], because that clock may jump: forwards, and ticks were missed; backwards, and the next tick
//! is nearer than computed, and the scheduler would not signal it. Missed ticks are counted and coalesce into one.

mod manual_ticks;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::manual_ticks::ManualTicks;
use super::{
    cron_jobs::{CronJobs, CronScheduler, CronSchedulerError, SET_BACK_AT_LEAST},
    queue::{PollQueue, QueuedPoll},
    spread_plan::{ScheduledAccount, SpreadPlan},
    sweep::Sweep,
};
use crate::{
    domain::{
        clock::{Clock, Moment, UnixMs},
        cron::Schedule,
        progress::{ProgressCheck, WorkProgress},
        schedule_key::ScheduleKey,
    },
    metrics::Metrics,
    poll::{NoGuard, OfficialAccount, PollGuard},
    status::WatchedAccount,
};

/// How late a signal may be before its tick counts as missed. The scheduler checks every half second.
pub const GRACE: Duration = Duration::from_secs(2);

/// The longest time between two checks of the wall clock.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// A ticker that has not checked the clock for so long is stalled; load cannot explain it.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A signal that comes earlier than this before the due time belongs to a tick that has already been served.
const MAX_EARLY: Duration = Duration::from_millis(500);

/// How many missed ticks are counted one by one. A clock that was set forward by a year has missed more than matter.
const MAX_MISSED_TICKS: u64 = 100_000;

/// What tickers share.
#[derive(Clone)]
pub struct TickerContext {
    /// Where polls wait for a worker.
    pub queue: Arc<PollQueue>,
    /// Records sweeps and missed ticks.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ticks that no schedule asked for.
    pub manual_ticks: ManualTicks,
}

/// The ticks of one schedule.
pub struct Ticker {
    context: TickerContext,
    schedule: Schedule,
    /// Replaced as a whole; read when a sweep starts.
    official_accounts: watch::Receiver<Arc<Vec<ScheduledAccount>>>,
    /// As of the current sweep.
    accounts: SpreadPlan,
    /// How often it has ticked. Readers of the account table derive from it which accounts are overdue.
    ticks: Arc<AtomicU64>,
    /// When the next tick is due.
    due: Option<Timestamp>,
    /// When the last tick was due.
    served: Option<Timestamp>,
    /// The current sweep and the first of its accounts that is not queued yet.
    spreading: Option<(Arc<Sweep>, usize)>,
    /// Whether a sweep has polled kf accounts.
    has_swept: bool,
    /// How often it has checked the clock.
    checks: Arc<AtomicU64>,
}

impl Ticker {
    /// A ticker for the official accounts of one schedule. Each kf account is polled at a fixed offset within the spread
    /// after the tick.
    pub fn new(
        context: TickerContext,
        key: ScheduleKey,
        ticks: Arc<AtomicU64>,
        official_accounts: watch::Receiver<Arc<Vec<ScheduledAccount>>>,
    ) -> Self {
        Self {
            context,
            schedule: key.schedule,
            official_accounts,
            accounts: SpreadPlan::new(key.spread),
            ticks,
            due: None,
            served: None,
            spreading: None,
            has_swept: false,
            checks: Arc::default(),
        }
    }

    /// The watchdog's check of this ticker, until it ends. Work is always pending: the next check of the clock.
    pub fn progress_check(&self) -> ProgressCheck {
        let checks = Arc::downgrade(&self.checks);
        let stall = format!("the schedule {:?} has not checked the clock", self.schedule);
        let read = move || {
            let finished = checks.upgrade()?.load(Ordering::Relaxed);
            Some(WorkProgress { finished, pending: true })
        };
        ProgressCheck::new(stall, || STALL_TIMEOUT, read)
    }

    /// Serves ticks until `stop`. If the schedule is no longer used, the current sweep is queued to its end; if the daemon drains,
    /// which closes the queue first, it is dropped.
    pub async fn run(
        mut self,
        scheduler: CronScheduler,
        stop: CancellationToken,
    ) -> Result<(), CronSchedulerError> {
        let (signal, mut signals) = mpsc::channel(1);
        let mut manual_ticks = self.context.manual_ticks.subscribe();
        let mut now = self.context.clock.now();
        let mut jobs = scheduler.add(&self.schedule, now, &signal).await?;
        self.due = self.schedule.next_after(now.wall);
        scheduler.log_clock_change(now);
        loop {
            let next_check = self.next_check(now);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(()) = signals.recv() => {
                    now = self.context.clock.now();
                    if self.due.is_some_and(|due| now.wall + MAX_EARLY >= due) {
                        self.serve_due_tick(now, 0);
                    }
                }
                Ok(()) = self.official_accounts.changed() => {
                    now = self.context.clock.now();
                    self.catch_up();
                }
                Ok(()) = manual_ticks.changed() => {
                    now = self.context.clock.now();
                    self.ticks.fetch_add(1, Ordering::Relaxed);
                    self.start_sweep();
                }
                () = tokio::time::sleep(next_check) => {
                    now = self.context.clock.now();
                    self.check_clock(now);
                }
            }
            scheduler.log_clock_change(now);
            self.checks.fetch_add(1, Ordering::Relaxed);
            self.queue_due_accounts(now);
            jobs = self.follow_clock(&scheduler, jobs, now, &signal).await?;
        }
        if !self.context.queue.is_closed() {
            self.queue_accounts_until(Duration::MAX);
            remove_jobs(&scheduler, jobs).await;
        }
        Ok(())
    }

    /// Serves a tick that is overdue without a signal.
    fn check_clock(&mut self, now: Moment) {
        match self.due {
            Some(due) if now.wall >= due + GRACE => self.serve_due_tick(now, 1),
            Some(_) => {}
            None => self.due = self.schedule.next_after(now.wall),
        }
    }

    /// Starts the sweep of the tick that is due. Ticks that have become due since then coalesce with it and count as
    /// missed, and so do `missed` of the tick itself.
    fn serve_due_tick(&mut self, now: Moment, missed: u64) {
        let missed = missed + self.pass_ticks_until(now.wall) - 1;
        if missed > 0 {
            self.context.metrics.ticks_missed(missed);
            tracing::warn!(
                missed, schedule = ?self.schedule,
                "{missed} ticks were not served in time: the machine was suspended or overloaded, or its clock jumped"
            );
        }
        self.start_sweep();
    }

    /// Moves `due` past this moment and returns the number of ticks passed, at least the one that was due.
    fn pass_ticks_until(&mut self, wall: Timestamp) -> u64 {
        let mut passed = 0;
        while let Some(due) = self.due {
            if passed > 0 && due > wall {
                break;
            }
            passed += 1;
            self.served = Some(due);
            self.due = match passed < MAX_MISSED_TICKS {
                true => self.schedule.next_after(due),
                false => self.schedule.next_after(wall),
            };
        }
        self.ticks.fetch_add(passed, Ordering::Relaxed);
        passed
    }

    fn start_sweep(&mut self) {
        // What is left of the previous sweep must not be lost.
        self.queue_accounts_until(Duration::MAX);
        let official_accounts = Arc::clone(&self.official_accounts.borrow_and_update());
        self.accounts.update(&official_accounts);
        let (metrics, clock) = (&self.context.metrics, &self.context.clock);
        // With patterns there may be nothing to poll until getkflist has answered.
        let is_first = !self.has_swept && self.accounts.len() > 0;
        let sweep = match is_first {
            true => {
                let official_accounts = self.accounts.official_accounts().cloned().collect();
                Sweep::start_first(metrics, clock, self.due, official_accounts)
            }
            false => Sweep::start(metrics, clock, self.due),
        };
        self.has_swept |= is_first;
        self.spreading = Some((sweep, 0));
    }

    /// Queues the kf accounts of official accounts that have just come and that nobody has polled at the last tick: the replica that
    /// owned them was gone by then.
    fn catch_up(&mut self) {
        let Some(served) = self.served else { return };
        let official_accounts = Arc::clone(&self.official_accounts.borrow_and_update());
        let known: HashSet<*const OfficialAccount> =
            self.accounts.official_accounts().map(Arc::as_ptr).collect();
        let is_missed = |account: &&Arc<WatchedAccount>| {
            account.view(0).last_success_at.is_some_and(|at| at < UnixMs::from(served))
        };
        let missed = official_accounts.iter().flat_map(|scheduled| {
            let is_new = !known.contains(&Arc::as_ptr(&scheduled.official_account));
            let accounts = if is_new { scheduled.official_account.accounts() } else { Arc::default() };
            let missed: Vec<_> = accounts.iter().filter(is_missed).cloned().collect();
            missed.into_iter().map(move |account| (scheduled, account))
        });
        let mut missed = missed.peekable();
        if missed.peek().is_none() {
            return;
        }
        let sweep = Sweep::start(&self.context.metrics, &self.context.clock, self.due);
        self.context.queue.push(missed.filter_map(|(scheduled, account)| {
            let guard = PollGuard::try_acquire(&scheduled.official_account, &account).ok()?;
            Some(QueuedPoll { guard, sweep: Arc::clone(&sweep), lane: scheduled.lane, retries: 0 })
        }));
    }

    fn queue_due_accounts(&mut self, now: Moment) {
        if let Some((sweep, _)) = &self.spreading {
            let elapsed = now.since(&sweep.started());
            self.queue_accounts_until(elapsed);
        }
    }

    /// Queues the accounts whose offset in the current sweep is not later than this.
    fn queue_accounts_until(&mut self, elapsed: Duration) {
        let Some((sweep, first)) = self.spreading.take() else { return };
        let end = self.accounts.due_until(first, elapsed);
        self.context.queue.push(self.accounts.accounts(first..end).filter_map(|(scheduled, account)| {
            match PollGuard::try_acquire(&scheduled.official_account, account) {
                Ok(guard) => {
                    Some(QueuedPoll { guard, sweep: Arc::clone(&sweep), lane: scheduled.lane, retries: 0 })
                }
                Err(NoGuard::Taken) => {
                    account.record_overrun();
                    None
                }
                Err(NoGuard::Left) => None,
            }
        }));
        if end < self.accounts.len() {
            self.spreading = Some((sweep, end));
        }
    }

    fn next_check(&self, now: Moment) -> Duration {
        let next_account = self.spreading.as_ref().and_then(|(sweep, next)| {
            Some(self.accounts.offset(*next)?.saturating_sub(now.since(&sweep.started())))
        });
        next_account.map_or(MAX_SLEEP, |wait| wait.min(MAX_SLEEP))
    }

    /// Registers the jobs again when the UTC offset has changed or the clock was set back: the scheduler keeps the UTC offset of
    /// their registration, and the time of their next tick.
    async fn follow_clock(
        &mut self,
        scheduler: &CronScheduler,
        mut jobs: CronJobs,
        now: Moment,
        signal: &mpsc::Sender<()>,
    ) -> Result<CronJobs, CronSchedulerError> {
        jobs.wall_offset = jobs.wall_offset.max(now.wall_offset());
        let was_set_back = jobs.wall_offset - now.wall_offset() >= SET_BACK_AT_LEAST;
        if was_set_back {
            self.move_due_back(now);
        } else if self.schedule.offset_at(now.wall) == jobs.utc_offset {
            return Ok(jobs);
        } else {
            tracing::info!(schedule = ?self.schedule, "The UTC offset changed: registering the schedule again");
        }
        scheduler.remove(jobs).await?;
        scheduler.add(&self.schedule, now, signal).await
    }

    /// Computes the next tick again after the clock was set back.
    fn move_due_back(&mut self, now: Moment) {
        let next = self.schedule.next_after(now.wall);
        // A clock that was set back by less than a tick must not serve that tick a second time.
        let before_served = self.served.is_none_or(|served| now.wall + MAX_EARLY < served);
        if before_served && next.is_some_and(|next| self.due.is_none_or(|due| next < due)) {
            self.due = next;
        }
    }
}

/// A job that could not be removed signals nobody, so this is not worth a restart.
async fn remove_jobs(scheduler: &CronScheduler, jobs: CronJobs) {
    match tokio::time::timeout(STALL_TIMEOUT, scheduler.remove(jobs)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("A schedule that is no longer used was not removed: {error}"),
        Err(_) => {
            tracing::warn!("A schedule that is no longer used was not removed: the cron scheduler hangs")
        }
    }
}
