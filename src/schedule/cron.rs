//! Cron expressions in a time zone: when the next tick is.
//!
//! Everything here is pure: the time is an argument. An expression is parsed by croner, set up exactly as
//! tokio-cron-scheduler sets it up, so that whatever is accepted here is accepted there and means the same. croner
//! only ever sees wall-clock time without a zone; the step from wall clock to moment is made here, because in a zone
//! croner can answer with a moment before the one it was asked about (in the hour that a clock shows twice).
//!
//! A schedule keeps its local hours when the clocks change. A time of day that a change skips (one fixed time, such as
//! 02:30) ticks at the end of the gap; one that the clock shows twice ticks the first time. Repeating patterns, such as
//! every 15 minutes, follow the clock: they tick whenever it shows a matching time.
//!
//! Nothing here registers or runs a job. chrono, croner's clock type, does not leave this file.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use chrono::{DateTime, Datelike, Days, MappedLocalTime, NaiveDateTime, Offset, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};
use croner::parser::{CronParser, Seconds};
use croner::{Cron, JobType};
use jiff::Timestamp;

/// How many expressions one schedule may have.
pub const MAX_EXPRESSIONS: usize = 16;

/// Farther ahead than any clock change puts a clock back, in seconds.
const LONGEST_PUT_BACK: i64 = 3 * 60 * 60;

const SECONDS_A_DAY: usize = 24 * 60 * 60;

/// When to poll: one or more cron expressions, read in one time zone.
///
/// Cheap to clone. Two schedules are equal when they have the same expressions, in whatever order, and the same zone;
/// one job serves all equal schedules.
#[derive(Clone)]
pub struct Schedule {
    expressions: Arc<[Expression]>,
    timezone: Tz,
}

/// Why a schedule is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ScheduleError {
    /// There is no expression at all.
    #[error("there is no cron expression")]
    Empty,
    /// More than [`MAX_EXPRESSIONS`].
    #[error("there are {0} cron expressions, and {MAX_EXPRESSIONS} are the most")]
    TooMany(usize),
    /// This is no cron expression.
    #[error("{expression:?} is not a cron expression: {reason}")]
    Syntax {
        /// As it was written.
        expression: String,
        /// What the parser says of it.
        reason: String,
    },
    /// A cron expression whose time never comes, such as 30 February.
    #[error("{0:?} never comes")]
    Never(String),
    /// No time zone of this name is known.
    #[error("{0:?} is not a time zone")]
    Timezone(String),
}

impl Schedule {
    /// Reads cron expressions of six fields, the first being seconds, or of five, which mean second 0, and the IANA name
    /// of a time zone.
    pub fn parse(expressions: &[String], timezone: &str) -> Result<Self, ScheduleError> {
        let timezone = timezone.parse().map_err(|_| ScheduleError::Timezone(timezone.to_owned()))?;
        match expressions.len() {
            0 => return Err(ScheduleError::Empty),
            n if n > MAX_EXPRESSIONS => return Err(ScheduleError::TooMany(n)),
            _ => {}
        }
        let mut parsed = expressions.iter().map(|e| Expression::parse(e)).collect::<Result<Vec<_>, _>>()?;
        parsed.sort_by(|a, b| a.text.cmp(&b.text));
        parsed.dedup_by(|a, b| a.text == b.text);
        Ok(Self { expressions: parsed.into(), timezone })
    }

    /// The expressions as the scheduler needs them: six fields, sorted, none twice.
    pub fn expressions(&self) -> impl ExactSizeIterator<Item = &str> {
        self.expressions.iter().map(|e| e.text.as_str())
    }

    /// The zone in which the expressions are read.
    pub fn timezone(&self) -> Tz {
        self.timezone
    }

