//! What is logged of polls: the first failure of its kind, and the end of failing with a count. What repeats is for the
//! counters. Which failures are told is decided by [`FailureStreak`]; here is decided whose they are, so that what
//! concerns a whole official account, or the store, is told once and not once per kf account.

use std::{
    mem::Discriminant,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::SignedDuration;

use super::{OfficialAccount, PollGuard, PollOutcome, WatchedAccount, backoff::conclusion};
use crate::{
    domain::{
        account::AccountState,
        agents::Collector,
        clock::{Clock, Moment},
        error_class::{ErrorClass, Scope},
        failure_streak::{FailureStreak, Recovery},
    },
    store::StoreError,
    wechat::{
        CallKind,
        error::{CallError, CallFailure},
    },
};

/// Why polls fail, as far as another reason is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    source: &'static str,
    code: &'static str,
    /// Tells errcodes apart that have no code of their own.
    errcode: Option<i64>,
    /// A token that every call is refused for is worse news than the first such refusal.
    class: Option<ErrorClass>,
}

/// Why commits fail.
pub(super) type StoreReason = Discriminant<StoreError>;

impl Reason {
    /// A bug.
    pub(super) const PANIC: Self = Self { source: "kfwatch", code: "panic", errcode: None, class: None };
    /// What was answered could not be stored.
    pub(super) const STORE: Self = Self { source: "kfwatch", code: "store", errcode: None, class: None };

    pub(super) fn of(failure: &CallFailure) -> Self {
        let CallFailure { endpoint, class, error, .. } = failure;
        Self { source: endpoint.as_str(), code: error.code(), errcode: error.errcode(), class: Some(*class) }
    }
}

/// Logs the outcome of a poll that began at `begun_at`.
pub(super) fn log(guard: &PollGuard, outcome: &PollOutcome, begun_at: Moment, clock: &dyn Clock) {
    let (account, official_account) = (guard.account(), guard.official_account());
    match outcome {
        PollOutcome::Succeeded => {
            log_calls_succeed(official_account, begun_at);
            let recovery = account.memory().failure_streak.succeeded(begun_at);
            if let Some(recovery) = recovery {
                log_recovery(Who::KfAccount(account), recovery);
            }
        }
        PollOutcome::Failed(failure) if concerned(failure) == Scope::OfficialAccount => {
            let is_news = official_account.failure_streak().failed(Reason::of(failure), clock.now());
            if is_news {
                log_failure(&official_account.status.name, failure);
            } else {
                log_again(account, outcome);
            }
        }
        PollOutcome::Failed(failure) => {
            // A refusal that concerns the kf account alone shows that the official account works.
            if conclusion(failure).is_some() {
                log_calls_succeed(official_account, failure.sent_at);
            }
            let is_news = account.memory().failure_streak.failed(Reason::of(failure), clock.now());
            if is_news {
                log_failure(&account.account().to_string(), failure);
            } else {
                log_again(account, outcome);
            }
        }
        // The store has said so itself.
        PollOutcome::NotStored(_) | PollOutcome::BackedOff => log_again(account, outcome),
    }
}

/// Logs how a commit that was begun at `begun_at` ended. A full disk fails all accounts, and is told once.
pub(super) fn log_commit(
    not_stored: &Mutex<FailureStreak<StoreReason>>,
    error: Option<&StoreError>,
    begun_at: Moment,
    now: Moment,
) {
    let mut failure_streak = not_stored.lock().unwrap_or_else(PoisonError::into_inner);
    match error {
        Some(error) if failure_streak.failed(std::mem::discriminant(error), now) => {
            tracing::error!("Polls are not stored: {}", crate::chain(error));
        }
        Some(_) => {}
        None => {
            if let Some(recovery) = failure_streak.succeeded(begun_at) {
                let told = told(recovery, "commit");
                tracing::info!(failed_commits = recovery.failures, "Polls are stored again {told}");
            }
        }
    }
}

