//! Time, as the other modules receive it.
//!
//! A [`Moment`] contains both clocks of a machine: the wall clock, for people and events, and the monotonic clock, for
//! durations. Backoff uses the monotonic clock, so that setting the wall clock back by an hour does not delay polls by an
//! hour.

use std::{fmt, num::NonZeroU64, time::Duration};

use jiff::{SignedDuration, Timestamp, TimestampRound, Unit};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock, in UTC.
    pub wall: Timestamp,
    /// Time since some fixed point of this process.
    pub monotonic: Duration,
}

impl Moment {
    /// The wall clock rounded down to the millisecond: a lower bound of this moment.
    pub fn floor_ms(&self) -> UnixMs {
        round_to_ms(self.wall, jiff::RoundMode::Floor).into()
    }

    /// The wall clock rounded up to the millisecond: an upper bound of this moment.
    pub fn ceil_ms(&self) -> UnixMs {
        round_to_ms(self.wall, jiff::RoundMode::Ceil).into()
    }

    /// The time that has passed since `earlier`; zero if `earlier` is later.
    pub fn since(&self, earlier: &Moment) -> Duration {
        self.monotonic.saturating_sub(earlier.monotonic)
    }

    /// By how much the wall clock is ahead of the monotonic one. It changes when the wall clock is set, and grows while the
    /// machine sleeps.
    pub fn wall_offset(&self) -> SignedDuration {
        let monotonic = SignedDuration::try_from(self.monotonic).unwrap_or(SignedDuration::MAX);
        self.wall.as_duration().saturating_sub(monotonic)
    }

    /// What the wall clock, as it is set now, would have shown at `earlier`.
    pub(crate) fn wall_at(&self, earlier: MonotonicTime) -> Moment {
        let monotonic = earlier.since_origin();
        let wall = self.wall.checked_sub(self.monotonic.saturating_sub(monotonic));
        Moment { wall: wall.unwrap_or(Timestamp::MIN), monotonic }
    }
}

/// A time of the monotonic clock in whole microseconds. It takes eight bytes, also in an `Option`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonotonicTime(NonZeroU64);

impl MonotonicTime {
    fn since_origin(self) -> Duration {
        Duration::from_micros(self.0.get() - 1)
    }
}

/// Rounds down to the microsecond.
impl From<Moment> for MonotonicTime {
    fn from(moment: Moment) -> Self {
        let us = u64::try_from(moment.monotonic.as_micros()).unwrap_or(u64::MAX);
        Self(NonZeroU64::MIN.saturating_add(us))
    }
}

/// A moment for tests, this many seconds after both clocks started.
#[cfg(test)]
pub(crate) fn at(seconds: u64) -> Moment {
    let since_start = Duration::from_secs(seconds);
    Moment { wall: Timestamp::UNIX_EPOCH + since_start, monotonic: since_start }
}

/// A time of the wall clock in whole milliseconds. It takes eight bytes, also in an `Option`. An optional [`Timestamp`]
/// takes 24 bytes, which is too much for state that is kept for each of many accounts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(NonZeroU64);

impl UnixMs {
    /// From milliseconds since the UNIX epoch; negative before it.
    fn new(ms: i64) -> Self {
        // Counted from `i64::MIN`, which is earlier than any timestamp: the order stays the same, and zero does not occur.
        Self(NonZeroU64::new(ms.abs_diff(i64::MIN)).unwrap_or(NonZeroU64::MIN))
    }

    /// One millisecond before.
    pub(crate) fn previous(self) -> Self {
        Self(NonZeroU64::new(self.0.get() - 1).unwrap_or(NonZeroU64::MIN))
    }

    /// Converts it to a [`Timestamp`].
    pub fn timestamp(self) -> Timestamp {
        let ms = i64::MIN.wrapping_add_unsigned(self.0.get());
        // It was converted from a timestamp. Only the last supported second is out of range for milliseconds.
        Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
    }
}

/// Rounds down to the millisecond.
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

/// The source of moments: the machine's clocks in the daemon, a simulated day in tests.
pub trait Clock: Send + Sync + 'static {
    /// The current moment.
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
    fn floor_and_ceil_enclose_moment() {
        let wall: Timestamp = "2026-11-22T07:22:45.1234567Z".parse().unwrap();
        let moment = Moment { wall, monotonic: Duration::ZERO };
        assert_eq!(moment.floor_ms().to_string(), "2026-11-22T07:22:45.123Z");
        assert_eq!(moment.ceil_ms().to_string(), "2026-11-22T07:22:45.124Z");
    }

    #[test]
    fn milliseconds_keep_value_and_order_of_timestamps() {
        let moments = [Timestamp::MIN, "1969-12-31T23:59:59.999Z".parse().unwrap(), Timestamp::UNIX_EPOCH];
        let moments = [&moments[..], &["2026-11-22T07:22:45.123Z".parse().unwrap()]].concat();
        let in_ms: Vec<UnixMs> = moments.iter().map(|&moment| moment.into()).collect();
        assert!(in_ms.is_sorted());
        assert_eq!(in_ms.iter().map(|ms| ms.timestamp()).collect::<Vec<_>>(), moments);
        assert_eq!(UnixMs::from(Timestamp::MAX).timestamp(), Timestamp::MAX);
    }

    #[test]
    fn optional_times_take_eight_bytes() {
        assert_eq!(size_of::<Option<UnixMs>>(), 8);
        assert_eq!(size_of::<Option<MonotonicTime>>(), 8);
    }

    #[test]
    fn earlier_time_is_shown_by_the_clock_as_it_is_set_now() {
        let (earlier, mut now) = (at(1000), at(1060));
        assert_eq!(now.wall_at(earlier.into()), earlier);
        now.wall -= Duration::from_secs(3600);
        assert_eq!(now.wall_offset(), SignedDuration::from_hours(-1));
        assert_eq!(now.wall.duration_since(now.wall_at(earlier.into()).wall), SignedDuration::from_secs(60));
    }
}
