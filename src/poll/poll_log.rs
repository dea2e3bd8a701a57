//! The log of polls. Accounts that have the same news within about a second share one line, which has their number.
//!
//! [`FailureStreak`](crate::domain::failure_streak::FailureStreak) decides what is news. [`PollLog::flush`] writes the lines, and the
//! caller decides when.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use jiff::SignedDuration;
use tracing::Level;

use super::{backoff::reason, official_account::OfficialAccount};
use crate::{
    domain::{
        agents::{Binding, Collector},
        error_class::{ErrorClass, Scope},
        failure_streak::Recovery,
        language::Language,
        quantity::counted,
        remedy::{self, RemedyText},
    },
    wechat::error::{CallError, CallFailure},
};

/// How many accounts a line names.
const MAX_EXAMPLES: usize = 3;

/// How many flushes a growing group waits at most.
const MAX_FLUSHES: usize = 10;

/// How many kinds of news wait for [`PollLog::flush`]. If there are more, they are written at once.
const MAX_GROUPS: usize = 256;

/// The codes of failures to reach WeChat at all.
const NETWORK_CODES: [&str; 4] = ["connect", "timeout", "tls", "proxy"];

/// Groups the news of accounts, and logs each group in one line.
#[derive(Default)]
pub struct PollLog {
    settings: ArcSwap<LogSettings>,
    groups: Mutex<Vec<Group>>,
    /// Whether most official accounts could not be reached at the last flush that had news.
    is_offline: AtomicBool,
}

#[derive(Default)]
struct LogSettings {
    /// The language of remedies.
    language: Language,
    /// All official accounts, to notice that most of them cannot be reached.
    official_accounts: Vec<Arc<OfficialAccount>>,
}

/// What happened to an account.
#[derive(Clone, Debug)]
pub(super) enum News {
    /// A poll failed. The binding is what getkflist says of an unbound kf account.
    PollFailed(CallFailure, Option<Binding>),
    CollectionFailed(Collector, CallFailure),
    CallsSucceedAgain(Recovery),
    CollectionsSucceedAgain(Collector, Recovery),
    /// getkflist lists these kf accounts for the first time.
    Discovered(String),
    /// Polls have failed for so long that the sessions are unknown.
    Blind,
    /// getkflist says that no WeChat user is bound, before any poll was refused.
    Unbound(Binding),
}

/// Accounts of one scope with the same news.
struct Group {
    scope: Scope,
    /// The news of the first account. A recovery has the sum of all failures.
    news: News,
    count: usize,
    /// The names of the first accounts.
    examples: Vec<String>,
    /// Whether an account came to it since the last flush.
    grew: bool,
    /// How many flushes it has seen.
    flushes: usize,
}

impl PollLog {
    /// A log of the polls of these official accounts. Its remedies are in this language.
    pub fn new(language: Language, official_accounts: Vec<Arc<OfficialAccount>>) -> Self {
        let log = Self::default();
        log.configure(language, official_accounts);
        log
    }

    /// Sets the language of remedies and the official accounts from now on.
    pub fn configure(&self, language: Language, official_accounts: Vec<Arc<OfficialAccount>>) {
        self.settings.store(Arc::new(LogSettings { language, official_accounts }));
    }

    /// Adds news of a kf account or an official account to the next lines.
    pub(super) fn add(&self, scope: Scope, account: impl ToString, news: News) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = groups.iter_mut().find(|group| group.scope == scope && group.news.is_like(&news))
        {
            return group.add(account, &news);
        }
        groups.push(Group {
            scope,
            news,
            count: 1,
            examples: vec![account.to_string()],
            grew: false,
            flushes: 0,
        });
        let is_full = groups.len() >= MAX_GROUPS;
        drop(groups);
        if is_full {
            self.flush();
        }
    }

    /// Logs the news that no more accounts had since the last call, and those that waited long enough: polls of a tick may be
    /// spread over a while.
    pub fn flush_settled(&self) {
        if self.groups.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return;
        }
        let is_urgent = self.outage().concerns_most() && !self.is_offline.load(Ordering::Relaxed);
        let is_settled = |group: &mut Group| {
            group.flushes += 1;
            let grew = std::mem::take(&mut group.grew);
            is_urgent || !grew || group.flushes >= MAX_FLUSHES
        };
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = groups.extract_if(.., is_settled).collect();
        drop(groups);
        self.write(settled);
    }

    /// Logs all news.
    pub fn flush(&self) {
        self.write(std::mem::take(&mut *self.groups.lock().unwrap_or_else(PoisonError::into_inner)));
    }

    fn outage(&self) -> Outage {
        let settings = self.settings.load();
        let official_accounts = &settings.official_accounts;
        let unreachable = official_accounts.iter().filter(|of| is_unreachable(of)).count();
        Outage { unreachable, official_accounts: official_accounts.len() }
    }

    fn write(&self, groups: Vec<Group>) {
        if groups.is_empty() {
            return;
        }
        let outage = self.outage();
        let is_offline = outage.concerns_most();
        let was_offline = self.is_offline.swap(is_offline, Ordering::Relaxed);
        if was_offline && !is_offline {
            let Outage { unreachable, official_accounts } = outage;
            tracing::info!(unreachable, official_accounts, "Most official accounts can be reached again");
        }
        for group in &groups {
            // A refused certificate is a failure of its own.
            let is_network =
                matches!(&group.news, News::PollFailed(failure, _) if failure.class == ErrorClass::Busy);
            let outage = (is_network && is_offline && !was_offline).then_some(outage);
            group.line(outage).write(self.settings.load().language);
        }
    }
}

