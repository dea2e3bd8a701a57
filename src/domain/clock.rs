//! Time, as the rest of the program is given it.
//!
//! A moment carries both clocks of a machine: the wall clock, for what people and events are told, and the
//! monotonic clock, for how long something has lasted. Waits are measured on the monotonic one, so that a clock
//! set back by an hour cannot hold an account back for an hour.

use std::time::Duration;

use jiff::{Timestamp, TimestampRound, Unit};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock, in UTC.
    pub wall: Timestamp,
    /// Time since some fixed point of this process.
    pub monotonic: Duration,
}

impl Moment {
    /// The wall clock rounded down to the millisecond: a bound before which nothing of this moment happened.
    pub fn floor_ms(&self) -> Timestamp {
        round_to_ms(self.wall, jiff::RoundMode::Floor)
    }

    /// The wall clock rounded up to the millisecond: a bound after which nothing of this moment happened.
    pub fn ceil_ms(&self) -> Timestamp {
        round_to_ms(self.wall, jiff::RoundMode::Ceil)
    }

    /// How long ago `earlier` was; zero if it was not earlier.
    pub fn since(&self, earlier: &Moment) -> Duration {
        self.monotonic.saturating_sub(earlier.monotonic)
    }
}

/// Where moments come from: the machine's clocks in the daemon, a scripted day in a rehearsal.
pub trait Clock: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Moment;
}

fn round_to_ms(timestamp: Timestamp, mode: jiff::RoundMode) -> Timestamp {
    // Rounding fails only at the very end of the supported range of years.
    timestamp.round(TimestampRound::new().smallest(Unit::Millisecond).mode(mode)).unwrap_or(timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_enclose_the_moment() {
        let wall: Timestamp = "2026-11-22T07:22:45.1234567Z".parse().unwrap();
        let moment = Moment { wall, monotonic: Duration::ZERO };
        assert_eq!(moment.floor_ms().to_string(), "2026-11-22T07:22:45.123Z");
        assert_eq!(moment.ceil_ms().to_string(), "2026-11-22T07:22:45.124Z");
    }
}
