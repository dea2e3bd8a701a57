//! Time, as the rest of the program is given it.
//!
//! A moment carries both clocks of a machine: the wall clock, for what people and events are told, and the
//! monotonic clock, for how long something has lasted. Waits are measured on the monotonic one, so that a clock
//! set back by an hour cannot hold an account back for an hour.

use std::{fmt, num::NonZeroU64, time::Duration};

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
    pub fn floor_ms(&self) -> UnixMs {
        round_to_ms(self.wall, jiff::RoundMode::Floor).into()
    }

    /// The wall clock rounded up to the millisecond: a bound after which nothing of this moment happened.
    pub fn ceil_ms(&self) -> UnixMs {
        round_to_ms(self.wall, jiff::RoundMode::Ceil).into()
    }

    /// How long ago `earlier` was; zero if it was not earlier.
    pub fn since(&self, earlier: &Moment) -> Duration {
        self.monotonic.saturating_sub(earlier.monotonic)
    }
}

/// A moment of the wall clock in whole milliseconds: eight bytes, and no more where there may be none. An optional
/// [`Timestamp`] takes 24, too many for what is known of each of many accounts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(NonZeroU64);

impl UnixMs {
    /// So many milliseconds before or after the UNIX epoch.
    fn new(ms: i64) -> Self {
        // Counted from a moment before all timestamps: in their order, and never zero.
        Self(NonZeroU64::new(ms.abs_diff(i64::MIN)).unwrap_or(NonZeroU64::MIN))
    }

    /// As one of the moments that have nanoseconds.
    pub fn timestamp(self) -> Timestamp {
        let ms = i64::MIN.wrapping_add_unsigned(self.0.get());
        // It was made of one, but the last second of all is out of the range of milliseconds.
        Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
    }
}

/// Cuts what is finer.
impl From<Timestamp> for UnixMs {
    fn from(timestamp: Timestamp) -> Self {
        Self::new(timestamp.as_millisecond())
    }
}

impl From<UnixMs> for Timestamp {
    fn from(moment: UnixMs) -> Self {
        moment.timestamp()
    }
}

impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.timestamp().fmt(f)
    }
}

impl fmt::Debug for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.timestamp().fmt(f)
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

    #[test]
    fn milliseconds_give_back_every_timestamp_in_its_order() {
        let moments = [Timestamp::MIN, "1969-12-31T23:59:59.999Z".parse().unwrap(), Timestamp::UNIX_EPOCH];
        let moments = [&moments[..], &["2026-11-22T07:22:45.123Z".parse().unwrap()]].concat();
        let in_ms: Vec<UnixMs> = moments.iter().map(|&moment| moment.into()).collect();
        assert!(in_ms.is_sorted());
        assert_eq!(in_ms.iter().map(|ms| ms.timestamp()).collect::<Vec<_>>(), moments);
        assert_eq!(UnixMs::from(Timestamp::MAX).timestamp(), Timestamp::MAX);
    }

    #[test]
    fn a_moment_that_may_be_unknown_takes_eight_bytes() {
        assert_eq!(size_of::<Option<UnixMs>>(), 8);
    }
}
