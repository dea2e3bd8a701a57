//! Checks `[[official_accounts]]`, of the main file and of the included ones.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use super::check::Inherited;
use super::kf_accounts::KfAccounts;
use super::locate::Key;
use super::mistake::quote;
use super::report::Report;
use super::request_limit::request_limit;
use super::setting::{OneOrMore, Section, Setting};
use super::token::Tokens;
use super::{Environment, OfficialAccount, raw};
use crate::domain::cron::{ExpressionError, MAX_EXPRESSIONS, Schedule, ScheduleError};

/// How many official accounts there may be.
pub const MAX_OFFICIAL_ACCOUNTS: usize = 100_000;

/// How many kf accounts there may be in all.
pub const MAX_KF_ACCOUNTS: usize = 1_000_000;

/// How many different schedules there may be: each is a job, and the scheduler loses jobs when more than 200 are due in one
/// second.
pub const MAX_SCHEDULES: usize = 100;

/// The most characters of a name.
const MAX_NAME_CHARS: usize = 64;

/// Checks one official account after the other, and what must be unique or limited among all of them.
pub(super) struct OfficialAccounts<'a> {
    tokens: Tokens<'a>,
    schedules: Schedules,
    max_requests_per_minute: Option<NonZeroU32>,
    /// How often getkflist is called, if it is.
    kf_list: Option<Duration>,
    /// Names and appids that are taken, each with its place.
    used: HashMap<(&'static str, String), String>,
    official_accounts: usize,
    kf_accounts: usize,
}

impl<'a> OfficialAccounts<'a> {
    pub(super) fn new(base_dir: &'a Path, environment: &'a Environment, inherited: Inherited) -> Self {
        let Inherited { schedule: poll, max_requests_per_minute, kf_list } = inherited;
        Self {
            tokens: Tokens::new(base_dir, environment),
            schedules: Schedules { poll, parsed: HashMap::new() },
            max_requests_per_minute,
            kf_list,
            used: HashMap::new(),
            official_accounts: 0,
            kf_accounts: 0,
        }
    }

    pub(super) fn check(
        &mut self,
        list: &Key<'_>,
        sections: Vec<Section<raw::OfficialAccount>>,
        report: &mut Report,
    ) -> Vec<OfficialAccount> {
        self.official_accounts += sections.len();
        let accounts = sections.into_iter().enumerate();
        accounts.filter_map(|(n, section)| self.official_account(&list.index(n), section, report)).collect()
    }

    /// Whether these are all that were written.
    pub(super) fn all_understood(&self, accounts: &[OfficialAccount]) -> bool {
        self.official_accounts == accounts.len()
    }

    /// What can only be known at the end; `complete`: all files could be read.
    pub(super) fn check_totals(&self, complete: bool, report: &mut Report) {
        let root = Key::root(0);
        let key = root.name("official_accounts");
        if self.official_accounts == 0 && complete {
            report.wrong(&key, "there is none; write at least one [[official_accounts]]");
        }
        let schedules: HashSet<&Schedule> =
            self.schedules.parsed.values().filter_map(|s| s.as_ref().ok()).collect();
        for (count, most, what) in [
            (self.official_accounts, MAX_OFFICIAL_ACCOUNTS, "official accounts"),
            (self.kf_accounts, MAX_KF_ACCOUNTS, "kf accounts"),
            (schedules.len(), MAX_SCHEDULES, "different schedules"),
        ] {
            if count > most {
                report.wrong(&key, format!("there are {count} {what}, and {most} are the most"));
            }
        }
    }

