//! Checks `max_requests_per_minute`, and warns where a schedule asks for more than it lets through.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use super::OfficialAccount;
use super::locate::Key;
use super::report::{Report, friendly};
use super::setting::Setting;
use crate::domain::cron::Schedule;

/// The highest limit: 10,000 calls a second, more than one machine makes for one official account.
const MOST: usize = 600_000;

/// How many official accounts are warned of one by one.
const MAX_WARNINGS: usize = 3;

/// The limit in the table at `at`, or the one that it inherits.
pub(super) fn request_limit(
    at: &Key<'_>,
    setting: Setting<i64>,
    inherited: Option<NonZeroU32>,
    report: &mut Report,
) -> Option<NonZeroU32> {
    if setting.is_absent() {
        return inherited;
    }
    let limit = report.number(&at.name("max_requests_per_minute"), setting, MOST, 1..=MOST);
    u32::try_from(limit).ok().and_then(NonZeroU32::new)
}

/// Warns of schedules that their limit keeps from being followed.
pub(super) fn warn_of_excess(official_accounts: &[OfficialAccount], report: &mut Report) {
    // Most official accounts share a schedule, and reckoning with one takes a while.
    let mut ticks: HashMap<&Schedule, u64> = HashMap::new();
    let limited =
        official_accounts.iter().filter_map(|account| Some((account, account.max_requests_per_minute?)));
    let mut excesses = limited.filter_map(|(account, limit)| {
        let schedule = &account.schedule;
        let ticks_an_hour = *ticks.entry(schedule).or_insert_with(|| schedule.ticks_in_busiest_hour());
        excess(account, limit.get().into(), ticks_an_hour)
    });
    let told: Vec<String> = excesses.by_ref().take(MAX_WARNINGS).collect();
    let more = excesses.count();
    told.into_iter().for_each(|warning| report.warn(warning));
    if more > 0 {
        report.warn(format!(
            "the schedules of {more} more official accounts ask for more calls than max_requests_per_minute lets through"
        ));
    }
}

fn excess(account: &OfficialAccount, limit: u64, ticks_an_hour: u64) -> Option<String> {
    let kf_accounts = account.kf_accounts.len() as u64;
    let asked = (ticks_an_hour * kf_accounts).div_ceil(60);
    (asked > limit).then(|| {
        let name = &account.name;
        let every = friendly(Duration::from_secs((kf_accounts * 60).div_ceil(limit)));
        format!(
            "official account {name:?}: the schedule asks for {asked} calls a minute, max_requests_per_minute lets {limit} \
             through: each kf account is polled about once in {every}, and the ticks between are overruns; poll less \
             often, or raise the limit"
        )
    })
}