/// Logs that a poll panicked.
pub(super) fn log_panic(account: &WatchedAccount, now: Moment) {
    let is_news = account.memory().failure_streak.failed(Reason::PANIC, now);
    if is_news {
        tracing::error!(account = %account.account(), "A poll panicked: this is a bug in kfwatch, please report it");
    }
}

/// Logs that an account became blind, and what getkflist knows of one that became unbound. What other transitions come of
/// is logged with the poll.
pub(super) fn log_transition(account: &WatchedAccount, from: AccountState, to: AccountState) {
    if to == AccountState::Blind && from != AccountState::Blind {
        tracing::warn!(
            account = %account.account(),
            "Nothing conclusive was answered for poll.blind_after: the account is blind, its sessions are not known"
        );
    }
    if to == AccountState::Unbound && from != AccountState::Unbound {
        let binding = account.status.row().agent.binding;
        if let Some(binding) = binding {
            tracing::warn!(account = %account.account(), "The account is unbound; getkflist says: {binding}");
        }
    }
}

/// Whom a failure is told of. That no token or no connection is to be had is not the kf account's doing, even where
/// it holds back no other.
fn concerned(failure: &CallFailure) -> Scope {
    let shared = failure.endpoint.kind() == CallKind::Token
        || failure.error.rejects_token()
        || matches!(failure.error, CallError::Connect(_));
    if shared { Scope::OfficialAccount } else { failure.class.scope() }
}

/// The official account is answered again.
pub(super) fn log_calls_succeed(official_account: &OfficialAccount, begun_at: Moment) {
    let recovery = official_account.failure_streak().succeeded(begun_at);
    if let Some(recovery) = recovery {
        log_recovery(Who::OfficialAccount(official_account), recovery);
    }
}

