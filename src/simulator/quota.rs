//! Limits of calls per minute and per day. Pure: the time is an argument.

const MINUTE_MS: i64 = 60_000;
pub(super) const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// Daily quotas reset at midnight in China.
const CHINA_OFFSET_MS: i64 = 8 * 60 * MINUTE_MS;

/// The quota that refuses a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QuotaExceeded {
    Day,
    Minute,
}

impl QuotaExceeded {
    pub(super) const fn errcode(self) -> i64 {
        match self {
            QuotaExceeded::Day => 45009,
            QuotaExceeded::Minute => 45011,
        }
    }
}

/// The limits of one official account for one endpoint.
#[derive(Debug)]
pub(super) struct CallLimits {
    pub(super) day: Quota,
    pub(super) minute: Option<Quota>,
}

impl CallLimits {
    pub(super) fn new(per_day: u64, per_minute: Option<u64>) -> Self {
        CallLimits { day: Quota::per_day(per_day), minute: per_minute.map(Quota::per_minute) }
    }

    /// Counts one call, unless it is refused. A call refused by the limit per minute does not use the daily quota.
    pub(super) fn count_call(&mut self, now_ms: i64) -> Result<(), QuotaExceeded> {
        if self.day.left(now_ms) == 0 {
            return Err(QuotaExceeded::Day);
        }
        if self.minute.as_mut().is_some_and(|minute| !minute.try_use(now_ms)) {
            return Err(QuotaExceeded::Minute);
        }
        self.day.try_use(now_ms);
        Ok(())
    }
}

/// A number of calls per minute, or per day in China.
#[derive(Debug)]
pub(super) struct Quota {
    limit: u64,
    period_ms: i64,
    period: i64,
    used: u64,
}

impl Quota {
    pub(super) fn per_day(limit: u64) -> Self {
        Quota { limit, period_ms: DAY_MS, period: 0, used: 0 }
    }

    pub(super) fn per_minute(limit: u64) -> Self {
        Quota { limit, period_ms: MINUTE_MS, period: 0, used: 0 }
    }

    /// Counts one call and returns true, unless the quota is used up.
    pub(super) fn try_use(&mut self, now_ms: i64) -> bool {
        self.start_period(now_ms);
        let allowed = self.used < self.limit;
        self.used += u64::from(allowed);
        allowed
    }

    /// Changes the limit. Earlier calls still count.
    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    pub(super) fn left(&mut self, now_ms: i64) -> u64 {
        self.limit.saturating_sub(self.used(now_ms))
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn used(&mut self, now_ms: i64) -> u64 {
        self.start_period(now_ms);
        self.used
    }

    fn start_period(&mut self, now_ms: i64) {
        let period = (now_ms + CHINA_OFFSET_MS).div_euclid(self.period_ms);
        if period != self.period {
            self.period = period;
            self.used = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-22T15:59:59Z: the last second of the day in China.
    const LAST_SECOND: i64 = 1_795_363_199_000;

    #[test]
    fn day_ends_at_midnight_in_china() {
        let mut limits = CallLimits::new(1, None);
        assert_eq!(limits.count_call(LAST_SECOND), Ok(()));
        assert_eq!(limits.count_call(LAST_SECOND + 999), Err(QuotaExceeded::Day));
        assert_eq!(limits.count_call(LAST_SECOND + 1_000), Ok(()));
    }

    #[test]
    fn call_refused_per_minute_keeps_daily_quota() {
        let mut limits = CallLimits::new(2, Some(1));
        assert_eq!(limits.count_call(LAST_SECOND), Ok(()));
        assert_eq!(limits.count_call(LAST_SECOND), Err(QuotaExceeded::Minute));
        assert_eq!(limits.day.used(LAST_SECOND), 1);
    }
}
