//! The time zone in which people read and write times: `poll.timezone`.
//!
//! Programs get times in UTC. The names of zones come from chrono-tz, as in [`cron`](super::cron), so that a slim image needs no
//! database of time zones.

use std::fmt;

use chrono::{MappedLocalTime, NaiveDate, NaiveDateTime, TimeZone};
use chrono_tz::{GapInfo, Tz};
use jiff::{Timestamp, civil::DateTime, tz::Offset};

use super::cron::{to_chrono, utc_offset};

/// A time zone for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalZone(Tz);

impl LocalZone {
    /// Coordinated universal time.
    pub const UTC: Self = Self(Tz::UTC);

    /// The zone with this IANA name.
    pub fn named(name: &str) -> Option<Self> {
        name.parse().ok().map(Self)
    }

    /// What a clock in this zone shows at that moment.
    pub fn clock_at(self, moment: impl Into<Timestamp>) -> DateTime {
        let moment = moment.into();
        let seconds = to_chrono(moment).map_or(0, |moment| utc_offset(moment, self.0));
        Offset::from_seconds(seconds).unwrap_or(Offset::UTC).to_datetime(moment)
    }

    /// When a clock in this zone shows this time: first, if it shows it twice. The end of the gap, if a clock change skips it.
    pub fn moment_of(self, clock: DateTime) -> Option<Timestamp> {
        let clock = to_naive(clock)?;
        let moment = match self.0.from_local_datetime(&clock) {
            MappedLocalTime::Single(moment) | MappedLocalTime::Ambiguous(moment, _) => moment,
            MappedLocalTime::None => GapInfo::new(&clock, &self.0)?.end?,
        };
        Timestamp::from_second(moment.timestamp()).ok()
    }

    /// A time to the second, for a table or a line: `2026-11-28 09:00:00`.
    pub fn show(self, moment: impl Into<Timestamp>) -> String {
        self.clock_at(moment).strftime("%F %T").to_string()
    }

    /// [`show`](Self::show) beside another time: without the date if both have the same.
    pub fn show_beside(self, moment: Timestamp, other: Timestamp) -> String {
        let [clock, other] = [moment, other].map(|moment| self.clock_at(moment));
        clock.strftime(if clock.date() == other.date() { "%T" } else { "%F %T" }).to_string()
    }

    /// [`show`](Self::show) for a time that is written in RFC 3339. Another text is returned as it is.
    pub fn show_text(self, rfc3339: &str) -> String {
        rfc3339.parse::<Timestamp>().map_or_else(|_| rfc3339.to_owned(), |moment| self.show(moment))
    }
}

/// For schedules, whose official account may have a zone of its own.
impl From<Tz> for LocalZone {
    fn from(zone: Tz) -> Self {
        Self(zone)
    }
}

impl fmt::Display for LocalZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

fn to_naive(clock: DateTime) -> Option<NaiveDateTime> {
    let [year, month, day] = [i32::from(clock.year()), clock.month().into(), clock.day().into()];
    let [hour, minute, second] =
        [clock.hour(), clock.minute(), clock.second()].map(i8::unsigned_abs).map(u32::from);
    NaiveDate::from_ymd_opt(year, month.unsigned_abs(), day.unsigned_abs())?.and_hms_opt(hour, minute, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> LocalZone {
        LocalZone::named(name).unwrap()
    }

    #[test]
    fn times_are_shown_to_the_second_in_the_zone() {
        let at = "2026-11-28T16:30:59.987Z";
        assert_eq!(zone("Asia/Shanghai").show_text(at), "2026-11-29 00:30:59");
        assert_eq!(zone("Europe/Berlin").show_text("2026-07-01T10:00:00Z"), "2026-07-01 12:00:00");
        assert_eq!(zone("UTC").show_text(at), "2026-11-28 16:30:59");
        assert_eq!(zone("UTC").show_text("no time"), "no time");
        let [first, second] = ["2026-11-28T15:59:59Z", "2026-11-28T16:00:00Z"].map(|at| at.parse().unwrap());
        assert_eq!(zone("UTC").show_beside(second, first), "16:00:00");
        assert_eq!(zone("Asia/Shanghai").show_beside(second, first), "2026-11-29 00:00:00");
    }

    #[test]
    fn clock_changes_have_one_moment_each() {
        let moment = |text: &str| zone("Europe/Berlin").moment_of(text.parse().unwrap()).unwrap().to_string();
        for (clock, expected) in [
            ("2026-11-28T09:00", "2026-11-28T08:00:00Z"),
            ("2026-10-25T02:30", "2026-10-25T00:30:00Z"),
            ("2026-03-29T02:30", "2026-03-29T01:00:00Z"),
        ] {
            assert_eq!(moment(clock), expected, "{clock}");
        }
    }
}
