//! One cron expression.
//!
//! croner parses it, set up exactly as tokio-cron-scheduler sets it up, so that whatever is accepted here is accepted there
//! and means the same. croner only sees local time without a zone. The conversion to a moment is made here, because with a
//! zone croner can return a moment earlier than the given one (in the hour that a clock shows twice).
//!
//! [`fields`] finds what croner reports without the name of the field, or not at all.

mod fields;

use chrono::{DateTime, Datelike, MappedLocalTime, NaiveDate, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};
use croner::parser::{CronParser, Seconds};
use croner::{Cron, JobType};

use super::utc_offset;
use crate::domain::characters;

/// No clock change moves a clock back by more.
const MAX_CLOCK_CHANGE: TimeDelta = TimeDelta::hours(3);

/// The number of days in 40 years: every date falls on every weekday at least once, also 29 February.
const ALL_DATES: usize = 14_610;

pub(super) struct Expression {
    /// Six fields, upper case, names of days and months as numbers.
    text: String,
    cron: Cron,
}

/// Why a cron expression is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ExpressionError {
    /// The parser refused it, for this reason.
    #[error("{0:?} is not a cron expression: {1}")]
    Syntax(String, String),
    /// A value is not one of its field.
    #[error("{0:?} is not a cron expression: {1}")]
    Field(String, String),
    /// It contains a character of an input method.
    #[error("{0:?} contains {1}")]
    Character(String, String),
    /// No date matches it, as with 30 February.
    #[error("{0:?} never comes")]
    Never(String),
}

impl Expression {
    pub(super) fn parse(written: &str) -> Result<Self, ExpressionError> {
        let syntax = |reason: String| ExpressionError::Syntax(written.to_owned(), reason);
        if let Some(found) = characters::find_non_ascii(written) {
            return Err(ExpressionError::Character(written.to_owned(), found));
        }
        let fields: Vec<&str> = written.split_whitespace().collect();
        let six_fields = match fields.as_slice() {
            [nickname] if nickname.starts_with('@') => fields.join(" "),
            fields if fields.len() == 5 => format!("0 {}", fields.join(" ")),
            fields if fields.len() == 6 => fields.join(" "),
            [] => return Err(syntax("it is empty".to_owned())),
            [_] => return Err(syntax("it has 1 field".to_owned())),
            // A seventh field would be a year, after which the schedule would silently end.
            fields => return Err(syntax(format!("it has {} fields", fields.len()))),
        };
        if let Some(problem) = fields::problem(&six_fields) {
            return Err(ExpressionError::Field(written.to_owned(), problem));
        }
        let parser = CronParser::builder().seconds(Seconds::Required).dom_and_dow(true).build();
        let cron =
            parser.parse(&six_fields).map_err(|e| syntax(e.to_string().trim_end_matches('.').to_owned()))?;
        let expression = Self { text: cron.pattern.to_string(), cron };
        if expression.comes() { Ok(expression) } else { Err(ExpressionError::Never(written.to_owned())) }
    }

    /// Whether a moment matches. croner would search until the year 5000, which takes a second.
    fn comes(&self) -> bool {
        let first = NaiveDate::from_ymd_opt(2000, 1, 1);
        let mut days = first.into_iter().flat_map(|first| first.iter_days().take(ALL_DATES));
        self.seconds_of_day().next().is_some() && days.any(|day| self.matches_day(day))
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What steps do that are larger than their field.
    pub(super) fn large_steps(&self) -> impl Iterator<Item = String> {
        fields::large_steps(&self.text)
    }

    /// The first moment later than `after` at which the zone's clock shows a matching time.
    pub(super) fn next_after(&self, after: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        let clock = after.with_timezone(&zone).naive_local();
        let ahead = self.first_moment(clock, after, zone)?;
        // The clock may go back between `after` and then, and show times again that it has already shown.
        let soon = after + MAX_CLOCK_CHANGE;
        let goes_back = i64::from(utc_offset(after, zone) - utc_offset(soon, zone));
        let comes_before = ahead <= soon && utc_offset(ahead, zone) == utc_offset(after, zone);
        if goes_back <= 0 || comes_before {
            return Some(ahead);
        }
        let again = self.first_moment(clock - TimeDelta::seconds(goes_back), after, zone);
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

    pub(super) fn matches_day(&self, day: NaiveDate) -> bool {
        let pattern = &self.cron.pattern;
        pattern.month_match(day.month()).unwrap_or(false)
            && pattern.day_match(day.year(), day.month(), day.day()).unwrap_or(false)
    }

    /// The seconds of a matching day at which it ticks.
    pub(super) fn seconds_of_day(&self) -> impl Iterator<Item = usize> {
        let pattern = &self.cron.pattern;
        let matching = |range: u32, matches: &dyn Fn(u32) -> bool| -> Vec<usize> {
            (0..range).filter(|n| matches(*n)).map(|n| n as usize).collect()
        };
        let hours = matching(24, &|hour| pattern.hour_match(hour).unwrap_or(false));
        let minutes = matching(60, &|minute| pattern.minute_match(minute).unwrap_or(false));
        let seconds = matching(60, &|second| pattern.second_match(second).unwrap_or(false));
        let starts = hours
            .into_iter()
            .flat_map(move |hour| minutes.clone().into_iter().map(move |minute| (hour * 60 + minute) * 60));
        starts.flat_map(move |start| seconds.clone().into_iter().map(move |second| start + second))
    }
}

/// The next time after `clock` that the expression matches, on a clock that is never changed.
fn next_on_clock(cron: &Cron, clock: NaiveDateTime) -> Option<NaiveDateTime> {
    cron.find_next_occurrence(&clock.and_utc(), false).ok().map(|next| next.naive_utc())
}
