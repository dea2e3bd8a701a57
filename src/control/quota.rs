//! Whether WeChat's daily quota of getsessionlist is large enough for a schedule.

use jiff::Timestamp;

use super::report::Problem;
use crate::domain::{agents::Quota, cron::Schedule, quantity::grouped, remedy::Remedy};

/// Quotas are counted by days in China, whose offset has not changed since 1991.
const CHINA_UTC_OFFSET_SECONDS: i64 = 8 * 3600;

pub(super) const SECONDS_PER_DAY: i64 = 24 * 3600;

const QUOTA_TOO_SMALL: Remedy = Remedy {
    en: "poll less often (poll.schedule, or the official account's own), or watch fewer of its kf accounts",
    zh: "请降低轮询频率（poll.schedule 或该公众号自己的 schedule），或减少所监控的客服帐号",
};
const QUOTA_RUNS_OUT: Remedy = Remedy {
    en: "until midnight in China: poll less often, clear the quota in the console, or find out who else makes these calls",
    zh: "请在北京时间零点前降低轮询频率、在后台清零额度，或查明还有谁在调用该接口",
};

/// How often a schedule ticks.
#[derive(Clone, Copy)]
pub(super) struct TickCounts {
    pub(super) busiest_day: u64,
    /// Until midnight in China.
    pub(super) rest_of_day: u64,
}

impl TickCounts {
    pub(super) fn new(schedule: &Schedule, now: Timestamp) -> Self {
        let since_midnight = (now.as_second() + CHINA_UTC_OFFSET_SECONDS).rem_euclid(SECONDS_PER_DAY);
        let midnight = Timestamp::from_second(now.as_second() - since_midnight + SECONDS_PER_DAY);
        Self {
            busiest_day: schedule.ticks_on_busiest_day(now),
            rest_of_day: midnight.map_or(0, |midnight| schedule.ticks_between(now, midnight)),
        }
    }
}

pub(super) fn quota_problem(quota: &Quota, calls_per_day: u64, calls_today: u64) -> Option<Problem> {
    let Quota { limit, remaining, .. } = *quota;
    if calls_per_day > limit {
        let error = format!(
            "this configuration makes {} calls of getsessionlist on its busiest day, and WeChat allows {} a day",
            grouped(calls_per_day),
            grouped(limit)
        );
        return Some(Problem::for_human("quota_too_small", error, QUOTA_TOO_SMALL));
    }
    (calls_today > remaining).then(|| {
        let error = format!(
            "this configuration makes {} more calls of getsessionlist today, and WeChat allows {} more",
            grouped(calls_today),
            grouped(remaining)
        );
        Problem::for_human("quota_runs_out", error, QUOTA_RUNS_OUT)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(limit: u64, remaining: u64) -> Quota {
        Quota { limit, used: None, remaining }
    }

    #[test]
    fn quota_is_compared_with_calls_per_day_and_today() {
        let check = |quota, per_day, today| quota_problem(&quota, per_day, today).map(|problem| problem.code);
        assert_eq!(check(quota(5760, 5760), 5760, 5760), None);
        assert_eq!(check(quota(5759, 5759), 5760, 10).as_deref(), Some("quota_too_small"));
        assert_eq!(check(quota(5760, 9), 5760, 10).as_deref(), Some("quota_runs_out"));
        assert_eq!(check(quota(5760, 0), 5760, 0), None);
    }

    #[test]
    fn rest_of_day_ends_at_midnight_in_china() {
        let schedule = Schedule::parse(&["0 */10 * * * *".to_owned()], "Europe/Berlin").unwrap();
        let ticks = TickCounts::new(&schedule, "2026-11-22T15:00:00Z".parse().unwrap());
        assert_eq!((ticks.busiest_day, ticks.rest_of_day), (144, 6));
        let ticks = TickCounts::new(&schedule, "2026-11-22T16:00:00Z".parse().unwrap());
        assert_eq!(ticks.rest_of_day, 144);
    }
}
