//! Whether the daemon makes progress: what decides if the service manager's watchdog is notified.
//!
//! Each [`ProgressCheck`] reads a counter of finished work and whether work is pending. It reports a [`Stall`] when work was
//! pending, and none was finished, for longer than its timeout. A part without pending work never stalls, and neither does
//! one that fails: a failure is finished work. Parts come and go; the check of a part that has ended is dropped.
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
    timeout: Box<dyn Fn() -> Duration + Send>,
    read: Box<dyn Fn() -> Option<WorkProgress> + Send>,
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
    /// Reports a stall, described by `stall`, when pending work makes no progress for longer than `timeout` returns. `read`
    /// returns `None` when the part has ended.
    pub fn new(
        stall: impl Into<String>,
        timeout: impl Fn() -> Duration + Send + 'static,
        read: impl Fn() -> Option<WorkProgress> + Send + 'static,
    ) -> Self {
        Self {
            stall: stall.into(),
            timeout: Box::new(timeout),
            read: Box::new(read),
            last: None,
            stalled_for: Duration::ZERO,
        }
    }

    /// Reads the progress; `None` when the part has ended.
    fn update(&mut self, elapsed: Duration) -> Option<()> {
        let progress = (self.read)()?;
        let same = self.last.replace(progress) == Some(progress);
        self.stalled_for = if same && progress.pending { self.stalled_for + elapsed } else { Duration::ZERO };
        Some(())
    }

    fn stall(&self, now: Moment) -> Option<Stall> {
        (self.stalled_for > (self.timeout)()).then(|| Stall {
            what: self.stall.clone(),
            since: now.wall.checked_sub(self.stalled_for).unwrap_or(Timestamp::MIN),
        })
    }
}

impl ProgressMonitor {
    /// A monitor without checks that checks once in each `interval`.
    pub fn new(interval: Duration) -> Self {
        // A check may be late on a busy machine; a gap of more than twice the interval was a pause.
        Self { checks: Vec::new(), max_gap: interval.saturating_mul(2), last_check: None }
    }

    /// Adds checks.
    pub fn add(&mut self, checks: impl IntoIterator<Item = ProgressCheck>) {
        self.checks.extend(checks);
    }

    /// Runs all checks, returns the stalls, and drops the checks of parts that have ended.
    pub fn check(&mut self, now: Moment) -> Vec<Stall> {
        let elapsed = self.last_check.map_or(Duration::ZERO, |last| now.since(&last)).min(self.max_gap);
        self.last_check = Some(now);
        self.checks.retain_mut(|check| check.update(elapsed).is_some());
        self.checks.iter().filter_map(|check| check.stall(now)).collect()
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

    fn monitor(checks: impl IntoIterator<Item = ProgressCheck>, interval_s: u64) -> ProgressMonitor {
        let mut monitor = ProgressMonitor::new(Duration::from_secs(interval_s));
        monitor.add(checks);
        monitor
    }

    /// A part that finishes nothing.
    fn part(what: &str, pending: bool) -> ProgressCheck {
        ProgressCheck::new(what, || TIMEOUT, move || Some(WorkProgress { finished: 7, pending }))
    }

    /// Checks one part, which has these states, every ten seconds and returns the times of its stalls.
    fn stalls(states: &[(u64, bool)]) -> Vec<u64> {
        let work = Arc::new(Mutex::new(WorkProgress { finished: 0, pending: false }));
        let read = Arc::clone(&work);
        let part = ProgressCheck::new("nothing happens", || TIMEOUT, move || Some(*read.lock().unwrap()));
        let mut monitor = monitor([part], 10);
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
        let mut monitor = monitor([part("nothing happens", true)], 10);
        assert_eq!(monitor.check(at(0)), []);
        assert_eq!(monitor.check(at(3600)), [], "20 s of the hour count");
        assert_eq!(monitor.check(at(3610)), []);
        assert_eq!(monitor.check(at(3620)).len(), 1);
    }

    #[test]
    fn stall_shows_what_and_since_when() {
        let mut monitor = monitor([part("a", true), part("c", false), part("b", true)], 40);
        assert_eq!(monitor.check(at(0)), []);
        let shown: Vec<String> = monitor.check(at(31)).iter().map(Stall::to_string).collect();
        assert_eq!(shown, ["a since 1970-01-01T00:00:00Z", "b since 1970-01-01T00:00:00Z"]);
    }

    #[test]
    fn check_of_ended_part_is_dropped() {
        let running = Arc::new(());
        let ended = Arc::downgrade(&running);
        let read = move || ended.upgrade().map(|_| WorkProgress { finished: 0, pending: true });
        let mut monitor = monitor([ProgressCheck::new("ended", || TIMEOUT, read), part("stays", true)], 40);
        let stalled = |stalls: Vec<Stall>| stalls.into_iter().map(|stall| stall.what).collect::<Vec<_>>();
        monitor.check(at(0));
        assert_eq!(stalled(monitor.check(at(40))), ["ended", "stays"]);
        drop(running);
        assert_eq!(stalled(monitor.check(at(80))), ["stays"]);
        assert_eq!(monitor.checks.len(), 1);
    }

    #[test]
    fn check_added_later_starts_without_stall() {
        let mut monitor = monitor([part("first", true)], 40);
        monitor.check(at(0));
        monitor.add([part("second", true)]);
        assert_eq!(monitor.check(at(40)).len(), 1);
        assert_eq!(monitor.check(at(80)).len(), 2);
    }

    #[test]
    fn stall_follows_current_timeout() {
        let seconds = Arc::new(Mutex::new(100));
        let timeout = Arc::clone(&seconds);
        let timeout = move || Duration::from_secs(*timeout.lock().unwrap());
        let read = || Some(WorkProgress { finished: 0, pending: true });
        let mut monitor = monitor([ProgressCheck::new("nothing happens", timeout, read)], 40);
        monitor.check(at(0));
        assert_eq!(monitor.check(at(50)), []);
        *seconds.lock().unwrap() = 40;
        assert_eq!(monitor.check(at(50)).len(), 1);
    }
}
