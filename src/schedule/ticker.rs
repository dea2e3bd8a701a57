//! The ticks of one schedule: triggered, watched over, and spread over its accounts.
//!
//! A ticker serves each tick once: when its trigger comes, or [`GRACE`] after it was due. It looks at the wall clock at
//! least every [`LONGEST_SLEEP`], because that clock may jump: forwards, and ticks have been missed; backwards, and the
//! next one is nearer than it seemed. Ticks that were missed are counted and fall together into one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    queue::{Job, PollQueue},
    spread::SpreadPlan,
    triggers::{Registration, TriggerError, Triggers},
};
use crate::{
    domain::{
        clock::{Clock, Moment},
        cron::Schedule,
        progress::{Part, Work},
    },
    metrics::Metrics,
    poll::{OfficialAccount, Poller},
};

/// How long a trigger may be late before its tick counts as missed. The scheduler looks every half second.
pub const GRACE: Duration = Duration::from_secs(2);

/// The longest time without a look at the wall clock.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// A ticker that has not looked at the clock for so long stands still, which no load explains.
const PATIENCE: Duration = Duration::from_secs(30);

/// A trigger that comes so much before its time belongs to a tick that has been served already.
const EARLY: Duration = Duration::from_millis(500);

/// How many missed ticks are counted one by one: a clock that was set forward by a year has missed more than matter.
const MAX_MISSED_TICKS: u64 = 100_000;

/// What tickers share.
#[derive(Clone)]
pub struct TickerContext {
    /// Where polls wait.
    pub queue: Arc<PollQueue>,
    /// Told of overruns.
    pub poller: Arc<Poller>,
    /// Told of sweeps and missed ticks.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// An official account as its schedule knows it.
pub struct Scheduled {
    /// The official account; whichever kf accounts it has at a tick are polled.
    pub official_account: Arc<OfficialAccount>,
    /// Its lane in the queue.
    pub lane: usize,
}

/// All polls of one tick: over when the last of them drops it.
pub struct Sweep {
    started: Moment,
    /// When the next tick is due.
    pub next_due: Option<Timestamp>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl Sweep {
    /// A sweep that begins now.
    pub fn begin(context: &TickerContext, now: Moment, next_due: Option<Timestamp>) -> Arc<Self> {
        let (metrics, clock) = (Arc::clone(&context.metrics), Arc::clone(&context.clock));
        Arc::new(Self { started: now, next_due, metrics, clock })
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.metrics.swept(self.clock.now().since(&self.started));
    }
}

/// The ticks of one schedule.
pub struct Ticker {
    context: TickerContext,
    schedule: Schedule,
    accounts: SpreadPlan,
    /// How often it has ticked; readers of the account table see by it which accounts are overdue.
    ticks: Arc<AtomicU64>,
    /// When the next tick is due.
    due: Option<Timestamp>,
    /// When the tick served last was due.
    served: Option<Timestamp>,
    /// The sweep whose accounts are being let go, and the first that is still kept back.
    release: Option<(Arc<Sweep>, usize)>,
    /// How often it has looked at the clock.
    looks: Arc<AtomicU64>,
}

impl Ticker {
    /// A ticker for the official accounts of one schedule; each kf account is polled at its own fixed place within
    /// `spread` after the tick.
    pub fn new(
        context: TickerContext,
        schedule: Schedule,
        spread: Duration,
        ticks: Arc<AtomicU64>,
        official_accounts: Vec<Scheduled>,
    ) -> Self {
        let accounts = SpreadPlan::new(spread, official_accounts);
        let looks = Arc::default();
        Self { context, schedule, accounts, ticks, due: None, served: None, release: None, looks }
    }

    /// What the watchdog sees of it. There is always something to do: at least a look at the clock.
    pub fn progress(&self) -> Part {
        let looks = Arc::clone(&self.looks);
        let stall = format!("the schedule {:?} has not looked at the clock", self.schedule);
        Part::new(stall, PATIENCE, move || Work { finished: looks.load(Ordering::Relaxed), waits: true })
    }

