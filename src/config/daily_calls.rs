//! Counts the calls that a configuration makes.

use std::collections::HashMap;

use super::model::Config;
use crate::domain::cron::Schedule;

const MINUTES_PER_DAY: u64 = 24 * 60;

/// How many calls of getsessionlist an official account's schedule makes on its busiest day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DailyCalls {
    pub(crate) per_kf_account: u64,
    /// What the rate limit allows for all kf accounts together, if there is one.
    pub(crate) limit: Option<u64>,
}

impl DailyCalls {
    pub(crate) fn for_kf_accounts(self, kf_accounts: usize) -> u64 {
        (self.per_kf_account * kf_accounts as u64).min(self.limit.unwrap_or(u64::MAX))
    }
}

impl Config {
    /// How many calls of getsessionlist each official account's schedule makes on its busiest day of the year after `from`.
    pub(crate) fn daily_calls(&self, from: jiff::Timestamp) -> Vec<DailyCalls> {
        // Counting ticks takes a while, and most official accounts share a schedule.
        let mut ticks: HashMap<&Schedule, u64> = HashMap::new();
        let calls = self.official_accounts.iter().map(|account| {
            let schedule = &account.schedule;
            DailyCalls {
                per_kf_account: *ticks.entry(schedule).or_insert_with(|| schedule.ticks_on_busiest_day(from)),
                limit: account.max_requests_per_minute.map(|limit| u64::from(limit.get()) * MINUTES_PER_DAY),
            }
        });
        calls.collect()
    }
}
