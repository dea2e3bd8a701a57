//! Simulated time: the wall clock plus what tests have advanced it by.
//!
//! The only place of the simulator that reads the wall clock; everything else takes the time as an argument. All times
//! are UNIX milliseconds.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A clock that can be advanced, so that a token's two hours need not be waited for.
#[derive(Debug, Default)]
pub(super) struct Clock {
    ahead_ms: AtomicI64,
}

impl Clock {
    /// The simulated time in UNIX milliseconds.
    pub(super) fn now_ms(&self) -> i64 {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place where the simulator reads the wall clock"
        )]
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        duration_ms(wall) + self.ahead_ms()
    }

    /// How far the simulated time is ahead of the wall clock.
    pub(super) fn ahead_ms(&self) -> i64 {
        self.ahead_ms.load(Ordering::Relaxed)
    }

    pub(super) fn advance(&self, by: Duration) {
        self.ahead_ms.fetch_add(duration_ms(by), Ordering::Relaxed);
    }
}

/// Milliseconds as the signed number that UNIX times are kept in here.
pub(super) fn duration_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
