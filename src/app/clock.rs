//! The system's clocks. The daemon reads the time only here.

use std::time::{Duration, Instant};

use crate::domain::clock::{Clock, Moment};

/// Between its two readings the process may be suspended. Then they do not belong together, and the wall clock would seem to be set
/// back by the next reading.
const MAX_READING_TIME: Duration = Duration::from_millis(100);

/// The system's wall clock and monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the daemon reads the wall clock")]
    fn now(&self) -> Moment {
        loop {
            let monotonic = self.origin.elapsed();
            let wall = jiff::Timestamp::now();
            if self.origin.elapsed() - monotonic < MAX_READING_TIME {
                return Moment { wall, monotonic };
            }
        }
    }
}
