//! Checks regularly that polls, commits and schedules make progress, and reports it to those who restart a daemon that does not:
//! systemd's watchdog, which is notified only meanwhile; Kubernetes and Docker, through `/-/live` and `kfwatch health`; and people,
//! through the log.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::MissedTickBehavior;

use super::service_manager::ServiceManager;
use crate::{
    domain::{
        clock::Clock,
        progress::{ProgressCheck, ProgressMonitor, Stall},
    },
    poll::Poller,
    schedule::queue::PollQueue,
    status::Liveness,
};

/// The longest time between two checks.
const INTERVAL: Duration = Duration::from_secs(10);

/// A commit that takes longer counts as stalled. The store waits up to 5 s for another program that writes to its file, and
/// up to two groups of commits come first. The rest allows for a busy disk.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Where parts that start while the watchdog runs leave their checks.
#[derive(Clone, Default)]
pub(super) struct NewChecks(Arc<Mutex<Vec<ProgressCheck>>>);

impl NewChecks {
    /// Adds checks, from the watchdog's next round on.
    pub(super) fn add(&self, checks: impl IntoIterator<Item = ProgressCheck>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(checks);
    }

    fn take(&self) -> Vec<ProgressCheck> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) struct Watchdog {
    pub(super) checks: NewChecks,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) liveness: Arc<Liveness>,
    pub(super) service_manager: ServiceManager,
}

impl Watchdog {
    /// Checks until the future is dropped.
    pub(super) async fn run(self) {
        let service_watchdog = self.service_manager.watchdog_interval();
        // A third of the service manager's interval, so that one check may be late.
        let every = service_watchdog.map_or(INTERVAL, |watchdog| INTERVAL.min(watchdog / 3));
        let mut interval = tokio::time::interval(every.max(Duration::from_millis(1)));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut monitor = ProgressMonitor::new(every);
        loop {
            interval.tick().await;
            monitor.add(self.checks.take());
            let stalls = monitor.check(self.clock.now());
            let before = self.liveness.replace(stalls.clone());
            if stalls.is_empty() {
                self.service_manager.notify_watchdog().await;
            }
            let remedy = match service_watchdog {
                Some(_) => "The watchdog is no longer notified, so the service manager restarts kfwatch",
                None => "/-/live answers 503. If nothing restarts kfwatch automatically, restart it",
            };
            log_changes(&before, &stalls, &self.liveness, remedy);
        }
    }
}

/// Logs each new stall, and the end of the last one.
fn log_changes(before: &[Stall], now: &[Stall], liveness: &Liveness, remedy: &str) {
    let is_new = now.iter().any(|stall| before.iter().all(|known| known.what != stall.what));
    if is_new {
        tracing::error!("{}. {remedy}", liveness.problem().unwrap_or_default());
    } else if now.is_empty() && !before.is_empty() {
        tracing::info!("Polling makes progress again");
    }
}

/// The check that polls make progress. `longest_deadline` returns the longest time that a poll may take at present.
pub(super) fn poll_check(
    queue: &Arc<PollQueue>,
    longest_deadline: impl Fn() -> Duration + Send + 'static,
) -> ProgressCheck {
    let queue = Arc::downgrade(queue);
    let timeout = move || longest_deadline() + COMMIT_TIMEOUT;
    ProgressCheck::new("no poll has finished", timeout, move || Some(queue.upgrade()?.progress()))
}

/// The check that the commits of this poller make progress.
pub(super) fn commit_check(poller: &Arc<Poller>) -> ProgressCheck {
    let poller = Arc::downgrade(poller);
    let read = move || Some(poller.upgrade()?.commit_progress());
    ProgressCheck::new("the store has committed nothing", || COMMIT_TIMEOUT, read)
}
