//! The start of a time range, as people write it: a moment, a local date or time, or an age.

use std::time::Duration;

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, DateTime, Time},
};

use crate::{config, domain::local_time::LocalZone};

/// What `--since` accepts.
const FORMS: &str = "write a date, a time or both in poll.timezone, like \"2026-11-28\", \"2026-11-28 09:00\" or \"09:00\"; \
                     an age, like \"2h\" or \"7d\"; or a moment, like \"2026-11-28T01:00:00Z\"";

/// The start of a time range, before the time zone is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SinceArg {
    At(Timestamp),
    Local(DateTime),
    /// The last time that the clock showed this.
    TimeOfDay(Time),
    Ago(Duration),
}

/// Parses the argument.
pub(super) fn since(text: &str) -> Result<SinceArg, String> {
    let text = text.trim();
    if let Ok(at) = text.parse() {
        return Ok(SinceArg::At(at));
    }
    // jiff also reads "2026-11-28T09" and the like.
    if let Some(age) = config::parse_duration(text) {
        return Ok(SinceArg::Ago(age));
    }
    let is_local = text.chars().all(|c| c.is_ascii_digit() || "-: T".contains(c)) && text.len() >= 5;
    let local = || match text.contains('-') {
        true => text
            .parse::<DateTime>()
            .or_else(|_| text.parse::<Date>().map(DateTime::from))
            .ok()
            .map(SinceArg::Local),
        false => text.parse::<Time>().ok().map(SinceArg::TimeOfDay),
    };
    is_local.then(local).flatten().ok_or_else(|| FORMS.to_owned())
}

impl SinceArg {
    /// The moment, for a person in this zone at `now`.
    pub(super) fn resolve(self, zone: LocalZone, now: Timestamp) -> Timestamp {
        let resolved = match self {
            Self::At(at) => Some(at),
            Self::Local(clock) => zone.moment_of(clock),
            Self::Ago(age) => now.checked_sub(age).ok(),
            Self::TimeOfDay(time) => {
                let today = zone.clock_at(now).date();
                let at = zone.moment_of(today.to_datetime(time)).filter(|at| *at <= now);
                at.or_else(|| zone.moment_of(today.checked_sub(1.day()).ok()?.to_datetime(time)))
            }
        };
        resolved.unwrap_or(Timestamp::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_resolved_in_the_zone() {
        let now: Timestamp = "2026-11-29T01:30:00Z".parse().unwrap(); // 09:30 in Shanghai
        let zone = LocalZone::named("Asia/Shanghai").unwrap();
        for (text, expected) in [
            ("2026-11-28", "2026-11-27T16:00:00Z"),
            ("2026-11-28 09:00", "2026-11-28T01:00:00Z"),
            ("2026-11-28 09:00:30", "2026-11-28T01:00:30Z"),
            ("2026-11-28T09:00", "2026-11-28T01:00:00Z"),
            ("09:00", "2026-11-29T01:00:00Z"),
            ("23:15", "2026-11-28T15:15:00Z"),
            ("2h", "2026-11-28T23:30:00Z"),
            ("7d", "2026-11-22T01:30:00Z"),
            ("2026-11-28T01:00:00Z", "2026-11-28T01:00:00Z"),
            ("2026-11-28T09:00:00+08:00", "2026-11-28T01:00:00Z"),
        ] {
            let moment = since(text).map(|since| since.resolve(zone, now).to_string());
            assert_eq!(moment.as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "yesterday", "25:00", "2026-13-01", "28.11.2026", "9", "2026-11-28 9 o'clock"] {
            assert_eq!(since(text), Err(FORMS.to_owned()), "{text}");
        }
    }
}
