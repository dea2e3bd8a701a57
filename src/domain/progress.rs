//! Whether the daemon makes progress: what decides if the service manager's watchdog is notified.
//!
//! Each [`ProgressCheck`] reads a counter of finished work and whether work is pending. It reports a [`Stall`] when work was
//! pending, and none was finished, for longer than its timeout. A part without pending work never stalls, and neither does
//! one that fails: a failure is finished work.
//!
//! The time is measured between checks, and a long gap between two checks counts only in part: while the machine was
//! suspended or the process stopped, nothing could make progress.

use std::{fmt, time::Duration};

use jiff::Timestamp;

use super::clock::Moment;

/// How much work a part of the daemon has finished, and whether there is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkProgress {
    /// Any counter that changes when work is finished.
    pub finished: u64,
    /// Whether work is in progress or could start.
    pub pending: bool,
}

/// Checks that one part of the daemon makes progress.
pub struct ProgressCheck {
    stall: String,
    timeout: Duration,
    read: Box<dyn Fn() -> WorkProgress + Send>,
    last: Option<WorkProgress>,
    stalled_for: Duration,
}

/// A part that makes no progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// What does not happen, for example "no poll has finished".
    pub what: String,
    /// When the last progress was made.
    pub since: Timestamp,
}

/// All progress checks of the daemon.
pub struct ProgressMonitor {
    checks: Vec<ProgressCheck>,
    max_gap: Duration,
    last_check: Option<Moment>,
}

impl ProgressCheck {
    /// Reports a stall, described by `stall`, when pending work makes no progress for longer than `timeout`.
    pub fn new(
        stall: impl Into<String>,
        timeout: Duration,
        read: impl Fn() -> WorkProgress + Send + 'static,
    ) -> Self {
        Self { stall: stall.into(), timeout, read: Box::new(read), last: None, stalled_for: Duration::ZERO }
    }

    fn check(&mut self, elapsed: Duration, now: Moment) -> Option<Stall> {
        let progress = (self.read)();
        let same = self.last.replace(progress) == Some(progress);
        self.stalled_for = if same && progress.pending { self.stalled_for + elapsed } else { Duration::ZERO };
        (self.stalled_for > self.timeout).then(|| Stall {
            what: self.stall.clone(),
            since: now.wall.checked_sub(self.stalled_for).unwrap_or(Timestamp::MIN),
        })
    }
}

impl ProgressMonitor {
    /// A monitor that checks once in each `interval`.
    pub fn new(checks: Vec<ProgressCheck>, interval: Duration) -> Self {
        // A check may be late on a busy machine; a gap of more than twice the interval was a pause.
        Self { checks, max_gap: interval.saturating_mul(2), last_check: None }
    }

    /// Runs all checks and returns the stalls.
    pub fn check(&mut self, now: Moment) -> Vec<Stall> {
        let elapsed = self.last_check.map_or(Duration::ZERO, |last| now.since(&last)).min(self.max_gap);
        self.last_check = Some(now);
        self.checks.iter_mut().filter_map(|check| check.check(elapsed, now)).collect()
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} since {:.0}", self.what, self.since)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::domain::clock::at;

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// Checks one part, which has these states, every ten seconds and returns the times of its stalls.
    fn stalls(states: &[(u64, bool)]) -> Vec<u64> {
        let work = Arc::new(Mutex::new(WorkProgress { finished: 0, pending: false }));
        let read = Arc::clone(&work);
        let part = ProgressCheck::new("nothing happens", TIMEOUT, move || *read.lock().unwrap());
        let mut monitor = ProgressMonitor::new(vec![part], Duration::from_secs(10));
        let mut stalled = Vec::new();
        for (check, &(finished, pending)) in states.iter().enumerate() {
            *work.lock().unwrap() = WorkProgress { finished, pending };
            if !monitor.check(at(10 * check as u64)).is_empty() {
                stalled.push(10 * check as u64);
            }
        }
        stalled
    }

    #[test]
    fn pending_work_without_progress_stalls_after_timeout() {
        assert_eq!(stalls(&[(7, true); 6]), [40, 50]);
    }

    #[test]
    fn part_without_pending_work_never_stalls() {
        assert_eq!(stalls(&[(7, false); 100]), [0; 0]);
    }

    #[test]
    fn occasional_progress_is_no_stall() {
        let states: Vec<_> = (0..100).map(|check| (check / 3, true)).collect();
        assert_eq!(stalls(&states), [0; 0]);
    }

    #[test]
    fn time_without_pending_work_does_not_count() {
        let mut states = vec![(7, true); 2];
        states.extend([(7, false); 48]);
        states.extend([(7, true); 4]);
        assert_eq!(stalls(&states), [0; 0]);
        states.push((7, true));
        assert_eq!(stalls(&states), [540]);
    }

    #[test]
    fn stall_ends_with_progress() {
        let mut states = vec![(7, true); 5];
        states.extend([(8, true); 4]);
        assert_eq!(stalls(&states), [40]);
    }

    #[test]
    fn pause_of_the_machine_is_no_stall() {
        let part =
            ProgressCheck::new("nothing happens", TIMEOUT, || WorkProgress { finished: 7, pending: true });
        let mut monitor = ProgressMonitor::new(vec![part], Duration::from_secs(10));
        assert_eq!(monitor.check(at(0)), []);
        assert_eq!(monitor.check(at(3600)), [], "20 s of the hour count");
        assert_eq!(monitor.check(at(3610)), []);
        assert_eq!(monitor.check(at(3620)).len(), 1);
    }

    #[test]
    fn stall_shows_what_and_since_when() {
        let part = |what| ProgressCheck::new(what, TIMEOUT, || WorkProgress { finished: 0, pending: true });
        let idle = ProgressCheck::new("c", TIMEOUT, || WorkProgress { finished: 0, pending: false });
        let mut monitor = ProgressMonitor::new(vec![part("a"), idle, part("b")], Duration::from_secs(40));
        assert_eq!(monitor.check(at(0)), []);
        let shown: Vec<String> = monitor.check(at(31)).iter().map(Stall::to_string).collect();
        assert_eq!(shown, ["a since 1970-01-01T00:00:00Z", "b since 1970-01-01T00:00:00Z"]);
    }
}
