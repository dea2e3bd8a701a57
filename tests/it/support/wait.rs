//! Waiting for a condition, and the wall clock.

use std::time::{Duration, Instant};

/// The longest wait for a condition. Only a failing test waits this long, because the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// The pause between two checks of a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// Calls `look` until it returns a value, and returns that value. Panics after [`PATIENCE`].
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(PAUSE);
    }
}

/// The wall clock in UNIX milliseconds, as in the simulator's ledger.
pub(crate) fn wall_ms() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the test compares with the simulator's real-time ledger")]
    let now = jiff::Timestamp::now();
    now.as_millisecond()
}
