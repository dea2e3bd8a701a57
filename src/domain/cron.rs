//! Cron schedules in a time zone: when the next tick is.
//!
//! A schedule keeps its local hours when the clocks change. A fixed time of day that a change skips, such as 02:30, ticks at
//! the end of the gap; one that the clock shows twice ticks the first time. Repeating patterns, such as every 15 minutes,
//! follow the clock: they tick whenever it shows a matching time.
//!
//! Everything here is pure: the time is an argument, and no job is registered or run. The cron syntax is in
//! [`expression`]. chrono, the clock type of the cron parser, is used in these two files and in [`local_time`](super::local_time) only.

mod expression;

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use chrono::{DateTime, Days, NaiveDate, Offset, TimeZone, Utc};
use chrono_tz::Tz;
use jiff::Timestamp;

use self::expression::Expression;
pub use self::expression::ExpressionError;

const SECONDS_A_DAY: usize = 24 * 60 * 60;

/// Of a leap year.
const DAYS_A_YEAR: u64 = 366;

/// One or more cron expressions, read in one time zone.
///
/// Cheap to clone. Two schedules are equal when they have the same zone and the same expressions, in any order.
#[derive(Clone)]
pub struct Schedule {
    expressions: Arc<[Expression]>,
    timezone: Tz,
}

/// Why a schedule is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ScheduleError {
    /// One of the expressions is invalid.
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    /// No time zone has this name.
    #[error("{0:?} is not a time zone")]
    Timezone(String),
}

impl Schedule {
    /// Parses cron expressions of six fields, the first being seconds, or of five, which mean second 0, and the IANA name
    /// of a time zone.
    pub fn parse(expressions: &[String], timezone: &str) -> Result<Self, ScheduleError> {
        let timezone = timezone.parse().map_err(|_| ScheduleError::Timezone(timezone.to_owned()))?;
        let mut parsed = expressions.iter().map(|e| Expression::parse(e)).collect::<Result<Vec<_>, _>>()?;
        parsed.sort_by(|a, b| a.text().cmp(b.text()));
        parsed.dedup_by(|a, b| a.text() == b.text());
        Ok(Self { expressions: parsed.into(), timezone })
    }

    /// What steps do that are larger than their field, such as `*/90` for the second. They are accepted, and surprise.
    pub fn large_steps(&self) -> impl Iterator<Item = String> {
        self.expressions.iter().flat_map(Expression::large_steps)
    }

    /// The expressions as tokio-cron-scheduler needs them: six fields, sorted, without duplicates.
    pub fn expressions(&self) -> impl ExactSizeIterator<Item = &str> {
        self.expressions.iter().map(Expression::text)
    }

    /// The zone in which the expressions are read.
    pub fn timezone(&self) -> Tz {
        self.timezone
    }

