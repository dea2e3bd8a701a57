//! Reloads in a row under load: random configurations, most of them usable, are applied by all triggers, and the daemon is killed now
//! and then. Afterwards everything is compared with the ledger of the simulator and with what the sinks received.
//!
//! `KFWATCH_RELOAD_ROUNDS` sets the number of reloads.

mod accounts;
mod configuration;
mod sinks;
mod storm;

use self::storm::Storm;
use crate::support::size::size_from;

/// Enough that each kind of change and each mistake occurs.
const ROUNDS: usize = 40;

#[test]
fn storm() {
    let mut storm = Storm::begin(size_from("KFWATCH_RELOAD_ROUNDS", ROUNDS));
    storm.rage();
    storm.end();
}
