//! What is logged of polls: the first failure of its kind, and the end of failing. What repeats is for the counters.

use std::sync::PoisonError;

use super::{Claim, OfficialAccount, PollOutcome, WatchedAccount, account::conclusion};
use crate::{
    domain::{
        account::AccountState,
        holds::{ErrorClass, Scope},
    },
    wechat::error::CallFailure,
};

/// Logs the outcome of a poll that failed with `code`, when the one before failed with `before`.
pub(super) fn log(
    claim: &Claim,
    outcome: &PollOutcome,
    code: Option<&'static str>,
    before: Option<&'static str>,
) {
    let kf_account = claim.account().account();
    match outcome {
        PollOutcome::Failed(failure) if failure.class.scope() == Scope::OfficialAccount => {
            let mut logged =
                claim.official_account().failing_with.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::replace(&mut *logged, code) != code {
                log_failure(&kf_account.official_account, failure);
            }
        }
        PollOutcome::Failed(failure) if conclusion(failure).is_some() => {
            calls_succeed(claim.official_account());
            if code != before {
                log_failure(&kf_account.to_string(), failure);
            }
        }
        PollOutcome::Failed(failure) if code != before => log_failure(&kf_account.to_string(), failure),
        PollOutcome::NotStored(error) if code != before => {
            tracing::error!(account = %kf_account, "Poll not stored: {}", crate::chain(error));
        }
        PollOutcome::Succeeded => {
            calls_succeed(claim.official_account());
            if let Some(code) = before {
                tracing::info!(account = %kf_account, code, "Polls succeed again");
            }
        }
        PollOutcome::Failed(_) | PollOutcome::NotStored(_) | PollOutcome::Held => {
            tracing::debug!(account = %kf_account, ?outcome, "Poll failed again");
        }
    }
}

/// The official account is answered again: what is logged of it next is news.
fn calls_succeed(official_account: &OfficialAccount) {
    let mut logged = official_account.failing_with.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(code) = logged.take() {
        let official_account = &official_account.status.name;
        tracing::info!(%official_account, code, "Calls succeed again");
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
        let binding = account.status.agent().binding;
        if let Some(binding) = binding {
            tracing::warn!(account = %account.account(), "The account is unbound; getkflist says: {binding}");
        }
    }
}

fn log_failure(who: &str, failure: &CallFailure) {
    let remedy = failure.error.remedy(failure.endpoint).map_or("", |remedy| remedy.en);
    let (class, code) = (failure.class.as_str(), failure.error.code());
    match failure.class {
        ErrorClass::Busy => tracing::info!(account = who, class, code, remedy, "Poll failed: {failure}"),
        ErrorClass::TokenRejected | ErrorClass::MinuteQuota | ErrorClass::DayQuota | ErrorClass::Unknown => {
            tracing::warn!(account = who, class, code, remedy, "Poll failed: {failure}");
        }
        _ => tracing::error!(account = who, class, code, remedy, "Poll failed: {failure}"),
    }
}