    /// The first tick later than `after`; `None` when the calendar ends before it.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let after = to_chrono(after)?;
        let next = self.expressions.iter().filter_map(|e| e.next_after(after, self.timezone)).min()?;
        Timestamp::from_second(next.timestamp()).ok()
    }

    /// How many ticks a day has, as the average over the seven local days that begin with that of `from`, rounded up.
    ///
    /// Ticks are not walked through one by one, which for a tick a second would be 604,800 searches: the fields of an
    /// expression do not depend on each other, so a day that matches has the same times of day as every other. They are
    /// marked in a table of the day's seconds, where ticks that several expressions share fall together. Changes of the
    /// clock are left out of account.
    pub fn ticks_per_day(&self, from: Timestamp) -> u64 {
        let Some(first) = to_chrono(from).map(|t| t.with_timezone(&self.timezone).date_naive()) else {
            return 0;
        };
        let days = (0..7).filter_map(|n| first.checked_add_days(Days::new(n)));
        let ticks: usize = days
            .map(|day| {
                let mut ticks = vec![false; SECONDS_A_DAY];
                for expression in self.expressions.iter().filter(|e| e.matches_day(day)) {
                    expression.mark_ticks(&mut ticks);
                }
                ticks.into_iter().filter(|tick| *tick).count()
            })
            .sum();
        ticks.div_ceil(7) as u64
    }

    /// The most ticks that an hour of the clock has, as if all expressions came on one day.
    pub fn ticks_in_busiest_hour(&self) -> u64 {
        let mut ticks = vec![false; SECONDS_A_DAY];
        for expression in self.expressions.iter() {
            expression.mark_ticks(&mut ticks);
        }
        let hours = ticks.chunks(SECONDS_A_DAY / 24).map(|hour| hour.iter().filter(|tick| **tick).count());
        hours.max().unwrap_or(0) as u64
    }

    /// By how many seconds the zone's clock is ahead of UTC at that moment. A scheduler that keeps the offset of the moment
    /// at which a job was registered has to be told of it again when this changes.
    pub fn offset_at(&self, at: Timestamp) -> i32 {
        to_chrono(at).map_or(0, |at| offset(at, self.timezone))
    }
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

struct Expression {
    /// Six fields, upper case, names of days and months as numbers.
    text: String,
    cron: Cron,
}

impl Expression {
    fn parse(written: &str) -> Result<Self, ScheduleError> {
        let syntax = |reason: String| ScheduleError::Syntax { expression: written.to_owned(), reason };
        let fields: Vec<&str> = written.split_whitespace().collect();
        let six_fields = match fields.as_slice() {
            [nickname] if nickname.starts_with('@') => fields.join(" "),
            fields if fields.len() == 5 => format!("0 {}", fields.join(" ")),
            fields if fields.len() == 6 => fields.join(" "),
            [] => return Err(syntax("it is empty".to_owned())),
            [_] => return Err(syntax("it has 1 field".to_owned())),
            // A seventh field would be a year: a schedule that ends unnoticed.
            fields => return Err(syntax(format!("it has {} fields", fields.len()))),
        };
        let parser = CronParser::builder().seconds(Seconds::Required).dom_and_dow(true).build();
        let cron =
            parser.parse(&six_fields).map_err(|e| syntax(e.to_string().trim_end_matches('.').to_owned()))?;
        // Without a year no expression can have had its last time, so any moment will do to look from.
        if next_on_clock(&cron, DateTime::UNIX_EPOCH.naive_utc()).is_none() {
            return Err(ScheduleError::Never(written.to_owned()));
        }
        Ok(Self { text: cron.pattern.to_string(), cron })
    }

    /// The first moment later than `after` at which the zone's clock shows a matching time.
    fn next_after(&self, after: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        let clock = after.with_timezone(&zone).naive_local();
        let ahead = self.first_moment(clock, after, zone)?;
        // The clock may be put back between now and then, and show times again that it has shown already.
        let soon = after + chrono::TimeDelta::seconds(LONGEST_PUT_BACK);
        let put_back = i64::from(offset(after, zone) - offset(soon, zone));
        let undisturbed = ahead <= soon && offset(ahead, zone) == offset(after, zone);
        if put_back <= 0 || undisturbed {
            return Some(ahead);
        }
        let again = self.first_moment(clock - chrono::TimeDelta::seconds(put_back), after, zone);
        again.into_iter().chain([ahead]).min()
    }

    /// Of the matching times that the clock shows after `clock`, the first one whose moment is later than `after`.
    fn first_moment(&self, clock: NaiveDateTime, after: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        let mut clock = clock;
        loop {
            clock = next_on_clock(&self.cron, clock)?;
            let moments = match (zone.from_local_datetime(&clock), self.cron.determine_job_type()) {
                (MappedLocalTime::Single(moment), _) => [Some(moment), None],
                (MappedLocalTime::Ambiguous(first, _), JobType::FixedTime) => [Some(first), None],
                (MappedLocalTime::Ambiguous(first, second), JobType::IntervalWildcard) => {
                    [Some(first), Some(second)]
                }
                (MappedLocalTime::None, JobType::FixedTime) => {
                    [GapInfo::new(&clock, &zone).and_then(|g| g.end), None]
                }
                (MappedLocalTime::None, JobType::IntervalWildcard) => [None, None],
            };
            if let Some(moment) = moments.into_iter().flatten().map(|m| m.to_utc()).find(|m| *m > after) {
                return Some(moment);
            }
        }
    }

