//! What a failed call means for the account: how long it backs off, what it says about the kf account, and what events
//! report as the cause.

use crate::{
    domain::{
        account::Conclusion,
        active_backoff::ActiveBackoff,
        backoff::{Backoff, BackoffPolicy, FailedCall},
        clock::Moment,
        error_class::ErrorClass,
        failure_reason::FailureReason,
        tracker::FailureCause,
    },
    wechat::error::CallFailure,
};

/// The backoff after a failure that became known at `now`. A backoff that the failure does not change keeps its cause.
pub(super) fn next_backoff(
    policy: &BackoffPolicy,
    previous: Option<ActiveBackoff>,
    failure: &CallFailure,
    now: Moment,
) -> ActiveBackoff {
    let previous_backoff = previous.map(|active| active.backoff);
    let failed = failed_call(failure);
    let backoff = Backoff::after(policy, previous_backoff.as_ref(), failed, now, fastrand::f64());
    match previous {
        Some(active) if active.backoff == backoff => active,
        _ => ActiveBackoff { backoff, cause: cause(failure), every_call: failure.concerns_every_call() },
    }
}

/// The failure, as far as a backoff depends on it.
pub(super) fn failed_call(failure: &CallFailure) -> FailedCall {
    FailedCall { class: failure.class, sent_at: failure.sent_at, retry_after: failure.error.retry_after() }
}

/// What a failure of this class says about the kf account itself.
pub(super) fn conclusion(class: ErrorClass) -> Option<Conclusion> {
    match class {
        ErrorClass::UnboundAccount => Some(Conclusion::Unbound),
        ErrorClass::InvalidAccount => Some(Conclusion::Invalid),
        _ => None,
    }
}

/// What events report as the cause.
pub(super) fn cause(failure: &CallFailure) -> FailureCause {
    FailureCause { errcode: failure.error.errcode(), source: failure.endpoint.as_str() }
}

/// The reason, as far as the log distinguishes reasons.
pub(super) fn reason(failure: &CallFailure) -> FailureReason {
    let CallFailure { endpoint, class, error, .. } = failure;
    FailureReason {
        source: endpoint.as_str(),
        code: error.code(),
        errcode: error.errcode(),
        class: Some(*class),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wechat::{Endpoint, error::CallError};

    fn at(seconds: u64) -> Moment {
        let after = Duration::from_secs(seconds);
        Moment { wall: jiff::Timestamp::UNIX_EPOCH + after, monotonic: after }
    }

    fn refused(code: i64, sent_at: Moment) -> CallFailure {
        CallFailure::new(Endpoint::SessionList, CallError::Refused { code, message: "".into() }, sent_at)
    }

    #[test]
    fn backoff_that_outlasts_a_late_failure_keeps_its_cause() {
        let policy = BackoffPolicy::default();
        let quota = next_backoff(&policy, None, &refused(45009, at(0)), at(5));
        let late = next_backoff(&policy, Some(quota), &refused(40164, at(1)), at(6));
        assert_eq!((late.backoff, late.cause.errcode, late.every_call), (quota.backoff, Some(45009), false));
        let later = next_backoff(&policy, Some(late), &refused(40164, at(7)), at(8));
        assert_eq!((later.cause.errcode, later.every_call), (Some(40164), true));
    }

    #[test]
    fn errcodes_that_share_a_code_are_different_reasons() {
        assert_ne!(reason(&refused(12345, at(0))), reason(&refused(12346, at(0))));
        assert_eq!(reason(&refused(12345, at(0))), reason(&refused(12345, at(0))));
    }

    #[test]
    fn token_refused_for_every_call_is_another_reason() {
        let once = CallFailure { class: ErrorClass::Busy, ..refused(40001, at(0)) };
        let every_call = CallFailure { class: ErrorClass::TokenRejected, ..once.clone() };
        assert_ne!(reason(&once), reason(&every_call));
    }
}
