//! The system's clocks. The daemon reads the time only here.

use std::time::Instant;

use crate::domain::clock::{Clock, Moment};

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
        Moment { wall: jiff::Timestamp::now(), monotonic: self.origin.elapsed() }
    }
}
