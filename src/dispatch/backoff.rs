//! The backoffs of delivery.

use std::time::Duration;

use crate::domain::backoff::ExponentialBackoff;

/// The longest backoff of a sink, also if it asks for more.
pub(super) const LONGEST_SINK_BACKOFF: Duration = Duration::from_secs(60);

/// After failures of a sink as a whole, and after refusals of an event.
pub(super) const SINK_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::constant(Duration::from_millis(500), LONGEST_SINK_BACKOFF);

/// After failures of the store, which is local: its disk may have room again at any time.
const STORE_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::constant(Duration::from_secs(5), Duration::from_secs(5));

/// How long to wait after a failure of the store.
pub(super) fn store_backoff() -> Duration {
    STORE_BACKOFF.wait(1, fastrand::f64())
}
