//! Checks schedules: cron expressions and a time zone.

use std::slice;

use super::mistake::quote_with;
use super::table::Table;
use crate::domain::closest::closest;
use crate::domain::cron::{self, ExpressionError, Schedule, ScheduleError};

/// How many expressions one schedule may have.
pub(super) const MAX_EXPRESSIONS: usize = 16;

/// China's time zone.
const SHANGHAI: &str = "Asia/Shanghai";

/// What people write for China's time zone. The database has no other city in that zone but Urumqi.
const CHINA: [&str; 14] = [
    "asia/beijing",
    "asia/peking",
    "asia/shenzhen",
    "asia/guangzhou",
    "beijing",
    "china",
    "cst",
    "gmt+8",
    "gmt+08:00",
    "utc+8",
    "utc+08:00",
    "+08:00",
    "北京",
    "中国",
];

/// Cron expressions and a time zone, not yet parsed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct CronText {
    pub(super) expressions: Vec<String>,
    pub(super) timezone: String,
}

impl Default for CronText {
    fn default() -> Self {
        Self { expressions: vec!["*/15 * * * * *".to_owned()], timezone: SHANGHAI.to_owned() }
    }
}

impl CronText {
    pub(super) fn parse(&self) -> Result<Schedule, ScheduleError> {
        Schedule::parse(&self.expressions, &self.timezone)
    }
}

/// Reports what is wrong with a schedule, at the keys of the table that causes it.
pub(super) fn report_mistakes(schedule: &CronText, table: &mut Table<'_>) {
    for expression in &schedule.expressions {
        if let Err(ScheduleError::Expression(error)) = Schedule::parse(slice::from_ref(expression), SHANGHAI)
        {
            let remedy = match error {
                ExpressionError::Never(_) => "; write a date that exists",
                ExpressionError::Syntax(..) => "; write five or six fields, for example \"*/15 * * * * *\"",
                ExpressionError::Field(..) | ExpressionError::Character(..) => "",
            };
            table.wrong("schedule", format!("{error}{remedy}"));
        }
    }
    if let Err(ScheduleError::Timezone(name)) = Schedule::parse(&[], &schedule.timezone) {
        table.wrong("timezone", unknown_timezone(&name));
    }
}

/// Warns of steps of the table's schedule that are larger than their field.
pub(super) fn warn_of_large_steps(schedule: &Schedule, table: &mut Table<'_>) {
    for step in schedule.large_steps() {
        table.warn("schedule", &step);
    }
}

fn unknown_timezone(name: &str) -> String {
    let problem = match similar_timezone(&name.to_lowercase()) {
        Some(similar) => format!("is not a time zone; did you mean {similar:?}?"),
        None => format!("is not a time zone; write a name such as {SHANGHAI:?}"),
    };
    quote_with(name, &problem)
}

/// The time zone that was probably meant: with other capitals, with a typing error, or only its city. `name` is in lower case.
fn similar_timezone(name: &str) -> Option<&'static str> {
    if CHINA.contains(&name) {
        return Some(SHANGHAI);
    }
    let names = || cron::timezone_names().map(|zone| (zone.to_lowercase(), zone));
    let find = |wanted: &str| names().find(|(lower, _)| lower == wanted).map(|(_, zone)| zone);
    let city = |zone: &str| zone.rsplit('/').next().unwrap_or_default().to_owned();
    let wanted = name.replace(' ', "_");
    let exact =
        find(&wanted).or_else(|| names().find(|(lower, _)| city(lower) == wanted).map(|(_, zone)| zone));
    exact.or_else(|| {
        let lower: Vec<String> = names().map(|(lower, _)| lower).collect();
        let candidates: Vec<&str> = lower.iter().map(String::as_str).collect();
        find(closest(&wanted, &candidates)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelled_time_zones_are_recognized() {
        for (name, expected) in [
            ("Asia/Shanghi", Some(SHANGHAI)),
            ("asia/shanghai", Some(SHANGHAI)),
            ("Shanghai", Some(SHANGHAI)),
            ("Asia/Beijing", Some(SHANGHAI)),
            ("UTC+8", Some(SHANGHAI)),
            ("Asia/Urumuqi", Some("Asia/Urumqi")),
            ("new york", Some("America/New_York")),
            ("Mars/Olympus", None),
        ] {
            assert_eq!(similar_timezone(&name.to_lowercase()), expected, "{name}");
        }
    }
}