    /// The first tick later than `after`; `None` when the calendar ends first.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let after = to_chrono(after)?;
        let next = self.expressions.iter().filter_map(|e| e.next_after(after, self.timezone)).min()?;
        Timestamp::from_second(next.timestamp()).ok()
    }

    /// The most ticks on a local day of the year that begins with the day of `from`.
    ///
    /// A search for each tick would be too slow. The fields of an expression do not depend on each other, so all days that the same
    /// expressions match have the same ticks. These are marked in a table of the day's seconds, where ticks that several
    /// expressions share coincide. Clock changes are not taken into account.
    pub fn ticks_on_busiest_day(&self, from: Timestamp) -> u64 {
        let Some(first) = to_chrono(from).map(|t| t.with_timezone(&self.timezone).date_naive()) else {
            return 0;
        };
        let days = (0..DAYS_A_YEAR).filter_map(|n| first.checked_add_days(Days::new(n)));
        let matching = |day| -> Vec<bool> { self.expressions.iter().map(|e| e.matches_day(day)).collect() };
        let kinds_of_days: HashSet<Vec<bool>> = days.map(matching).collect();
        let ticks = kinds_of_days.iter().map(|matches| {
            let expressions = self.expressions.iter().zip(matches).filter(|(_, matches)| **matches);
            mark_ticks(expressions.map(|(expression, _)| expression)).into_iter().filter(|tick| *tick).count()
        });
        ticks.max().unwrap_or(0) as u64
    }

    /// The most ticks in an hour, as if all expressions matched on one day.
    pub fn ticks_in_busiest_hour(&self) -> u64 {
        let ticks = mark_ticks(self.expressions.iter());
        let hours = ticks.chunks(SECONDS_A_DAY / 24).map(|hour| hour.iter().filter(|tick| **tick).count());
        hours.max().unwrap_or(0) as u64
    }

    /// How many ticks come after `from` and not after `until`, at the UTC offset of `from`.
    pub fn ticks_between(&self, from: Timestamp, until: Timestamp) -> u64 {
        let offset = i64::from(self.offset_at(from));
        let (first, last) = (from.as_second() + offset, until.as_second() + offset);
        let a_day = SECONDS_A_DAY as i64;
        let days = first.div_euclid(a_day)..=last.div_euclid(a_day);
        let ticks = days.filter_map(|day| {
            let midnight = day * a_day;
            let ticks = self.ticks_of(DateTime::from_timestamp(midnight, 0)?.date_naive());
            let within = (midnight..).zip(ticks).filter(|&(at, tick)| tick && first < at && at <= last);
            Some(within.count() as u64)
        });
        ticks.sum()
    }

    /// For each second of a local day, whether it is a tick.
    fn ticks_of(&self, day: NaiveDate) -> Vec<bool> {
        mark_ticks(self.expressions.iter().filter(|e| e.matches_day(day)))
    }

    /// By how many seconds the zone's clock is ahead of UTC at that moment. tokio-cron-scheduler keeps the offset of the
    /// moment at which a job was registered, so a job must be registered again when this changes.
    pub fn offset_at(&self, at: Timestamp) -> i32 {
        to_chrono(at).map_or(0, |at| utc_offset(at, self.timezone))
    }
}

/// The names of all time zones.
pub fn timezone_names() -> impl Iterator<Item = &'static str> {
    chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name())
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.expressions()).finish()?;
        write!(f, " in {}", self.timezone)
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.timezone == other.timezone && self.expressions().eq(other.expressions())
    }
}

impl Eq for Schedule {}

impl Hash for Schedule {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.timezone.hash(state);
        self.expressions().for_each(|e| e.hash(state));
    }
}

fn mark_ticks<'a>(expressions: impl Iterator<Item = &'a Expression>) -> Vec<bool> {
    let mut ticks = vec![false; SECONDS_A_DAY];
    expressions.flat_map(Expression::seconds_of_day).for_each(|second| ticks[second] = true);
    ticks
}

pub(super) fn utc_offset(at: DateTime<Utc>, zone: Tz) -> i32 {
    zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc()
}

