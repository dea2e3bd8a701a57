//! What tells schedules apart.

use std::{cmp::Ordering, time::Duration};

use super::cron::Schedule;

/// Identifies a schedule: its expressions, its time zone, and over which time after a tick its polls are spread. Official
/// accounts with the same key share their ticks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScheduleKey {
    /// The expressions and the time zone.
    pub schedule: Schedule,
    /// The time after a tick over which its polls are spread.
    pub spread: Duration,
}

impl Ord for ScheduleKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (&self.schedule, &other.schedule);
        let zones = || a.timezone().name().cmp(b.timezone().name());
        a.expressions().cmp(b.expressions()).then_with(zones).then(self.spread.cmp(&other.spread))
    }
}

impl PartialOrd for ScheduleKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_by_expressions_zone_and_spread() {
        let key = |expression: &str, zone, seconds| ScheduleKey {
            schedule: Schedule::parse(&[expression.to_owned()], zone).unwrap(),
            spread: Duration::from_secs(seconds),
        };
        let keys = [
            key("@hourly", "Asia/Shanghai", 5),
            key("@hourly", "UTC", 0),
            key("@hourly", "UTC", 5),
            key("0 0 9 * * *", "UTC", 0),
        ];
        for (n, a) in keys.iter().enumerate() {
            for (m, b) in keys.iter().enumerate() {
                assert_eq!((a == b, a.cmp(b)), (n == m, n.cmp(&m)), "{a:?} {b:?}");
            }
        }
        assert_eq!(key("0 * * * *", "UTC", 0), key("@hourly", "UTC", 0));
    }
}