    fn official_account(
        &mut self,
        at: &Key<'_>,
        section: Section<raw::OfficialAccount>,
        report: &mut Report,
    ) -> Option<OfficialAccount> {
        if section.wrong.is_some() {
            report.section(at, section);
            return None;
        }
        let keys = report.section(at, section);
        let name = check_name(&at.name("name"), keys.name, "name = \"shop\"", report);
        let appid = check_appid(&at.name("appid"), keys.appid, "appid = \"wx0123456789abcdef\"", report);
        self.check_unique(at, "name", name.as_deref(), report);
        self.check_unique(at, "appid", appid.as_deref(), report);
        let kf_accounts = KfAccounts::check(at, keys.kf_accounts, keys.exclude, report);
        if let Some(kf_accounts) = &kf_accounts {
            kf_accounts.check_listed(at, self.kf_list, report);
        }
        self.kf_accounts += kf_accounts.as_ref().map_or(0, |kf_accounts| kf_accounts.named.len());
        let schedule = self.schedules.of(at, keys.schedule, keys.timezone, report);
        let max_requests_per_minute =
            request_limit(at, keys.max_requests_per_minute, self.max_requests_per_minute, report);
        let token = self.tokens.token(&at.name("token"), keys.token, report);
        let KfAccounts { named, patterns, exclude } = kf_accounts?;
        Some(OfficialAccount {
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

    fn check_unique(&mut self, at: &Key<'_>, what: &'static str, value: Option<&str>, report: &mut Report) {
        let Some(value) = value else { return };
        let key = at.name(what);
        if let Some(first) = self.used.insert((what, value.to_owned()), report.place_of(&key)) {
            report.wrong(
                &key,
                format!("{value:?} is the {what} of the official account at {first} too; give each its own"),
            );
        }
    }
}

/// Schedules by what was written, so that thousands of official accounts share the few there are.
struct Schedules {
    poll: (Vec<String>, String),
    parsed: HashMap<(Vec<String>, String), Result<Schedule, ScheduleError>>,
}

impl Schedules {
    fn of(
        &mut self,
        at: &Key<'_>,
        expressions: Setting<OneOrMore>,
        timezone: Setting<String>,
        report: &mut Report,
    ) -> Option<Schedule> {
        let inherited = expressions.is_absent() && timezone.is_absent();
        let expressions = report.list(&at.name("schedule"), expressions, MAX_EXPRESSIONS);
        let timezone = report.take(&at.name("timezone"), timezone);
        let written = (
            expressions.unwrap_or_else(|| self.poll.0.clone()),
            timezone.unwrap_or_else(|| self.poll.1.clone()),
        );
        let parsed =
            self.parsed.entry(written).or_insert_with_key(|(e, timezone)| Schedule::parse(e, timezone));
        match parsed {
            Ok(schedule) => Some(schedule.clone()),
            Err(_) if inherited => None, // a mistake of [poll], which is told there
            Err(error) => {
                note_schedule_error(at, error, report);
                None
            }
        }
    }
}

/// Notes why a schedule is refused at the key, in the table at `at`, that it is about.
pub(super) fn note_schedule_error(at: &Key<'_>, error: &ScheduleError, report: &mut Report) {
    let (key, remedy) = match error {
        ScheduleError::Timezone(_) => ("timezone", "write the name of one, for example \"Asia/Shanghai\""),
        ScheduleError::Expression(ExpressionError::Never(_)) => ("schedule", "write a date that exists"),
        ScheduleError::Empty | ScheduleError::TooMany(_) | ScheduleError::Expression(_) => {
            ("schedule", "write five or six fields, for example \"*/15 * * * * *\"")
        }
    };
    report.wrong(&at.name(key), format!("{error}; {remedy}"));
}

/// A name that can be a label and a part of a path.
pub(super) fn check_name(
    key: &Key<'_>,
    setting: Setting<String>,
    example: &str,
    report: &mut Report,
) -> Option<String> {
    let name = report.require(key, setting, example)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.chars().all(allowed) || name.len() > MAX_NAME_CHARS {
        let problem = "is not a name; write at most 64 letters, digits, \"-\" and \"_\"";
        report.wrong(key, format!("{} {problem}", quote(&name)));
        return None;
    }
    Some(name)
}

/// The appid of an official account, or of a component.
pub(super) fn check_appid(
    key: &Key<'_>,
    setting: Setting<String>,
    example: &str,
    report: &mut Report,
) -> Option<String> {
    let appid = report.require(key, setting, example)?;
    let id = appid.strip_prefix("wx").unwrap_or_default();
    if id.len() != 16 || !id.chars().all(|c| c.is_ascii_alphanumeric()) {
        report.wrong(
            key,
            format!("{} is not an appid; write \"wx\" and its 16 letters and digits", quote(&appid)),
        );
        return None;
    }
    Some(appid)
}
