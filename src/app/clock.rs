//! The machine's clocks: the place where the daemon reads the time.

use std::time::Instant;

use crate::domain::clock::{Clock, Moment};

/// The machine's wall clock and its monotonic clock.
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
