//! Waiting for a condition, and the wall clock.

use std::time::{Duration, Instant};

/// The longest wait for a condition. Only a test that fails waits so long: a machine may be busy with other work.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// Calls `look` until it returns a value, and returns that. Panics after [`PATIENCE`].
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

/// The wall clock in UNIX milliseconds, as the simulator's ledger has it.
pub(crate) fn wall_ms() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "a test is no policy; it compares with a real ledger")]
    let now = jiff::Timestamp::now();
    now.as_millisecond()
}