/// How many official accounts cannot be reached.
#[derive(Clone, Copy)]
struct Outage {
    unreachable: usize,
    official_accounts: usize,
}

impl Outage {
    fn concerns_most(self) -> bool {
        self.unreachable * 2 > self.official_accounts
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { unreachable, official_accounts } if unreachable == official_accounts => {
                f.write_str("No official account can be reached")
            }
            Self { unreachable, official_accounts } => {
                write!(f, "{unreachable} of {official_accounts} official accounts cannot be reached")
            }
        }
    }
}

/// Whether the last failure was one of the network, and no success came after it.
fn is_unreachable(of: &OfficialAccount) -> bool {
    of.failure_streak().latest_reason().is_some_and(|reason| NETWORK_CODES.contains(&reason.code))
}

impl News {
    /// Whether both belong into one line.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::PollFailed(one, _), Self::PollFailed(other, _)) => is_same_cause(one, other),
            (Self::CollectionFailed(collector, one), Self::CollectionFailed(other_collector, other)) => {
                collector == other_collector && is_same_cause(one, other)
            }
            (
                Self::CollectionsSucceedAgain(collector, _),
                Self::CollectionsSucceedAgain(other_collector, _),
            ) => collector == other_collector,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl Group {
    fn add(&mut self, account: impl ToString, news: &News) {
        self.count += 1;
        self.grew = true;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(account.to_string());
        }
        match (&mut self.news, news) {
            (News::CallsSucceedAgain(sum), News::CallsSucceedAgain(recovery))
            | (News::CollectionsSucceedAgain(_, sum), News::CollectionsSucceedAgain(_, recovery)) => {
                sum.failures += recovery.failures;
                sum.lasted = sum.lasted.max(recovery.lasted);
            }
            _ => {}
        }
    }

    fn line(&self, outage: Option<Outage>) -> Line<'_> {
        let line = Line::new(self);
        match &self.news {
            News::PollFailed(failure, binding) => self.failed_polls(failure, *binding, outage),
            News::CollectionFailed(collector, failure) => Line {
                // Never an error: sessions are still polled.
                level: level_of(failure.class).max(Level::WARN),
                message: format!(
                    "{}: {failure}",
                    self.subject("Collection failed", "Collections of", "failed")
                ),
                collector: Some(*collector),
                failure: Some(failure),
                remedy: failure.remedy(),
                ..line
            },
            News::CallsSucceedAgain(recovery) => {
                let what = if self.scope == Scope::KfAccount { "Polls" } else { "Calls" };
                let subject =
                    self.subject(&format!("{what} succeed again"), &format!("{what} of"), "succeed again");
                let message = format!("{subject} {}", after(*recovery, "poll"));
                Line { level: Level::INFO, message, failed: Some(recovery.failures), ..line }
            }
            News::CollectionsSucceedAgain(collector, recovery) => {
                let subject = self.subject("Collections succeed again", "Collections of", "succeed again");
                let message = format!("{subject} {}", after(*recovery, "collection"));
                let collector = Some(*collector);
                Line { level: Level::INFO, message, collector, failed: Some(recovery.failures), ..line }
            }
            News::Discovered(names) => {
                let subject =
                    self.subject("getkflist lists new kf accounts", "getkflist lists new kf accounts of", "");
                let subject = subject.trim_end();
                let mut message = format!("{subject}, polled from the next tick on");
                if self.count == 1 {
                    message.push_str(&format!(": {names}"));
                }
                Line { level: Level::INFO, message, ..line }
            }
            News::Blind => {
                let (are, their) = if self.count == 1 { ("Account is", "its") } else { ("are", "their") };
                let subject = self.subject(are, "", are);
                let message = format!(
                    "{subject} blind: no conclusive response for poll.blind_after, {their} sessions are unknown"
                );
                Line { message, ..line }
            }
            News::Unbound(binding) => {
                let subject = self.subject("Account is", "", "are");
                let message = match self.count {
                    1 => format!("{subject} unbound; getkflist says: {binding}"),
                    _ => format!("{subject} unbound, according to getkflist"),
                };
                Line { level: Level::ERROR, message, remedy: Some(remedy::UNBOUND.into()), ..line }
            }
        }
    }

    fn failed_polls<'a>(
        &'a self,
        failure: &'a CallFailure,
        binding: Option<Binding>,
        outage: Option<Outage>,
    ) -> Line<'a> {
        let message = match (outage, binding) {
            (Some(outage), _) => format!("{outage}: {failure}"),
            (None, Some(binding)) if self.count == 1 => {
                format!("Poll failed: {failure}; getkflist says: {binding}")
            }
            (None, _) => format!("{}: {failure}", self.subject("Poll failed", "Polls of", "failed")),
        };
        let level = if outage.is_some() { Level::WARN } else { level_of(failure.class) };
        Line { level, message, failure: Some(failure), remedy: failure.remedy(), ..Line::new(self) }
    }

    /// `one` for one account, else such as "Polls of 412 kf accounts failed".
    fn subject(&self, one: &str, before: &str, after: &str) -> String {
        if self.count == 1 {
            return one.to_owned();
        }
        let scope = if self.scope == Scope::KfAccount { "kf accounts" } else { "official accounts" };
        format!("{before} {} {scope} {after}", self.count).trim_start().to_owned()
    }
}

