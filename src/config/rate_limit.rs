//! Checks the rate limit `max_requests_per_minute`, and warns about schedules that exceed it.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use super::findings::{Findings, format_duration};
use super::model::OfficialAccountConfig;
use super::setting::Setting;
use super::table::Table;
use crate::domain::{cron::Schedule, quantity::counted};

/// 10,000 calls a second, more than one machine makes for one official account.
const MAX_RATE_LIMIT: usize = 600_000;

/// How many official accounts get a warning of their own; the rest are only counted.
const MAX_WARNINGS: usize = 3;

/// The rate limit of a table, or `default`.
pub(super) fn check_rate_limit(
    setting: Setting<i64>,
    default: Option<NonZeroU32>,
    table: &mut Table<'_>,
) -> Option<NonZeroU32> {
    if setting.is_absent() {
        return default;
    }
    let limit = table.number("max_requests_per_minute", setting, MAX_RATE_LIMIT, 1..=MAX_RATE_LIMIT);
    u32::try_from(limit).ok().and_then(NonZeroU32::new)
}

/// Warns about schedules that need more calls than their rate limit allows.
pub(super) fn warn_of_excess(official_accounts: &[OfficialAccountConfig], findings: &mut Findings) {
    // Counting ticks takes a while, and most official accounts share a schedule.
    let mut ticks: HashMap<&Schedule, u64> = HashMap::new();
    let limited =
        official_accounts.iter().filter_map(|account| Some((account, account.max_requests_per_minute?)));
    let mut excesses = limited.filter_map(|(account, limit)| {
        let schedule = &account.schedule;
        let ticks_per_hour = *ticks.entry(schedule).or_insert_with(|| schedule.ticks_in_busiest_hour());
        excess(account, limit.get().into(), ticks_per_hour)
    });
    findings.warnings.extend(excesses.by_ref().take(MAX_WARNINGS));
    let more = excesses.count();
    if more > 0 {
        findings.warnings.push(format!(
            "the schedules of {} need more calls than max_requests_per_minute allows",
            counted(more as u64, "more official account")
        ));
    }
}

fn excess(account: &OfficialAccountConfig, limit: u64, ticks_per_hour: u64) -> Option<String> {
    let kf_accounts = account.kf_accounts.len() as u64;
    let needed = (ticks_per_hour * kf_accounts).div_ceil(60);
    (needed > limit).then(|| {
        let name = &account.name;
        let every = format_duration(Duration::from_secs((kf_accounts * 60).div_ceil(limit)));
        format!(
            "official account {name:?}: the schedule needs {needed} calls a minute, but max_requests_per_minute is \
             {limit}: each kf account is polled only about every {every}, and the ticks in between are overruns; poll \
             less often, or raise the limit"
        )
    })
}