enum Who<'a> {
    KfAccount(&'a WatchedAccount),
    OfficialAccount(&'a OfficialAccount),
}

fn log_recovery(who: Who<'_>, recovery: Recovery) {
    let (failed_polls, told) = (recovery.failures, told(recovery, "poll"));
    match who {
        Who::KfAccount(account) => {
            tracing::info!(account = %account.account(), failed_polls, "Polls succeed again {told}");
        }
        Who::OfficialAccount(official_account) => {
            let account = &official_account.status.name;
            tracing::info!(%account, failed_polls, "Calls succeed again {told}");
        }
    }
}

/// Logs a poll's failure, or one that any call of an official account would meet.
pub(super) fn log_failure(who: &str, failure: &CallFailure) {
    let (remedy, remedy_zh) = remedies(failure);
    let (class, code) = (failure.class.as_str(), failure.error.code());
    match failure.class {
        ErrorClass::Busy => {
            tracing::info!(account = who, class, code, remedy, remedy_zh, "Poll failed: {failure}");
        }
        ErrorClass::TokenRejected | ErrorClass::MinuteQuota | ErrorClass::DayQuota | ErrorClass::Unknown => {
            tracing::warn!(account = who, class, code, remedy, remedy_zh, "Poll failed: {failure}");
        }
        _ => tracing::error!(account = who, class, code, remedy, remedy_zh, "Poll failed: {failure}"),
    }
}

/// Logs that a collector was refused. What it cannot ask is worth waking nobody: the sessions are still watched.
pub(super) fn log_collection_failure(official_account: &str, collector: Collector, failure: &CallFailure) {
    let (remedy, remedy_zh) = remedies(failure);
    let (collector, class, code) = (collector.as_str(), failure.class.as_str(), failure.error.code());
    match failure.class {
        ErrorClass::Busy => {
            tracing::info!(
                official_account,
                collector,
                class,
                code,
                remedy,
                remedy_zh,
                "Collection failed: {failure}"
            );
        }
        _ => {
            tracing::warn!(
                official_account,
                collector,
                class,
                code,
                remedy,
                remedy_zh,
                "Collection failed: {failure}"
            );
        }
    }
}

/// What to do about it, in English and Chinese.
fn remedies(failure: &CallFailure) -> (Option<&'static str>, Option<&'static str>) {
    failure.error.remedy(failure.endpoint).map(|remedy| (remedy.en, remedy.zh)).unzip()
}

/// Logs that a collector is answered again.
pub(super) fn log_collected_again(official_account: &str, collector: Collector, recovery: Recovery) {
    let (failures, told) = (recovery.failures, told(recovery, "collection"));
    tracing::info!(
        official_account,
        collector = collector.as_str(),
        failures,
        "Collections succeed again {told}"
    );
}

fn log_again(account: &WatchedAccount, outcome: &PollOutcome) {
    tracing::debug!(account = %account.account(), ?outcome, "Poll failed again, or is held back");
}

/// `what` failed, how often and for how long: "after 37 failed polls in 9m 15s".
fn told(recovery: Recovery, what: &str) -> String {
    let Recovery { failures, lasted } = recovery;
    let plural = if failures == 1 { "" } else { "s" };
    let whole_seconds = SignedDuration::try_from(Duration::from_secs(lasted.as_secs())).unwrap_or_default();
    format!("after {failures} failed {what}{plural} in {whole_seconds:#}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wechat::Endpoint;

    fn failure(endpoint: Endpoint, error: CallError) -> CallFailure {
        let sent_at = Moment { wall: jiff::Timestamp::UNIX_EPOCH, monotonic: Duration::ZERO };
        CallFailure { endpoint, class: error.class(endpoint), sent_at, error }
    }

    fn refused(code: i64) -> CallError {
        CallError::Refused { code, message: "".into() }
    }

    #[test]
    fn what_is_not_the_kf_accounts_doing_is_told_of_the_official_account() {
        use Scope::{KfAccount, OfficialAccount};
        for (endpoint, error, expected) in [
            (Endpoint::SessionList, refused(65402), KfAccount),
            (Endpoint::SessionList, refused(-1), KfAccount),
            (Endpoint::SessionList, refused(12345), KfAccount),
            (Endpoint::SessionList, CallError::Timeout, KfAccount),
            (Endpoint::SessionList, CallError::TooLarge { limit: 1 }, KfAccount),
            (Endpoint::SessionList, refused(40164), OfficialAccount),
            (Endpoint::SessionList, refused(45009), OfficialAccount),
            (Endpoint::SessionList, refused(40001), OfficialAccount),
            (Endpoint::SessionList, CallError::Connect("refused".into()), OfficialAccount),
            (Endpoint::StableToken, refused(-1), OfficialAccount),
            (Endpoint::StableToken, CallError::Timeout, OfficialAccount),
            (Endpoint::StableToken, CallError::TokenNotYet, OfficialAccount),
        ] {
            let failure = failure(endpoint, error);
            assert_eq!(concerned(&failure), expected, "{failure}");
        }
    }

    #[test]
    fn errcodes_without_a_label_of_their_own_are_reasons_of_their_own() {
        let reason = |code| Reason::of(&failure(Endpoint::SessionList, refused(code)));
        assert_ne!(reason(12345), reason(12346));
        assert_eq!(reason(12345), reason(12345));
    }

    #[test]
    fn a_token_refused_for_good_is_another_reason_than_one_refused_now_and_then() {
        let first = failure(Endpoint::SessionList, refused(40001));
        let first = CallFailure { class: ErrorClass::Busy, ..first };
        let for_good = CallFailure { class: ErrorClass::TokenRejected, ..first.clone() };
        assert_ne!(Reason::of(&first), Reason::of(&for_good));
    }

    #[test]
    fn an_end_is_told_with_how_many_and_how_long() {
        let lasted = Duration::from_millis(555_900);
        assert_eq!(told(Recovery { failures: 37, lasted }, "poll"), "after 37 failed polls in 9m 15s");
        assert_eq!(
            told(Recovery { failures: 1, lasted: Duration::ZERO }, "commit"),
            "after 1 failed commit in 0s"
        );
    }
}
