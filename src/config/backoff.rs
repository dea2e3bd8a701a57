//! Checks `[backoff]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use config::ValueKind;

use super::findings::format_duration;
use super::raw::{self, BackoffTimes};
use super::setting::{Section, Setting, SettingValue};
use super::table::Table;
use crate::domain::backoff::{BackoffPolicy, ExponentialBackoff};

/// The range of a longest wait. The upper limit ensures that every failure is retried at least once a day.
const LONGEST: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

pub(super) fn check_backoff(section: Section<raw::Backoff>, backoff: &mut Table<'_>) -> BackoffPolicy {
    let keys = backoff.keys(section).unwrap_or_default();
    let defaults = BackoffPolicy::default();
    let day_quota = backoff.duration("day_quota", keys.day_quota, defaults.day_quota, LONGEST);
    let mut times = |name, setting, default| check_times(name, setting, default, backoff);
    BackoffPolicy {
        token_rejected: times("token_rejected", keys.token_rejected, defaults.token_rejected),
        busy: times("busy", keys.busy, defaults.busy),
        day_quota,
        address_not_allowed: times(
            "address_not_allowed",
            keys.address_not_allowed,
            defaults.address_not_allowed,
        ),
        not_authorized: times("not_authorized", keys.not_authorized, defaults.not_authorized),
        not_enabled: times("not_enabled", keys.not_enabled, defaults.not_enabled),
        unbound: times("unbound", keys.unbound, defaults.unbound),
        bad_request: times("bad_request", keys.bad_request, defaults.bad_request),
        unknown: times("unknown", keys.unknown, defaults.unknown),
    }
}

fn check_times(
    name: &str,
    setting: Setting<BackoffTimes>,
    default: ExponentialBackoff,
    backoff: &mut Table<'_>,
) -> ExponentialBackoff {
    let Some(BackoffTimes { first, longest }) = backoff.take(name, setting) else { return default };
    let [first_text, longest_text, least, most] =
        [first, longest, *LONGEST.start(), *LONGEST.end()].map(format_duration);
    let problem = match ExponentialBackoff::try_new(first, longest) {
        _ if !LONGEST.contains(&longest) => format!(
            "{longest_text} is out of range; write a longest wait from {least} to {most}, and a first one from 0s"
        ),
        Some(backoff) => return backoff,
        None => format!(
            "the first wait, {first_text}, is longer than the longest, {longest_text}; write the shorter one first"
        ),
    };
    backoff.wrong(name, problem);
    default
}

/// The first and the longest wait, or one value for both.
impl SettingValue for BackoffTimes {
    fn from_value(value: ValueKind) -> Result<Self, String> {
        let ValueKind::Array(values) = value else {
            return Duration::from_value(value).map(|backoff| Self { first: backoff, longest: backoff });
        };
        let backoffs: Result<Vec<_>, _> =
            values.into_iter().map(|value| Duration::from_value(value.kind)).collect();
        match backoffs.map_err(|problem| format!("one element {problem}"))?[..] {
            [first, longest] => Ok(Self { first, longest }),
            ref others => Err(format!(
                "has {} elements; write the first and the longest wait, like [\"10s\", \"2m\"], or one for both",
                others.len()
            )),
        }
    }
}
