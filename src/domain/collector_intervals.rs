//! How often each collector collects, and when it is due next.

use std::time::Duration;

use super::agents::Collector;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The interval of each collector; `None` turns it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is for the collector of its name")]
pub struct CollectorIntervals {
    pub kf_list: Option<Duration>,
    pub online: Option<Duration>,
    pub waiting: Option<Duration>,
    pub quota: Option<Duration>,
}

impl CollectorIntervals {
    /// All collectors turned off.
    pub const OFF: Self = Self { kf_list: None, online: None, waiting: None, quota: None };

    /// The interval of one collector.
    pub fn get(&self, collector: Collector) -> Option<Duration> {
        match collector {
            Collector::KfList => self.kf_list,
            Collector::Online => self.online,
            Collector::Waiting => self.waiting,
            Collector::Quota => self.quota,
        }
    }

    /// How many calls a day the collectors make for one official account.
    pub fn calls_a_day(&self) -> u64 {
        let intervals = Collector::ALL.into_iter().filter_map(|collector| self.get(collector));
        // Rounded up: an interval of a week makes a call on some day.
        intervals.map(|interval| DAY.as_millis().div_ceil(interval.as_millis().max(1)) as u64).sum()
    }
}

/// The first time at this offset within an interval that is at least half an interval after `now`. All times are on the
/// monotonic clock.
pub fn next_due(now: Duration, interval: Duration, offset: Duration) -> Duration {
    first_due(now + interval / 2, interval, offset)
}

/// The first time at this offset within an interval that is not before `earliest`.
pub fn first_due(earliest: Duration, interval: Duration, offset: Duration) -> Duration {
    let intervals = earliest.saturating_sub(offset).as_nanos().div_ceil(interval.as_nanos().max(1));
    offset + interval.saturating_mul(u32::try_from(intervals).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn calls_a_day_are_summed_over_collectors() {
        let on = CollectorIntervals {
            kf_list: Some(Duration::from_secs(300)),
            online: Some(Duration::from_secs(60)),
            waiting: Some(Duration::from_secs(60)),
            quota: Some(Duration::from_secs(3600)),
        };
        assert_eq!(on.calls_a_day(), 288 + 1440 + 1440 + 24);
        let off = CollectorIntervals { kf_list: None, online: None, waiting: None, quota: None };
        assert_eq!(off.calls_a_day(), 0);
        assert_eq!(CollectorIntervals { quota: Some(7 * DAY), ..off }.calls_a_day(), 1);
    }

    proptest! {
        #[test]
        fn collections_keep_their_offset_and_distance(
            now_ms in 0..10_000_000_000u64, interval_s in 10..604_800u64, fraction in 0.0..=1.0f64,
        ) {
            let (now, interval) = (Duration::from_millis(now_ms), Duration::from_secs(interval_s));
            let offset = interval.mul_f64(fraction);
            let next = next_due(now, interval, offset);
            prop_assert!(next >= now + interval / 2);
            prop_assert!(next < now + interval / 2 + interval + offset.saturating_sub(now));
            prop_assert_eq!((next - offset).as_nanos() % interval.as_nanos(), 0);
            let first = first_due(now, interval, offset);
            prop_assert!(now <= first && first <= now + interval);
            prop_assert_eq!((first - offset).as_nanos() % interval.as_nanos(), 0);
            // From one collection on time to the next it is one interval.
            prop_assert_eq!(next_due(next, interval, offset), next + interval);
        }
    }
}
