//! What holds polls back after a failure, and what the failure says.

use crate::{
    domain::{
        account::Conclusion,
        backoff::{Backoff, BackoffPolicy, FailedCall},
        clock::Moment,
        error_class::ErrorClass,
        tracker::FailureCause,
    },
    wechat::error::CallFailure,
};

/// A hold, and what consumers are told of its cause.
#[derive(Clone, Copy, Debug)]
pub(super) struct ActiveBackoff {
    pub(super) hold: Backoff,
    pub(super) cause: FailureCause,
    /// Whether any call of the official account would fail for the same reason.
    pub(super) every_call: bool,
}

impl ActiveBackoff {
    /// What holds after this failure: a hold that goes on keeps its own cause.
    pub(super) fn after(
        backoff_policy: &BackoffPolicy,
        previous: Option<Self>,
        failure: &CallFailure,
        now: Moment,
    ) -> Self {
        let failed = FailedCall {
            class: failure.class,
            sent_at: failure.sent_at,
            retry_after: failure.error.retry_after(),
        };
        let of_previous = previous.map(|held| held.hold);
        let hold = Backoff::after(backoff_policy, of_previous.as_ref(), failed, now, fastrand::f64());
        match previous {
            Some(held) if held.hold == hold => held,
            _ => Self { hold, cause: cause(failure), every_call: failure.concerns_every_call() },
        }
    }
}

/// Ends a hold that a success shows to be over.
pub(super) fn release(held: &mut Option<ActiveBackoff>, sent_at: Moment) {
    if held.is_some_and(|held| held.hold.ended_by_request_sent_at(sent_at)) {
        *held = None;
    }
}

/// What a refusal says about the kf account itself.
pub(super) fn conclusion(failure: &CallFailure) -> Option<Conclusion> {
    concluded(failure.class)
}

/// What a failure of this class says about the kf account itself.
pub(super) fn concluded(class: ErrorClass) -> Option<Conclusion> {
    match class {
        ErrorClass::UnboundAccount => Some(Conclusion::Unbound),
        ErrorClass::InvalidAccount => Some(Conclusion::Invalid),
        _ => None,
    }
}

/// What consumers are told of a failure.
pub(super) fn cause(failure: &CallFailure) -> FailureCause {
    FailureCause { errcode: failure.error.errcode(), source: failure.endpoint.as_str() }
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

    #[test]
    fn a_hold_that_outlasts_a_late_failure_keeps_its_cause() {
        let refused = |code, sent_at| {
            CallFailure::new(Endpoint::SessionList, CallError::Refused { code, message: "".into() }, sent_at)
        };
        let backoff_policy = BackoffPolicy::default();
        let quota = ActiveBackoff::after(&backoff_policy, None, &refused(45009, at(0)), at(5));
        let late = ActiveBackoff::after(&backoff_policy, Some(quota), &refused(40164, at(1)), at(6));
        assert_eq!((late.hold, late.cause.errcode, late.every_call), (quota.hold, Some(45009), false));
        let later = ActiveBackoff::after(&backoff_policy, Some(late), &refused(40164, at(7)), at(8));
        assert_eq!((later.cause.errcode, later.every_call), (Some(40164), true));
    }
}
