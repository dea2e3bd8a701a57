//! What tests of the whole program share: the daemon as a child process, the place it works in, and the history that
//! it ought to have told, worked out from the simulator's ledger without any code of the program itself.

pub(crate) mod alertmanager;
pub(crate) mod backup;
pub(crate) mod certificates;
pub(crate) mod daemon;
pub(crate) mod delivery;
pub(crate) mod disk;
pub(crate) mod event_log;
pub(crate) mod events;
pub(crate) mod failing_disk;
pub(crate) mod history;
pub(crate) mod metrics_page;
pub(crate) mod nats;
pub(crate) mod process;
pub(crate) mod prometheus;
pub(crate) mod promql;
pub(crate) mod receiver;
pub(crate) mod rehearsal;
pub(crate) mod replay;
pub(crate) mod simulator;
pub(crate) mod site;
pub(crate) mod stage;
pub(crate) mod store;

use std::time::{Duration, Instant};

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks again and again until there is something to see, and gives up loudly when `bound` has passed.
pub(crate) fn eventually<T>(what: &str, bound: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < bound, "not within {bound:?}: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// The wall clock in UNIX milliseconds, as the simulator's ledger has it.
pub(crate) fn wall_ms() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "a test is no policy; it compares with a real ledger")]
    let now = jiff::Timestamp::now();
    now.as_millisecond()
}
