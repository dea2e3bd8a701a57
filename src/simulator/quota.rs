//! How many calls are allowed in a minute or in a day. Pure: the time comes in as an argument.

const MINUTE_MS: i64 = 60_000;
/// A day of a quota.
pub(super) const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// Quotas of a day begin anew at midnight in China.
const CHINA_OFFSET_MS: i64 = 8 * 60 * MINUTE_MS;

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Day,
    Minute,
}

impl Refusal {
    pub(super) const fn errcode(self) -> i64 {
        match self {
            Refusal::Day => 45009,
            Refusal::Minute => 45011,
        }
    }
}

/// The limits of one endpoint for one official account.
#[derive(Debug)]
pub(super) struct CallLimits {
    pub(super) day: Quota,
    pub(super) minute: Option<Quota>,
}

impl CallLimits {
    pub(super) fn new(per_day: u64, per_minute: Option<u64>) -> Self {
        CallLimits { day: Quota::per_day(per_day), minute: per_minute.map(Quota::per_minute) }
    }

    /// Counts one call, unless it is refused; a call that is refused for this minute costs nothing of the day.
    pub(super) fn take(&mut self, now_ms: i64) -> Result<(), Refusal> {
        if self.day.left(now_ms) == 0 {
            return Err(Refusal::Day);
        }
        if self.minute.as_mut().is_some_and(|minute| !minute.take(now_ms)) {
            return Err(Refusal::Minute);
        }
        self.day.take(now_ms);
        Ok(())
    }
}

/// So many calls in a minute, or in a day of China.
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

    /// Counts one call, unless the quota is used up.
    pub(super) fn take(&mut self, now_ms: i64) -> bool {
        self.roll(now_ms);
        let allowed = self.used < self.limit;
        self.used += u64::from(allowed);
        allowed
    }

    /// Another limit from now on; what was used stays used.
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
        self.roll(now_ms);
        self.used
    }

    fn roll(&mut self, now_ms: i64) {
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
    fn a_day_ends_at_midnight_in_china() {
        let mut limits = CallLimits::new(1, None);
        assert_eq!(limits.take(LAST_SECOND), Ok(()));
        assert_eq!(limits.take(LAST_SECOND + 999), Err(Refusal::Day));
        assert_eq!(limits.take(LAST_SECOND + 1_000), Ok(()));
    }

    #[test]
    fn what_is_refused_for_a_minute_costs_nothing_of_the_day() {
        let mut limits = CallLimits::new(2, Some(1));
        assert_eq!(limits.take(LAST_SECOND), Ok(()));
        assert_eq!(limits.take(LAST_SECOND), Err(Refusal::Minute));
        assert_eq!(limits.day.used(LAST_SECOND), 1);
    }
}
