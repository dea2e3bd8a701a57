//! Checks `[[official_accounts]]` of the main file and of the included files.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::time::Duration;

use super::kf_accounts::KfAccounts;
use super::model::OfficialAccountConfig;
use super::names::{UniqueValues, check_appid, check_name};
use super::rate_limit::check_rate_limit;
use super::raw;
use super::schedule::{CronText, MAX_EXPRESSIONS, report_mistakes, warn_of_large_steps};
use super::setting::{Section, Setting, TextList};
use super::table::Table;
use super::token::Tokens;
use crate::domain::cron::Schedule;

pub(super) const MAX_OFFICIAL_ACCOUNTS: usize = 100_000;

/// The maximum number of kf accounts of all official accounts together.
const MAX_KF_ACCOUNTS: usize = 1_000_000;

/// The maximum number of different schedules. Each one is a job, and the scheduler loses jobs when more than 200 are due in
/// the same second.
const MAX_SCHEDULES: usize = 100;

/// Settings of `[poll]` and `[collectors]` that apply to every official account, some unless it has its own.
pub(super) struct AccountDefaults {
    pub(super) schedule: CronText,
    pub(super) max_requests_per_minute: Option<NonZeroU32>,
    /// How often getkflist is called; `None` if it is not.
    pub(super) kf_list: Option<Duration>,
}

/// Checks one official account after another, and what must be unique or is limited among all of them.
pub(super) struct OfficialAccounts {
    defaults: AccountDefaults,
    tokens: Tokens,
    /// Parsed schedules by their text, so that thousands of official accounts share a few schedules.
    schedules: HashMap<CronText, Option<Schedule>>,
    unique: UniqueValues,
    official_accounts: usize,
    kf_accounts: usize,
}

impl OfficialAccounts {
    pub(super) fn new(defaults: AccountDefaults) -> Self {
        Self {
            defaults,
            tokens: Tokens::default(),
            schedules: HashMap::new(),
            unique: UniqueValues::new("official account"),
            official_accounts: 0,
            kf_accounts: 0,
        }
    }

    /// Returns the valid official accounts of a list.
    pub(super) fn check(
        &mut self,
        sections: Vec<Section<raw::OfficialAccount>>,
        list: &mut Table<'_>,
    ) -> Vec<OfficialAccountConfig> {
        self.official_accounts += sections.len();
        let accounts = sections.into_iter().enumerate();
        accounts.filter_map(|(n, section)| self.check_one(section, &mut list.element(n))).collect()
    }

    /// Whether these are all official accounts that were checked.
    pub(super) fn are_all_valid(&self, accounts: &[OfficialAccountConfig]) -> bool {
        self.official_accounts == accounts.len()
    }

    /// Checks the totals after all lists; `complete` says whether all files could be read.
    pub(super) fn check_totals(&self, complete: bool, root: &mut Table<'_>) {
        let key = "official_accounts";
        if self.official_accounts == 0 && complete {
            root.wrong(key, "there is none; add at least one [[official_accounts]]");
        }
        let schedules: HashSet<&Schedule> = self.schedules.values().flatten().collect();
        for (count, max, what) in [
            (self.official_accounts, MAX_OFFICIAL_ACCOUNTS, "official accounts"),
            (self.kf_accounts, MAX_KF_ACCOUNTS, "kf accounts"),
            (schedules.len(), MAX_SCHEDULES, "different schedules"),
        ] {
            if count > max {
                root.wrong(key, format!("there are {count} {what}, but at most {max} are allowed"));
            }
        }
    }

    fn check_one(
        &mut self,
        section: Section<raw::OfficialAccount>,
        of: &mut Table<'_>,
    ) -> Option<OfficialAccountConfig> {
        let keys = of.keys(section)?;
        let name = check_name(keys.name, "name = \"shop\"", of);
        let appid = check_appid("appid", keys.appid, of);
        self.unique.check("name", name.as_deref(), of);
        self.unique.check("appid", appid.as_deref(), of);
        let kf_accounts = KfAccounts::check(keys.kf_accounts, keys.exclude, of);
        if let Some(kf_accounts) = &kf_accounts {
            kf_accounts.check_patterns(self.defaults.kf_list, of);
        }
        self.kf_accounts += kf_accounts.as_ref().map_or(0, |kf_accounts| kf_accounts.named.len());
        let schedule = self.parse_schedule(keys.schedule, keys.timezone, of);
        let max_requests_per_minute =
            check_rate_limit(keys.max_requests_per_minute, self.defaults.max_requests_per_minute, of);
        let token = self.tokens.check(keys.token, &mut of.table("token"));
        let KfAccounts { named, patterns, exclude } = kf_accounts?;
        Some(OfficialAccountConfig {
            name: name?,
            appid: appid?,
            kf_accounts: named,
            patterns,
            exclude,
            schedule: schedule?,
            max_requests_per_minute,
            token: token?,
        })
    }

    fn parse_schedule(
        &mut self,
        expressions: Setting<TextList>,
        timezone: Setting<String>,
        of: &mut Table<'_>,
    ) -> Option<Schedule> {
        let has_expressions = !expressions.is_absent();
        let expressions = of.list("schedule", expressions, MAX_EXPRESSIONS);
        let timezone = of.take("timezone", timezone);
        let text = CronText {
            expressions: expressions.unwrap_or_else(|| self.defaults.schedule.expressions.clone()),
            timezone: timezone.unwrap_or_else(|| self.defaults.schedule.timezone.clone()),
        };
        let parsed = self.schedules.entry(text.clone()).or_insert_with(|| {
            let parsed = text.parse().ok();
            if let Some(schedule) = parsed.as_ref().filter(|_| has_expressions) {
                warn_of_large_steps(schedule, of);
            }
            parsed
        });
        if parsed.is_none() {
            report_mistakes(&text, of);
        }
        parsed.clone()
    }
}
