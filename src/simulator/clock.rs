//! Simulated time: the wall clock, moved to where the scenario starts, plus what tests have advanced it by.
//!
//! The only place of the simulator that reads the wall clock; everything else takes the time as an argument. All times
//! are UNIX milliseconds.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A clock that can be advanced, so that a token's two hours need not be waited for.
#[derive(Debug)]
pub(super) struct Clock {
    /// How far the simulated time is ahead of the wall clock; negative if it is behind.
    ahead_ms: AtomicI64,
}

impl Clock {
    /// A clock that shows this moment now, or the wall clock's.
    pub(super) fn starting_at(starts_at_ms: Option<i64>) -> Self {
        Clock { ahead_ms: AtomicI64::new(starts_at_ms.map_or(0, |starts_at_ms| starts_at_ms - wall_ms())) }
    }

    /// The simulated time in UNIX milliseconds.
    pub(super) fn now_ms(&self) -> i64 {
        wall_ms() + self.ahead_ms.load(Ordering::Relaxed)
    }

    pub(super) fn advance(&self, by: Duration) {
        self.ahead_ms.fetch_add(duration_ms(by), Ordering::Relaxed);
    }
}

fn wall_ms() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the one place where the simulator reads the wall clock")]
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    duration_ms(wall)
}

/// Milliseconds as the signed number that UNIX times are kept in here.
pub(super) fn duration_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
