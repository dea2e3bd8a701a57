//! Logs polls: the first failure, each new reason, and the recovery with a count. Repeats only count.
//!
//! [`FailureStreak`] decides which failures are logged. This module decides to which streak a failure belongs. A failure
//! of a whole official account, or of the store, is logged once and not once for each kf account.

use std::{
    mem::Discriminant,
    sync::{Mutex, PoisonError},
};

use super::{
    backoff::{conclusion, reason},
    guard::PollGuard,
    official_account::OfficialAccount,
    outcome::PollOutcome,
    poll_log::{News, PollLog, after},
};
use crate::{
    domain::{
        account::Account,
        clock::Moment,
        error_class::{ErrorClass, Scope},
        failure_streak::FailureStreak,
    },
    store::StoreError,
    wechat::{
        CallKind,
        error::{CallError, CallFailure},
    },
};

/// Why commits fail.
pub(super) type StoreReason = Discriminant<StoreError>;

/// Logs the outcome of a poll that began at `started_at` and ended at `now`.
pub(super) fn log_outcome(
    log: &PollLog,
    guard: &PollGuard,
    outcome: &PollOutcome,
    (started_at, now): (Moment, impl FnOnce() -> Moment),
) {
    let (account, official_account) = (guard.account(), guard.official_account());
    match outcome {
        PollOutcome::Succeeded => {
            log_calls_succeed(log, official_account, started_at);
            let recovery = account.lock().failure_streak.succeeded(started_at);
            if let Some(recovery) = recovery {
                log.add(Scope::KfAccount, account.account(), News::CallsSucceedAgain(recovery));
            }
        }
        PollOutcome::Failed(failure) if concerned(failure) == Scope::OfficialAccount => {
            let is_news = official_account.failure_streak().failed(reason(failure), now());
            if is_news {
                let news = News::PollFailed(failure.clone(), None);
                log.add(Scope::OfficialAccount, &official_account.status.name, news);
            } else {
                log_repeated(account.account(), outcome);
            }
        }
        PollOutcome::Failed(failure) => {
            // A refusal that concerns the kf account alone shows that the official account works.
            if conclusion(failure.class).is_some() {
                log_calls_succeed(log, official_account, failure.sent_at);
            }
            let (is_news, binding) = {
                let mut data = account.lock();
                (data.failure_streak.failed(reason(failure), now()), data.agent.binding)
            };
            if is_news {
                let binding = binding.filter(|_| failure.class == ErrorClass::UnboundAccount);
                log.add(Scope::KfAccount, account.account(), News::PollFailed(failure.clone(), binding));
            } else {
                log_repeated(account.account(), outcome);
            }
        }
        // `log_commit` has logged a failed commit.
        PollOutcome::NotStored(_) | PollOutcome::BackedOff | PollOutcome::Untrusted => {
            log_repeated(account.account(), outcome)
        }
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
                let after = after(recovery, "commit");
                tracing::info!(failed_commits = recovery.failures, "Polls are stored again {after}");
            }
        }
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
pub(super) fn log_calls_succeed(log: &PollLog, official_account: &OfficialAccount, started_at: Moment) {
    let recovery = official_account.failure_streak().succeeded(started_at);
    if let Some(recovery) = recovery {
        log.add(Scope::OfficialAccount, &official_account.status.name, News::CallsSucceedAgain(recovery));
    }
}

fn log_repeated(account: &Account, outcome: &PollOutcome) {
    tracing::debug!(%account, ?outcome, "Poll failed again, or backs off");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
}
