//! Logs polls: the first failure, each new reason, and the recovery with a count. Repeats only count.
//!
//! [`FailureStreak`] decides which failures are logged. This module decides to which streak a failure belongs. A failure
//! of a whole official account, or of the store, is logged once and not once for each kf account.

use std::{
    borrow::Cow,
    mem::Discriminant,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::SignedDuration;

use super::{
    backoff::{conclusion, reason},
    guard::PollGuard,
    official_account::OfficialAccount,
    outcome::PollOutcome,
};
use crate::{
    domain::{
        account::{Account, AccountState, Transition},
        agents::{Binding, Collector},
        clock::{Clock, Moment},
        error_class::{ErrorClass, Scope},
        failure_streak::{FailureStreak, Recovery},
        remedy::RemedyText,
    },
    store::StoreError,
    wechat::{
        CallKind,
        error::{CallError, CallFailure},
    },
};

/// Why commits fail.
pub(super) type StoreReason = Discriminant<StoreError>;

/// Logs the outcome of a poll that began at `started_at`.
pub(super) fn log_outcome(guard: &PollGuard, outcome: &PollOutcome, started_at: Moment, clock: &dyn Clock) {
    let (account, official_account) = (guard.account(), guard.official_account());
    match outcome {
        PollOutcome::Succeeded => {
            log_calls_succeed(official_account, started_at);
            let recovery = account.lock().failure_streak.succeeded(started_at);
            if let Some(recovery) = recovery {
                let (failed_polls, after) = (recovery.failures, describe(recovery, "poll"));
                tracing::info!(account = %account.account(), failed_polls, "Polls succeed again {after}");
            }
        }
        PollOutcome::Failed(failure) if concerned(failure) == Scope::OfficialAccount => {
            let is_news = official_account.failure_streak().failed(reason(failure), clock.now());
            if is_news {
                log_failure(&official_account.status.name, failure);
            } else {
                log_repeated(account.account(), outcome);
            }
        }
        PollOutcome::Failed(failure) => {
            // A refusal that concerns the kf account alone shows that the official account works.
            if conclusion(failure.class).is_some() {
                log_calls_succeed(official_account, failure.sent_at);
            }
            let is_news = account.lock().failure_streak.failed(reason(failure), clock.now());
            if is_news {
                log_failure(&account.account().to_string(), failure);
            } else {
                log_repeated(account.account(), outcome);
            }
        }
        // `log_commit` has logged a failed commit.
        PollOutcome::NotStored(_) | PollOutcome::BackedOff => log_repeated(account.account(), outcome),
    }
}

/// Logs how a commit that began at `started_at` ended. A full disk fails the commits of all accounts and is logged once. The store
/// has logged that its files were deleted or replaced.
pub(super) fn log_commit(
    commit_failures: &Mutex<FailureStreak<StoreReason>>,
    error: Option<&StoreError>,
    started_at: Moment,
    now: Moment,
) {
    let mut failure_streak = commit_failures.lock().unwrap_or_else(PoisonError::into_inner);
    match error {
        Some(error) if failure_streak.failed(std::mem::discriminant(error), now) && !error.is_displaced() => {
            tracing::error!("Polls are not stored: {}", crate::chain(error));
        }
        Some(_) => {}
        None => {
            if let Some(recovery) = failure_streak.succeeded(started_at) {
                let after = describe(recovery, "commit");
                tracing::info!(failed_commits = recovery.failures, "Polls are stored again {after}");
            }
        }
    }
}

/// Logs that an account became blind or unbound; `binding` is what getkflist said last. The log line of the poll reports
/// what other transitions follow from.
pub(super) fn log_transition(account: &Account, transition: Transition, binding: Option<Binding>) {
    let Transition { from, to } = transition;
    if from == to {
        return;
    }
    match (to, binding) {
        (AccountState::Blind, _) => tracing::warn!(
            %account,
            "Account is blind: no conclusive response for poll.blind_after, its sessions are unknown"
        ),
        (AccountState::Unbound, Some(binding)) => {
            tracing::warn!(%account, "Account is unbound; getkflist says: {binding}");
        }
        _ => {}
    }
}

/// Which account a failure is logged for. Without a token or a connection the kf account is not at fault, even where no
/// other kf account backs off.
fn concerned(failure: &CallFailure) -> Scope {
    let shared = failure.endpoint.kind() == CallKind::Token
        || failure.error.rejects_token()
        || matches!(failure.error, CallError::Connect(_) | CallError::Tls(_) | CallError::Proxy { .. });
    if shared { Scope::OfficialAccount } else { failure.class.scope() }
}

/// Logs that calls for the official account succeed again, if they failed before.
pub(super) fn log_calls_succeed(official_account: &OfficialAccount, started_at: Moment) {
    let recovery = official_account.failure_streak().succeeded(started_at);
    if let Some(recovery) = recovery {
        let (failed_polls, after) = (recovery.failures, describe(recovery, "poll"));
        tracing::info!(
            account = %official_account.status.name, failed_polls, "Calls succeed again {after}"
        );
    }
}

/// Logs a failure of a poll, or one that every call of an official account would meet.
pub(super) fn log_failure(account: &str, failure: &CallFailure) {
    let (remedy, remedy_zh) = remedies(failure);
    let (remedy, remedy_zh) = (remedy.as_deref(), remedy_zh.as_deref());
    let (class, code) = (failure.class.as_str(), failure.error.code());
    match failure.class {
        ErrorClass::Busy => {
            tracing::info!(account, class, code, remedy, remedy_zh, "Poll failed: {failure}");
        }
        ErrorClass::TokenRejected | ErrorClass::MinuteQuota | ErrorClass::DayQuota | ErrorClass::Unknown => {
            tracing::warn!(account, class, code, remedy, remedy_zh, "Poll failed: {failure}");
        }
        _ => tracing::error!(account, class, code, remedy, remedy_zh, "Poll failed: {failure}"),
    }
}

/// Logs that a collection failed. Never an error: sessions are still polled.
pub(super) fn log_collection_failure(official_account: &str, collector: Collector, failure: &CallFailure) {
    let (remedy, remedy_zh) = remedies(failure);
    let (remedy, remedy_zh) = (remedy.as_deref(), remedy_zh.as_deref());
    let (collector, class, code) = (collector.as_str(), failure.class.as_str(), failure.error.code());
    match failure.class {
        ErrorClass::Busy => tracing::info!(
            official_account,
            collector,
            class,
            code,
            remedy,
            remedy_zh,
            "Collection failed: {failure}"
        ),
        _ => tracing::warn!(
            official_account,
            collector,
            class,
            code,
            remedy,
            remedy_zh,
            "Collection failed: {failure}"
        ),
    }
}

/// What to do about a failure, in English and Chinese.
fn remedies(failure: &CallFailure) -> (Option<Cow<'static, str>>, Option<Cow<'static, str>>) {
    failure.remedy().map(|RemedyText { en, zh }| (en, zh)).unzip()
}

/// Logs that a collector succeeds again.
pub(super) fn log_collection_recovery(official_account: &str, collector: Collector, recovery: Recovery) {
    let (failures, after) = (recovery.failures, describe(recovery, "collection"));
    let collector = collector.as_str();
    tracing::info!(official_account, collector, failures, "Collections succeed again {after}");
}

fn log_repeated(account: &Account, outcome: &PollOutcome) {
    tracing::debug!(%account, ?outcome, "Poll failed again, or backs off");
}

/// How often `what` failed and for how long: "after 37 failed polls in 9m 15s".
fn describe(recovery: Recovery, what: &str) -> String {
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
    fn shared_failures_are_logged_for_the_official_account() {
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
    fn recovery_is_described_with_count_and_duration() {
        let lasted = Duration::from_millis(555_900);
        assert_eq!(describe(Recovery { failures: 37, lasted }, "poll"), "after 37 failed polls in 9m 15s");
        assert_eq!(
            describe(Recovery { failures: 1, lasted: Duration::ZERO }, "commit"),
            "after 1 failed commit in 0s"
        );
    }
}