    fn matches_day(&self, day: chrono::NaiveDate) -> bool {
        let pattern = &self.cron.pattern;
        pattern.month_match(day.month()).unwrap_or(false)
            && pattern.day_match(day.year(), day.month(), day.day()).unwrap_or(false)
    }

    fn mark_ticks(&self, day: &mut [bool]) {
        let pattern = &self.cron.pattern;
        let seconds: Vec<usize> =
            (0..60).filter(|s| pattern.second_match(*s).unwrap_or(false)).map(|s| s as usize).collect();
        for hour in (0..24).filter(|h| pattern.hour_match(*h).unwrap_or(false)) {
            for minute in (0..60).filter(|m| pattern.minute_match(*m).unwrap_or(false)) {
                let start = (hour * 60 + minute) as usize * 60;
                seconds.iter().filter_map(|s| start.checked_add(*s)).for_each(|tick| day[tick] = true);
            }
        }
    }
}

/// The next time after `clock` that the expression matches, on a clock that is never changed.
fn next_on_clock(cron: &Cron, clock: NaiveDateTime) -> Option<NaiveDateTime> {
    cron.find_next_occurrence(&clock.and_utc(), false).ok().map(|next| next.naive_utc())
}

fn offset(at: DateTime<Utc>, zone: Tz) -> i32 {
    zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc()
}