    /// Serves ticks until the drain begins.
    pub async fn run(mut self, triggers: Triggers, drain: CancellationToken) -> Result<(), TriggerError> {
        let (tick, mut triggered) = mpsc::channel(1);
        let mut now = self.context.clock.now();
        let mut registration = triggers.register(&self.schedule, now.wall, &tick).await?;
        self.due = self.schedule.next_after(now.wall);
        loop {
            tokio::select! {
                () = drain.cancelled() => return Ok(()),
                Some(()) = triggered.recv() => {
                    now = self.context.clock.now();
                    self.triggered(now);
                }
                () = tokio::time::sleep(self.next_look(now)) => {
                    now = self.context.clock.now();
                    self.look(now);
                }
            }
            self.looks.fetch_add(1, Ordering::Relaxed);
            self.let_go(now);
            registration = self.follow_utc_offset(&triggers, registration, now, &tick).await?;
        }
    }

    /// A trigger came.
    fn triggered(&mut self, now: Moment) {
        if self.due.is_some_and(|due| now.wall + EARLY >= due) {
            self.serve(now, true);
        }
    }

    /// No trigger came: serves a tick that is overdue, and follows a clock that was set back.
    fn look(&mut self, now: Moment) {
        match self.due {
            Some(due) if now.wall >= due + GRACE => self.serve(now, false),
            Some(due) => {
                let next = self.schedule.next_after(now.wall);
                // A clock that was set back a little, behind the tick just served, brings that tick no second time.
                let behind_served = self.served.is_none_or(|served| now.wall + EARLY < served);
                if next.is_some_and(|next| next < due) && now.wall < due && behind_served {
                    self.due = next;
                }
            }
            None => self.due = self.schedule.next_after(now.wall),
        }
    }

    /// Starts the sweep of the tick that is due; those due since then fall together with it.
    fn serve(&mut self, now: Moment, triggered: bool) {
        let passed = self.pass_ticks_until(now.wall);
        let missed = passed - u64::from(triggered);
        if missed > 0 {
            self.context.metrics.ticks_missed(missed);
            tracing::warn!(
                missed, schedule = ?self.schedule,
                "{missed} ticks were not served in time: the machine stood still, its clock jumped, or it is overloaded"
            );
        }
        self.let_all_go();
        self.accounts.follow();
        self.release = Some((Sweep::begin(&self.context, now, self.due), 0));
    }

    /// Moves `due` behind this moment and counts the ticks passed, at least the one that was due.
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

    /// Queues the accounts whose place in the spread has come.
    fn let_go(&mut self, now: Moment) {
        if let Some((sweep, _)) = &self.release {
            let elapsed = now.since(&sweep.started);
            self.let_go_until(elapsed);
        }
    }

    fn let_all_go(&mut self) {
        self.let_go_until(Duration::MAX);
    }

    fn let_go_until(&mut self, elapsed: Duration) {
        let Some((sweep, first)) = self.release.take() else { return };
        let end = self.accounts.end(first, elapsed);
        self.context.queue.push(self.accounts.accounts(first..end).filter_map(|(scheduled, account)| {
            let Scheduled { official_account, lane } = scheduled;
            let Some(guard) = official_account.guard(account) else {
                self.context.poller.overrun(account);
                return None;
            };
            Some(Job { guard, lane: *lane, sweep: Arc::clone(&sweep), repeats: 0 })
        }));
        if end < self.accounts.len() {
            self.release = Some((sweep, end));
        }
    }

    fn next_look(&self, now: Moment) -> Duration {
        let release = self.release.as_ref().and_then(|(sweep, next)| {
            Some(self.accounts.after(*next)?.saturating_sub(now.since(&sweep.started)))
        });
        LONGEST_SLEEP.min(release.unwrap_or(LONGEST_SLEEP))
    }

    /// The scheduler computes with the UTC offset that held when a job was added: on a change it is added anew.
    async fn follow_utc_offset(
        &self,
        triggers: &Triggers,
        registration: Registration,
        now: Moment,
        tick: &mpsc::Sender<()>,
    ) -> Result<Registration, TriggerError> {
        if self.schedule.offset_at(now.wall) == registration.utc_offset {
            return Ok(registration);
        }
        tracing::info!(schedule = ?self.schedule, "The UTC offset changed: registering the schedule anew");
        triggers.remove(registration).await?;
        triggers.register(&self.schedule, now.wall, tick).await
    }
}
