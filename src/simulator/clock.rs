//! Simulated time: the wall clock, shifted to the start time of the scenario and advanced by tests.
//!
//! Only this module reads the wall clock; all other code takes the time as an argument. All times are UNIX milliseconds.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A clock that tests can advance, so that they need not wait for the two hours of a token.
#[derive(Debug)]
pub(super) struct Clock {
    /// Simulated time minus wall clock.
    offset_ms: AtomicI64,
}

impl Clock {
    /// Starts the clock at this time, or at the time of the wall clock.
    pub(super) fn starting_at(starts_at_ms: Option<i64>) -> Self {
        Clock { offset_ms: AtomicI64::new(starts_at_ms.map_or(0, |starts_at_ms| starts_at_ms - wall_ms())) }
    }

    pub(super) fn now_ms(&self) -> i64 {
        wall_ms() + self.offset_ms.load(Ordering::Relaxed)
    }

    pub(super) fn advance(&self, by: Duration) {
        self.offset_ms.fetch_add(duration_ms(by), Ordering::Relaxed);
    }
}

fn wall_ms() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the only place where the simulator reads the wall clock")]
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    duration_ms(wall)
}

/// Converts to signed milliseconds, the type of all times in the simulator.
pub(super) fn duration_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
