//! How many calls a configuration makes.

use std::collections::HashMap;

use super::Config;
use crate::domain::cron::Schedule;

const MINUTES_A_DAY: u64 = 24 * 60;

/// How many calls of getsessionlist an official account's schedule makes a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallsADay {
    /// For each kf account.
    pub each: u64,
    /// What the limit on requests lets through for all of them, if there is one.
    pub most: Option<u64>,
}

impl CallsADay {
    /// For so many kf accounts.
    pub fn of(self, kf_accounts: usize) -> u64 {
        (self.each * kf_accounts as u64).min(self.most.unwrap_or(u64::MAX))
    }
}

impl Config {
    /// How many calls of getsessionlist each official account's schedule makes a day, from then on.
    pub fn calls_a_day(&self, from: jiff::Timestamp) -> Vec<CallsADay> {
        // Most official accounts share a schedule, and reckoning with one takes a while.
        let mut ticks: HashMap<&Schedule, u64> = HashMap::new();
        let calls = self.official_accounts.iter().map(|account| {
            let schedule = &account.schedule;
            CallsADay {
                each: *ticks.entry(schedule).or_insert_with(|| schedule.ticks_per_day(from)),
                most: account.max_requests_per_minute.map(|most| u64::from(most.get()) * MINUTES_A_DAY),
            }
        });
        calls.collect()
    }
}
