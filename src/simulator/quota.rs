//! Limits of calls per day. Pure: the time is an argument.

pub(super) const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// Daily quotas reset at midnight in China.
const CHINA_OFFSET_MS: i64 = 8 * 60 * 60 * 1_000;

/// The errcode of a call beyond its limit.
pub(super) const DAY_LIMIT_REACHED: i64 = 45009;

/// A number of calls per day in China.
#[derive(Debug)]
pub(super) struct DayQuota {
    pub(super) limit: u64,
    day: i64,
    used: u64,
}

impl DayQuota {
    pub(super) fn new(limit: u64) -> Self {
        DayQuota { limit, day: 0, used: 0 }
    }

    /// Counts one call, or returns the errcode if the quota is used up.
    pub(super) fn count_call(&mut self, now_ms: i64) -> Result<(), i64> {
        if self.used(now_ms) >= self.limit {
            return Err(DAY_LIMIT_REACHED);
        }
        self.used += 1;
        Ok(())
    }

    pub(super) fn used(&mut self, now_ms: i64) -> u64 {
        let day = (now_ms + CHINA_OFFSET_MS).div_euclid(DAY_MS);
        if day != self.day {
            (self.day, self.used) = (day, 0);
        }
        self.used
    }
}