/// The whole second in which the moment lies: ticks are whole seconds, so a later one is later than the moment too.
fn to_chrono(at: Timestamp) -> Option<DateTime<Utc>> {
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
        let mut ticks = Vec::new();
        for _ in expected {
            let next = schedule.next_after(at).unwrap();
            assert!(next > at, "{next} is not after {at}");
            ticks.push(
                to_chrono(next)
                    .unwrap()
                    .with_timezone(&schedule.timezone())
                    .format("%dT%H:%M:%S%z")
                    .to_string(),
            );
            at = next;
        }
        assert_eq!(ticks, expected);
    }

    #[test]
    fn ticks_come_every_quarter_of_a_minute() {
        check_ticks(
            "*/15 * * * * *",
            "2026-11-22T07:00:14.5+01:00",
            &["22T07:00:15+0100", "22T07:00:30+0100", "22T07:00:45+0100", "22T07:01:00+0100"],
        );
    }

    #[test]
    fn the_next_tick_is_never_the_moment_asked_about() {
        check_ticks("*/15 * * * * *", "2026-11-22T07:00:15+01:00", &["22T07:00:30+0100"]);
    }

    #[test]
    fn local_hours_are_kept_when_the_clock_is_put_forward() {
        check_ticks(
            "0 0 8 * * *",
            "2026-03-28T00:00+01:00",
            &["28T08:00:00+0100", "29T08:00:00+0200", "30T08:00:00+0200"],
        );
    }

    #[test]
    fn local_hours_are_kept_when_the_clock_is_put_back() {
        check_ticks(
            "0 0 8 * * *",
            "2026-10-24T00:00+02:00",
            &["24T08:00:00+0200", "25T08:00:00+0100", "26T08:00:00+0100"],
        );
    }

    #[test]
    fn a_fixed_time_that_is_skipped_ticks_at_the_end_of_the_gap() {
        check_ticks("0 30 2 * * *", "2026-03-28T12:00+01:00", &["29T03:00:00+0200", "30T02:30:00+0200"]);
    }

    #[test]
    fn a_repeating_pattern_passes_over_the_gap() {
        check_ticks(
            "0 */30 * * * *",
            "2026-03-29T01:00+01:00",
            &["29T01:30:00+0100", "29T03:00:00+0200", "29T03:30:00+0200"],
        );
    }

    #[test]
    fn a_fixed_time_that_is_shown_twice_ticks_once() {
        check_ticks("0 30 2 * * *", "2026-10-24T12:00+02:00", &["25T02:30:00+0200", "26T02:30:00+0100"]);
    }

    #[test]
    fn a_repeating_pattern_ticks_through_the_hour_that_is_shown_twice() {
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
    fn the_offset_changes_with_the_clock() {
        let berlin = schedule("0 0 8 * * *", "Europe/Berlin");
        assert_eq!(berlin.offset_at("2026-10-25T00:59:59Z".parse().unwrap()), 7200);
        assert_eq!(berlin.offset_at("2026-10-25T01:00:00Z".parse().unwrap()), 3600);
        assert_eq!(schedule("0 0 8 * * *", "Asia/Shanghai").offset_at(Timestamp::UNIX_EPOCH), 28_800);
    }

    #[test]
    fn the_earliest_of_several_expressions_is_next() {
        let both = ["0 30 9 * * *".to_owned(), "0 0 9 * * *".to_owned()];
        let schedule = Schedule::parse(&both, "UTC").unwrap();
        let next = schedule.next_after("2026-11-22T08:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(next.to_string(), "2026-11-22T09:00:00Z");
    }

    #[test]
    fn expressions_are_brought_to_six_fields() {
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
    fn ticks_a_day_are_counted_over_a_week() {
        let from = "2026-11-22T07:00:00Z".parse().unwrap();
        for (expression, ticks) in [
            ("* * * * * *", 86_400),
            ("*/15 * * * * *", 5_760),
            ("0 9-17 * * mon-fri", 7), // 45 a week
            ("0 0 * * 1", 1),
            ("0 0 29 2 *", 0),
        ] {
            assert_eq!(schedule(expression, "Asia/Shanghai").ticks_per_day(from), ticks, "{expression}");
        }
        let overlapping = ["0 * * * * *".to_owned(), "*/30 * * * * *".to_owned()];
        assert_eq!(Schedule::parse(&overlapping, "UTC").unwrap().ticks_per_day(from), 2_880);
    }

    #[test]
    fn the_busiest_hour_is_counted_over_all_expressions() {
        let ticks = |expressions: &[&str]| {
            let expressions: Vec<String> = expressions.iter().map(|&e| e.to_owned()).collect();
            Schedule::parse(&expressions, "UTC").unwrap().ticks_in_busiest_hour()
        };
        assert_eq!(ticks(&["* * * * * *"]), 3_600);
        assert_eq!(ticks(&["*/30 * 8-20 * * *", "0 */5 * * * *"]), 120);
        assert_eq!(ticks(&["0 0 * * 1"]), 1);
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_reason() {
        let parse = |expression: &str, zone: &str| {
            Schedule::parse(&[expression.to_owned()], zone).map(|_| ()).unwrap_err().to_string()
        };
        for (expression, message) in [
            ("", "\"\" is not a cron expression: it is empty"),
            ("hourly", "\"hourly\" is not a cron expression: it has 1 field"),
            ("* * *", "\"* * *\" is not a cron expression: it has 3 fields"),
            ("0 0 0 1 1 * 2030", "\"0 0 0 1 1 * 2030\" is not a cron expression: it has 7 fields"),
            ("0 0 30 2 *", "\"0 0 30 2 *\" never comes"),
        ] {
            assert_eq!(parse(expression, "UTC"), message);
        }
        assert!(parse("61 * * * * *", "UTC").starts_with("\"61 * * * * *\" is not a cron expression: "));
        assert_eq!(parse("* * * * *", "Mars/Olympus"), "\"Mars/Olympus\" is not a time zone");
        assert_eq!(Schedule::parse(&[], "UTC"), Err(ScheduleError::Empty));
        assert_eq!(
            Schedule::parse(&vec!["* * * * *".to_owned(); 17], "UTC"),
            Err(ScheduleError::TooMany(17))
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[-0-9*/,?#LWw@+a-zü ]{0,24}") {
            let _ = Schedule::parse(&[text], "UTC");
        }

        #[test]
        fn a_tick_is_later_than_the_moment_asked_about_and_no_tick_lies_between(
            seconds in 1_700_000_000_i64..1_900_000_000,
            before_change in proptest::option::of(0_i64..14_400),
            expression in prop::sample::select(vec![
                "*/15 * * * * *", "0 30 2 * * *", "0 0 */2 * * *", "0 */20 1-3 * * *", "30 59 2 * * 0", "0 0 0 1 * *",
            ]),
            zone in prop::sample::select(vec!["Europe/Berlin", "Asia/Shanghai", "Australia/Lord_Howe", "America/New_York"]),
        ) {
            let seconds = before_change.map_or(seconds, |s| 1_792_890_000 - s); // Berlin puts its clock back
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
