//! Whether work gets on: what the service manager's watchdog is fed by.
//!
//! Each [`Part`] counts what it has finished and says whether it has anything to do. It stands still when, look after
//! look, there is work and none of it gets finished for longer than its patience. Whoever has nothing to do never stands
//! still, and neither does who fails: a failure is finished work.
//!
//! How long that lasts is measured in the time between looks, and of one gap between two looks only so much counts: after
//! a machine was asleep, or the process stopped, nobody is judged by a time in which nobody could work.

use std::{fmt, time::Duration};

use jiff::Timestamp;

use super::clock::Moment;

/// What a part has finished so far, and whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Any count that moves when something is finished.
    pub finished: u64,
    /// Whether something is under way or could be taken up.
    pub waits: bool,
}

/// Something that must get on.
pub struct Part {
    stall: String,
    patience: Duration,
    read: Box<dyn Fn() -> Work + Send>,
    last: Option<Work>,
    still_for: Duration,
}

/// A part that stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// What does not happen.
    pub what: String,
    /// Since when.
    pub since: Timestamp,
}

/// All that must get on.
pub struct Progress {
    parts: Vec<Part>,
    longest_gap: Duration,
    last_look: Option<Moment>,
}

impl Part {
    /// A part that stands still when it has work and finishes none of it for longer than `patience`; `stall` is what is
    /// said of it then.
    pub fn new(
        stall: impl Into<String>,
        patience: Duration,
        read: impl Fn() -> Work + Send + 'static,
    ) -> Self {
        Self { stall: stall.into(), patience, read: Box::new(read), last: None, still_for: Duration::ZERO }
    }

    fn look(&mut self, passed: Duration, now: Moment) -> Option<Stall> {
        let work = (self.read)();
        let same = self.last.replace(work) == Some(work);
        self.still_for = if same && work.waits { self.still_for + passed } else { Duration::ZERO };
        (self.still_for > self.patience).then(|| Stall {
            what: self.stall.clone(),
            since: now.wall.checked_sub(self.still_for).unwrap_or(Timestamp::MIN),
        })
    }
}

impl Progress {
    /// Watches these parts by looks that come one `interval` after the other.
    pub fn new(parts: Vec<Part>, interval: Duration) -> Self {
        // A look may be late on a busy machine; what is beyond twice the interval was a pause.
        Self { parts, longest_gap: interval.saturating_mul(2), last_look: None }
    }

    /// Looks at all parts and says which of them stand still.
    pub fn look(&mut self, now: Moment) -> Vec<Stall> {
        let passed = self.last_look.map_or(Duration::ZERO, |last| now.since(&last)).min(self.longest_gap);
        self.last_look = Some(now);
        self.parts.iter_mut().filter_map(|part| part.look(passed, now)).collect()
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

    const PATIENCE: Duration = Duration::from_secs(30);
    const START: &str = "2026-11-22T08:00:00Z";

    fn at(seconds: u64) -> Moment {
        let passed = Duration::from_secs(seconds);
        Moment { wall: START.parse::<Timestamp>().unwrap() + passed, monotonic: passed }
    }

    /// Looks every ten seconds at one part that is in these states, and says at which looks it stood still.
    fn stalls(states: &[(u64, bool)]) -> Vec<u64> {
        let work = Arc::new(Mutex::new(Work { finished: 0, waits: false }));
        let read = Arc::clone(&work);
        let part = Part::new("nothing happens", PATIENCE, move || *read.lock().unwrap());
        let mut progress = Progress::new(vec![part], Duration::from_secs(10));
        let mut stalled = Vec::new();
        for (look, &(finished, waits)) in states.iter().enumerate() {
            *work.lock().unwrap() = Work { finished, waits };
            if !progress.look(at(10 * look as u64)).is_empty() {
                stalled.push(10 * look as u64);
            }
        }
        stalled
    }

    #[test]
    fn who_has_work_and_finishes_none_stands_still_once_patience_is_over() {
        assert_eq!(stalls(&[(7, true); 6]), [40, 50]);
    }

    #[test]
    fn who_has_nothing_to_do_never_stands_still() {
        assert_eq!(stalls(&[(7, false); 100]), [0; 0]);
    }

    #[test]
    fn who_finishes_something_now_and_then_gets_on() {
        let states: Vec<_> = (0..100).map(|look| (look / 3, true)).collect();
        assert_eq!(stalls(&states), [0; 0]);
    }

    #[test]
    fn the_time_without_work_does_not_count() {
        let mut states = vec![(7, true); 2];
        states.extend([(7, false); 48]);
        states.extend([(7, true); 4]);
        assert_eq!(stalls(&states), [0; 0]);
        states.push((7, true));
        assert_eq!(stalls(&states), [540]);
    }

    #[test]
    fn who_gets_on_again_is_judged_anew() {
        let mut states = vec![(7, true); 5];
        states.extend([(8, true); 4]);
        assert_eq!(stalls(&states), [40]);
    }

    #[test]
    fn after_a_pause_of_the_machine_nobody_is_judged_by_it() {
        let part = Part::new("nothing happens", PATIENCE, || Work { finished: 7, waits: true });
        let mut progress = Progress::new(vec![part], Duration::from_secs(10));
        assert_eq!(progress.look(at(0)), []);
        assert_eq!(progress.look(at(3600)), [], "20 s of the hour count");
        assert_eq!(progress.look(at(3610)), []);
        assert_eq!(progress.look(at(3620)).len(), 1);
    }

    #[test]
    fn a_stall_says_what_and_since_when() {
        let part = |what| Part::new(what, PATIENCE, || Work { finished: 0, waits: true });
        let idle = Part::new("c", PATIENCE, || Work { finished: 0, waits: false });
        let mut progress = Progress::new(vec![part("a"), idle, part("b")], Duration::from_secs(40));
        assert_eq!(progress.look(at(0)), []);
        let said: Vec<String> = progress.look(at(31)).iter().map(Stall::to_string).collect();
        assert_eq!(said, ["a since 2026-11-22T08:00:00Z", "b since 2026-11-22T08:00:00Z"]);
    }
}
