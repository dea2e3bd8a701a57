//! Reloads in a row under load: random configurations, most of them usable, are applied by all triggers, and the daemon is killed now
//! and then. Afterwards everything is compared with the ledger of the simulator and with what the sinks received.
//!
//! `KFWATCH_RELOAD_ROUNDS` sets the number of reloads.

mod accounts;
mod configuration;
mod sinks;
mod storm;

use self::storm::Storm;

/// Enough that each kind of change and each mistake occurs.
const ROUNDS: usize = 40;

#[test]
fn storm() {
    let mut storm = Storm::begin(rounds());
    storm.rage();
    storm.end();
}

fn rounds() -> usize {
    #[expect(
        clippy::disallowed_methods,
        reason = "the duration of a test is not part of the program's configuration"
    )]
    let rounds = std::env::var("KFWATCH_RELOAD_ROUNDS");
    rounds.map_or(ROUNDS, |rounds| rounds.parse().unwrap())
}