/// The whole second in which the moment lies: ticks are whole seconds, so a later one is later than the moment too.
pub(super) fn to_chrono(at: Timestamp) -> Option<DateTime<Utc>> {
    let nanoseconds = at.as_nanosecond();
    let seconds = i64::try_from(nanoseconds.div_euclid(1_000_000_000)).ok()?;
    DateTime::from_timestamp(seconds, 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(expression: &str, timezone: &str) -> Schedule {
        Schedule::parse(&[expression.to_owned()], timezone).unwrap()
    }

    /// The ticks that follow `from`, as local time with its offset.
    #[track_caller]
    fn check_ticks(expression: &str, from: &str, expected: &[&str]) {
        let schedule = schedule(expression, "Europe/Berlin");
        let mut at: Timestamp = from.parse().unwrap();
        let next = |_: &&str| {
            at = schedule.next_after(at).unwrap();
            let local = to_chrono(at).unwrap().with_timezone(&schedule.timezone());
            local.format("%dT%H:%M:%S%z").to_string()
        };
        assert_eq!(expected.iter().map(next).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn seconds_field_ticks_within_a_minute() {
        check_ticks(
            "*/15 * * * * *",
            "2026-11-22T07:00:14.5+01:00",
            &["22T07:00:15+0100", "22T07:00:30+0100", "22T07:00:45+0100", "22T07:01:00+0100"],
        );
    }

    #[test]
    fn local_hour_is_kept_when_clocks_change() {
        check_ticks(
            "0 0 8 * * *",
            "2026-03-28T00:00+01:00",
            &["28T08:00:00+0100", "29T08:00:00+0200", "30T08:00:00+0200"],
        );
        check_ticks(
            "0 0 8 * * *",
            "2026-10-24T00:00+02:00",
            &["24T08:00:00+0200", "25T08:00:00+0100", "26T08:00:00+0100"],
        );
    }

    #[test]
    fn skipped_fixed_time_ticks_at_end_of_gap() {
        check_ticks("0 30 2 * * *", "2026-03-28T12:00+01:00", &["29T03:00:00+0200", "30T02:30:00+0200"]);
    }

    #[test]
    fn repeating_pattern_skips_the_gap() {
        check_ticks(
            "0 */30 * * * *",
            "2026-03-29T01:00+01:00",
            &["29T01:30:00+0100", "29T03:00:00+0200", "29T03:30:00+0200"],
        );
    }

    #[test]
    fn repeated_fixed_time_ticks_once() {
        check_ticks("0 30 2 * * *", "2026-10-24T12:00+02:00", &["25T02:30:00+0200", "26T02:30:00+0100"]);
    }

    #[test]
    fn repeating_pattern_ticks_through_the_repeated_hour() {
        check_ticks(
            "0 */30 * * * *",
            "2026-10-25T01:50+02:00",
            &[
                "25T02:00:00+0200",
                "25T02:30:00+0200",
                "25T02:00:00+0100",
                "25T02:30:00+0100",
                "25T03:00:00+0100",
            ],
        );
        check_ticks(
            "* * * * * *",
            "2026-10-25T02:59:58+02:00",
            &["25T02:59:59+0200", "25T02:00:00+0100", "25T02:00:01+0100"],
        );
        check_ticks("0 30 2,14 * * *", "2026-10-25T02:30+02:00", &["25T02:30:00+0100", "25T14:30:00+0100"]);
    }

    #[test]
    fn utc_offset_changes_with_the_clock() {
        let berlin = schedule("0 0 8 * * *", "Europe/Berlin");
        assert_eq!(berlin.offset_at("2026-10-25T00:59:59Z".parse().unwrap()), 7200);
        assert_eq!(berlin.offset_at("2026-10-25T01:00:00Z".parse().unwrap()), 3600);
        assert_eq!(schedule("0 0 8 * * *", "Asia/Shanghai").offset_at(Timestamp::UNIX_EPOCH), 28_800);
    }

    #[test]
    fn earliest_of_several_expressions_is_next() {
        let both = ["0 30 9 * * *".to_owned(), "0 0 9 * * *".to_owned()];
        let schedule = Schedule::parse(&both, "UTC").unwrap();
        let next = schedule.next_after("2026-11-22T08:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(next.to_string(), "2026-11-22T09:00:00Z");
    }

    #[test]
    fn expressions_are_normalized_to_six_fields() {
        for (written, six_fields) in [
            ("*/5 * * * *", "0 */5 * * * *"),
            ("  */15  * * * *   mon-fri ", "*/15 * * * * 1-5"),
            ("@hourly", "0 0 * * * *"),
        ] {
            assert_eq!(schedule(written, "UTC").expressions().collect::<Vec<_>>(), [six_fields]);
        }
    }

    #[test]
    fn schedules_with_the_same_expressions_and_zone_are_equal() {
        let hash = |s: &Schedule| {
            let mut hasher = std::hash::DefaultHasher::new();
            s.hash(&mut hasher);
            hasher.finish()
        };
        let (a, b) = ("0 0 9 * * *".to_owned(), "30 8 * * *".to_owned());
        let one = Schedule::parse(&[a.clone(), b.clone()], "UTC").unwrap();
        let other = Schedule::parse(&[b.clone(), a, b], "UTC").unwrap();
        assert_eq!(one, other);
        assert_eq!(hash(&one), hash(&other));
        assert_ne!(schedule("@daily", "UTC"), schedule("@daily", "Asia/Shanghai"));
    }

    #[test]
    fn busiest_day_counts_the_expressions_that_match_it() {
        let from = "2026-11-22T07:00:00Z".parse().unwrap();
        for (expression, ticks) in [
            ("* * * * * *", 86_400),
            ("*/15 * * * * *", 5_760),
            ("0 9-17 * * mon-fri", 9),
            ("0 0 1 12 *", 1),
            ("0 0 * * 1", 1),
            ("0 0 29 2 *", 0),
        ] {
            assert_eq!(
                schedule(expression, "Asia/Shanghai").ticks_on_busiest_day(from),
                ticks,
                "{expression}"
            );
        }
        let overlapping = ["0 * * * * *".to_owned(), "*/30 * * * * *".to_owned()];
        assert_eq!(Schedule::parse(&overlapping, "UTC").unwrap().ticks_on_busiest_day(from), 2_880);
        let on_different_days = ["0 9-17 * * 1-5".to_owned(), "0 10-12 * * 6,0".to_owned()];
        assert_eq!(Schedule::parse(&on_different_days, "UTC").unwrap().ticks_on_busiest_day(from), 9);
    }

    #[test]
    fn busiest_hour_counts_all_expressions() {
        let ticks = |expressions: &[&str]| {
            let expressions: Vec<String> = expressions.iter().map(|&e| e.to_owned()).collect();
            Schedule::parse(&expressions, "UTC").unwrap().ticks_in_busiest_hour()
        };
        assert_eq!(ticks(&["* * * * * *"]), 3_600);
        assert_eq!(ticks(&["*/30 * 8-20 * * *", "0 */5 * * * *"]), 120);
        assert_eq!(ticks(&["0 0 * * 1"]), 1);
    }

    #[test]
    fn invalid_schedule_is_refused_with_reason() {
        let parse = |expression: &str, zone: &str| {
            Schedule::parse(&[expression.to_owned()], zone).map(|_| ()).unwrap_err().to_string()
        };
        for (expression, message) in [
            ("", "\"\" is not a cron expression: it is empty"),
            ("hourly", "\"hourly\" is not a cron expression: it has 1 field"),
            ("* * *", "\"* * *\" is not a cron expression: it has 3 fields"),
            ("0 0 0 1 1 * 2030", "\"0 0 0 1 1 * 2030\" is not a cron expression: it has 7 fields"),
            ("0 0 30 2 *", "\"0 0 30 2 *\" never comes"),
            ("0 0 L * +", "\"0 0 L * +\" never comes"),
        ] {
            assert_eq!(parse(expression, "UTC"), message);
        }
        let out_of_range =
            "\"61 * * * * *\" is not a cron expression: the second is 61, but goes from 0 to 59";
        assert_eq!(parse("61 * * * * *", "UTC"), out_of_range);
        assert_eq!(
            parse("*／15 * * * * *", "UTC"),
            "\"*／15 * * * * *\" contains a full-width sign at character 2; type / instead"
        );
        assert_eq!(parse("* * * * *", "Mars/Olympus"), "\"Mars/Olympus\" is not a time zone");
    }

    #[test]
    fn ticks_between_equals_repeated_next_after() {
        let from: Timestamp = "2026-11-22T07:00:00Z".parse().unwrap();
        for expression in ["*/15 * * * * *", "0 9-17 * * mon-fri", "30 59 23 * * *", "0 0 0 1 * *"] {
            let schedule = schedule(expression, "Asia/Shanghai");
            for hours in [0, 1, 9, 48] {
                let until = from + jiff::SignedDuration::from_hours(hours);
                let next = |tick: &Timestamp| schedule.next_after(*tick);
                let ticks = std::iter::successors(next(&from), next).take_while(|tick| *tick <= until);
                assert_eq!(
                    schedule.ticks_between(from, until),
                    ticks.count() as u64,
                    "{expression}, {hours} h"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn parser_never_panics(text in "[-0-9*/,?#LWw@+a-zü ]{0,24}") {
            let _ = Schedule::parse(&[text], "UTC");
        }

        #[test]
        fn next_tick_is_later_and_none_lies_between(
            seconds in 1_700_000_000_i64..1_900_000_000,
            before_change in proptest::option::of(0_i64..14_400),
            expression in prop::sample::select(vec![
                "*/15 * * * * *", "0 30 2 * * *", "0 0 */2 * * *", "0 */20 1-3 * * *", "30 59 2 * * 0", "0 0 0 1 * *",
            ]),
            zone in prop::sample::select(vec!["Europe/Berlin", "Asia/Shanghai", "Australia/Lord_Howe", "America/New_York"]),
        ) {
            let seconds = before_change.map_or(seconds, |s| 1_792_890_000 - s); // Berlin's clock goes back
            let schedule = schedule(expression, zone);
            let at = Timestamp::from_second(seconds).unwrap();
            let next = schedule.next_after(at).unwrap();
            prop_assert!(next > at);
            let between = Timestamp::from_second(at.as_second().midpoint(next.as_second())).unwrap();
            if between < next {
                prop_assert_eq!(schedule.next_after(between), Some(next));
            }
        }
    }
}
