//! Limits of calls per minute and per day. Pure: the time is an argument.

const MINUTE_MS: i64 = 60_000;
pub(super) const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// Daily quotas reset at midnight in China.
const CHINA_OFFSET_MS: i64 = 8 * 60 * MINUTE_MS;

/// The errcode of a call beyond a limit per day.
pub(super) const DAY_LIMIT_REACHED: i64 = 45009;
/// The errcode of a call beyond a limit per minute.
pub(super) const MINUTE_LIMIT_REACHED: i64 = 45011;

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

    /// Counts one call, or returns an errcode. A call refused by the limit per minute does not use the daily quota.
    pub(super) fn count_call(&mut self, now_ms: i64) -> Result<(), i64> {
        if self.day.left(now_ms) == 0 {
            return Err(DAY_LIMIT_REACHED);
        }
        if let Some(minute) = &mut self.minute {
            minute.count_call(now_ms)?;
        }
        self.day.count_call(now_ms)
    }
}

/// A number of calls per minute, or per day in China.
#[derive(Debug)]
pub(super) struct Quota {
    limit: u64,
    errcode: i64,
    period_ms: i64,
    period: i64,
    used: u64,
}

impl Quota {
    pub(super) fn per_day(limit: u64) -> Self {
        Quota { limit, errcode: DAY_LIMIT_REACHED, period_ms: DAY_MS, period: 0, used: 0 }
    }

    pub(super) fn per_minute(limit: u64) -> Self {
        Quota { limit, errcode: MINUTE_LIMIT_REACHED, period_ms: MINUTE_MS, period: 0, used: 0 }
    }

    /// Counts one call, or returns the errcode if the quota is used up.
    pub(super) fn count_call(&mut self, now_ms: i64) -> Result<(), i64> {
        if self.left(now_ms) == 0 {
            return Err(self.errcode);
        }
        self.used += 1;
        Ok(())
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
        let period = (now_ms + CHINA_OFFSET_MS).div_euclid(self.period_ms);
        if period != self.period {
            (self.period, self.used) = (period, 0);
        }
        self.used
    }
}
