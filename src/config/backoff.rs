//! Checks `[backoff]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use config::ValueKind;

use super::locate::Key;
use super::raw::{self, BackoffWaits};
use super::report::{Report, friendly};
use super::setting::{Leaf, Setting};
use crate::domain::backoff::{BackoffPolicy, ExponentialBackoff};

/// What a wait may grow to: failures are asked about again at least once a day, for ever.
const LONGEST: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

pub(super) fn policy(keys: raw::Backoff, report: &mut Report) -> BackoffPolicy {
    let root = Key::root(0);
    let at = root.name("backoff");
    let defaults = BackoffPolicy::default();
    let mut wait = |name, setting, default| check_wait(&at.name(name), setting, default, report);
    let backoff_policy = BackoffPolicy {
        token_rejected: wait("token_rejected", keys.token_rejected, defaults.token_rejected),
        busy: wait("busy", keys.busy, defaults.busy),
        address_not_allowed: wait(
            "address_not_allowed",
            keys.address_not_allowed,
            defaults.address_not_allowed,
        ),
        not_authorized: wait("not_authorized", keys.not_authorized, defaults.not_authorized),
        not_enabled: wait("not_enabled", keys.not_enabled, defaults.not_enabled),
        unbound: wait("unbound", keys.unbound, defaults.unbound),
        bad_request: wait("bad_request", keys.bad_request, defaults.bad_request),
        unknown: wait("unknown", keys.unknown, defaults.unknown),
        day_quota: defaults.day_quota,
    };
    let key = at.name("day_quota");
    BackoffPolicy {
        day_quota: report.duration(&key, keys.day_quota, defaults.day_quota, LONGEST),
        ..backoff_policy
    }
}

fn check_wait(
    key: &Key<'_>,
    setting: Setting<BackoffWaits>,
    default: ExponentialBackoff,
    report: &mut Report,
) -> ExponentialBackoff {
    let Some(BackoffWaits { first, longest }) = report.take(key, setting) else { return default };
    let [first_text, longest_text, least, most] =
        [first, longest, *LONGEST.start(), *LONGEST.end()].map(friendly);
    let mistake = match ExponentialBackoff::try_new(first, longest) {
        _ if !LONGEST.contains(&longest) => format!(
            "{longest_text} is out of range; write a longest wait from {least} to {most}, and a first one from 0s"
        ),
        Ok(backoff) => return backoff,
        Err(_) => format!(
            "the first wait, {first_text}, is longer than the longest, {longest_text}; write the shorter one first"
        ),
    };
    report.wrong(key, mistake);
    default
}

/// The first and the longest wait, or one for both.
impl Leaf for BackoffWaits {
    fn read(value: ValueKind) -> Result<Self, String> {
        let ValueKind::Array(values) = value else {
            return Duration::read(value).map(|wait| Self { first: wait, longest: wait });
        };
        let waits = values.into_iter().map(|value| Duration::read(value.kind)).collect::<Result<Vec<_>, _>>();
        match waits.map_err(|problem| format!("one of the list {problem}"))?[..] {
            [first, longest] => Ok(Self { first, longest }),
            ref others => Err(format!(
                "has {} elements; write the first and the longest wait, like [\"10s\", \"2m\"], or one for both",
                others.len()
            )),
        }
    }
}