/// A line of the log.
struct Line<'a> {
    group: &'a Group,
    level: Level,
    message: String,
    collector: Option<Collector>,
    failure: Option<&'a CallFailure>,
    remedy: Option<RemedyText>,
    failed: Option<u64>,
}

impl<'a> Line<'a> {
    fn new(group: &'a Group) -> Self {
        Self {
            group,
            level: Level::WARN,
            message: String::new(),
            collector: None,
            failure: None,
            remedy: None,
            failed: None,
        }
    }

    fn write(self, language: Language) {
        let Group { scope, count, examples, .. } = self.group;
        let single = |wanted| (*count == 1 && *scope == wanted).then(|| examples[0].as_str());
        let (account, official_account) = (single(Scope::KfAccount), single(Scope::OfficialAccount));
        let of_scope = |wanted| (*count > 1 && *scope == wanted).then_some(*count);
        let (kf_accounts, official_accounts) = (of_scope(Scope::KfAccount), of_scope(Scope::OfficialAccount));
        let examples = (*count > 1).then(|| examples.join(", "));
        let collector = self.collector.map(Collector::as_str);
        let (class, code) =
            self.failure.map(|failure| (failure.class.as_str(), failure.error.code())).unzip();
        let remedy = self.remedy.map(|remedy| remedy.text(language));
        let remedy = remedy.as_deref();
        let message = &self.message;
        macro_rules! write_at {
            ($level:ident) => {
                tracing::$level!(
                    account,
                    official_account,
                    kf_accounts,
                    official_accounts,
                    examples,
                    collector,
                    class,
                    code,
                    remedy,
                    failures = self.failed,
                    "{message}"
                )
            };
        }
        match self.level {
            Level::ERROR => write_at!(error),
            Level::WARN => write_at!(warn),
            _ => write_at!(info),
        }
    }
}

/// Whether the failures have the same cause. Texts of WeChat differ in each response; what is wrong with a response does not.
fn is_same_cause(one: &CallFailure, other: &CallFailure) -> bool {
    let is_malformed = |failure: &CallFailure| matches!(failure.error, CallError::Malformed(_));
    reason(one) == reason(other) && (!is_malformed(one) || one.error == other.error)
}

fn level_of(class: ErrorClass) -> Level {
    match class {
        ErrorClass::Busy => Level::INFO,
        ErrorClass::TokenRejected | ErrorClass::MinuteQuota | ErrorClass::DayQuota | ErrorClass::Unknown => {
            Level::WARN
        }
        _ => Level::ERROR,
    }
}

/// How often `what` failed and for how long: "after 37 failed polls in 9m 15s".
pub(super) fn after(recovery: Recovery, what: &str) -> String {
    let Recovery { failures, lasted } = recovery;
    let whole_seconds = SignedDuration::try_from(Duration::from_secs(lasted.as_secs())).unwrap_or_default();
    format!("after {} in {whole_seconds:#}", counted(failures, &format!("failed {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_is_described_with_count_and_duration() {
        let lasted = Duration::from_millis(555_900);
        assert_eq!(after(Recovery { failures: 37, lasted }, "poll"), "after 37 failed polls in 9m 15s");
        assert_eq!(
            after(Recovery { failures: 1, lasted: Duration::ZERO }, "commit"),
            "after 1 failed commit in 0s"
        );
    }
}
