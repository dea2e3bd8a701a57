//! Checks `[[official_accounts]]` of the main file and of the included files.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::time::Duration;

use super::environment::LoadContext;
use super::findings::Findings;
use super::kf_accounts::KfAccounts;
use super::model::OfficialAccountConfig;
use super::names::{UniqueValues, check_appid, check_name};
use super::rate_limit::check_rate_limit;
use super::raw;
use super::setting::{Section, Setting, TextList};
use super::sources::KeyPath;
use super::token::Tokens;
use crate::domain::cron::{ExpressionError, MAX_EXPRESSIONS, Schedule, ScheduleError};

/// The maximum number of official accounts.
pub const MAX_OFFICIAL_ACCOUNTS: usize = 100_000;

/// The maximum number of kf accounts of all official accounts together.
pub const MAX_KF_ACCOUNTS: usize = 1_000_000;

/// The maximum number of different schedules. Each one is a job, and the scheduler loses jobs when more than 200 are due in
/// the same second.
pub const MAX_SCHEDULES: usize = 100;

/// Settings of `[poll]` and `[collectors]` that apply to every official account, some unless it has its own.
pub(super) struct AccountDefaults {
    pub(super) schedule: CronText,
    pub(super) max_requests_per_minute: Option<NonZeroU32>,
    /// How often getkflist is called; `None` if it is not.
    pub(super) kf_list: Option<Duration>,
}

/// Cron expressions and a time zone, not yet parsed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct CronText {
    pub(super) expressions: Vec<String>,
    pub(super) timezone: String,
}

/// Checks one official account after another, and what must be unique or is limited among all of them.
pub(super) struct OfficialAccounts<'a> {
    tokens: Tokens<'a>,
    schedules: Schedules,
    max_requests_per_minute: Option<NonZeroU32>,
    kf_list: Option<Duration>,
    unique: UniqueValues,
    official_accounts: usize,
    kf_accounts: usize,
}

impl<'a> OfficialAccounts<'a> {
    pub(super) fn new(context: LoadContext<'a>, defaults: AccountDefaults) -> Self {
        let AccountDefaults { schedule, max_requests_per_minute, kf_list } = defaults;
        Self {
            tokens: Tokens::new(context),
            schedules: Schedules { default: schedule, parsed: HashMap::new() },
            max_requests_per_minute,
            kf_list,
            unique: UniqueValues::new("official account"),
            official_accounts: 0,
            kf_accounts: 0,
        }
    }

    /// Checks the list at `list`, and returns the valid official accounts.
    pub(super) fn check(
        &mut self,
        list: &KeyPath<'_>,
        sections: Vec<Section<raw::OfficialAccount>>,
        findings: &mut Findings,
    ) -> Vec<OfficialAccountConfig> {
        self.official_accounts += sections.len();
        let accounts = sections.into_iter().enumerate();
        accounts.filter_map(|(n, section)| self.check_one(&list.index(n), section, findings)).collect()
    }

    /// Whether these are all official accounts that were checked.
    pub(super) fn are_all_valid(&self, accounts: &[OfficialAccountConfig]) -> bool {
        self.official_accounts == accounts.len()
    }

    /// Checks the totals after all lists; `complete` says whether all files could be read.
    pub(super) fn check_totals(&self, complete: bool, findings: &mut Findings) {
        let root = KeyPath::root(0);
        let key = root.name("official_accounts");
        if self.official_accounts == 0 && complete {
            findings.wrong(&key, "there is none; add at least one [[official_accounts]]");
        }
        let schedules: HashSet<&Schedule> =
            self.schedules.parsed.values().filter_map(|s| s.as_ref().ok()).collect();
        for (count, max, what) in [
            (self.official_accounts, MAX_OFFICIAL_ACCOUNTS, "official accounts"),
            (self.kf_accounts, MAX_KF_ACCOUNTS, "kf accounts"),
            (schedules.len(), MAX_SCHEDULES, "different schedules"),
        ] {
            if count > max {
                findings.wrong(&key, format!("there are {count} {what}, but at most {max} are allowed"));
            }
        }
    }

    fn check_one(
        &mut self,
        at: &KeyPath<'_>,
        section: Section<raw::OfficialAccount>,
        findings: &mut Findings,
    ) -> Option<OfficialAccountConfig> {
        if section.wrong.is_some() {
            findings.section(at, section);
            return None;
        }
        let keys = findings.section(at, section);
        let name = check_name(at, keys.name, "name = \"shop\"", findings);
        let appid = check_appid(&at.name("appid"), keys.appid, "appid = \"wx0123456789abcdef\"", findings);
        self.unique.check(at, "name", name.as_deref(), findings);
        self.unique.check(at, "appid", appid.as_deref(), findings);
        let kf_accounts = KfAccounts::check(at, keys.kf_accounts, keys.exclude, findings);
        if let Some(kf_accounts) = &kf_accounts {
            kf_accounts.check_patterns(at, self.kf_list, findings);
        }
        self.kf_accounts += kf_accounts.as_ref().map_or(0, |kf_accounts| kf_accounts.named.len());
        let schedule = self.schedules.parse(at, keys.schedule, keys.timezone, findings);
        let max_requests_per_minute =
            check_rate_limit(at, keys.max_requests_per_minute, self.max_requests_per_minute, findings);
        let token = self.tokens.check(&at.name("token"), keys.token, findings);
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
}

/// Parsed schedules by their text, so that thousands of official accounts share a few schedules.
struct Schedules {
    default: CronText,
    parsed: HashMap<CronText, Result<Schedule, ScheduleError>>,
}

impl Schedules {
    fn parse(
        &mut self,
        at: &KeyPath<'_>,
        expressions: Setting<TextList>,
        timezone: Setting<String>,
        findings: &mut Findings,
    ) -> Option<Schedule> {
        let is_default = expressions.is_absent() && timezone.is_absent();
        let expressions = findings.list(&at.name("schedule"), expressions, MAX_EXPRESSIONS);
        let timezone = findings.take(&at.name("timezone"), timezone);
        let text = CronText {
            expressions: expressions.unwrap_or_else(|| self.default.expressions.clone()),
            timezone: timezone.unwrap_or_else(|| self.default.timezone.clone()),
        };
        let parsed = self
            .parsed
            .entry(text)
            .or_insert_with_key(|text| Schedule::parse(&text.expressions, &text.timezone));
        match parsed {
            Ok(schedule) => Some(schedule.clone()),
            Err(_) if is_default => None, // was reported for [poll]
            Err(error) => {
                report_schedule_error(at, error, findings);
                None
            }
        }
    }
}

/// Reports an invalid schedule at the key of the table at `at` that causes it.
pub(super) fn report_schedule_error(at: &KeyPath<'_>, error: &ScheduleError, findings: &mut Findings) {
    let (key, remedy) = match error {
        ScheduleError::Timezone(_) => ("timezone", "write a name such as \"Asia/Shanghai\""),
        ScheduleError::Expression(ExpressionError::Never(_)) => ("schedule", "write a date that exists"),
        ScheduleError::Empty | ScheduleError::TooMany(_) | ScheduleError::Expression(_) => {
            ("schedule", "write five or six fields, for example \"*/15 * * * * *\"")
        }
    };
    findings.wrong(&at.name(key), format!("{error}; {remedy}"));
}
