//! Why a poll or a collection failed, as far as the log distinguishes reasons.

use super::{endpoint::Endpoint, error_class::ErrorClass};

/// The reason of a failure. [`FailureStreak`](super::failure_streak::FailureStreak) logs each new one once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FailureReason {
    /// The endpoint that failed, or `kfwatch`.
    pub(crate) source: &'static str,
    pub(crate) code: &'static str,
    /// Distinguishes errcodes that share a code.
    pub(crate) errcode: Option<i64>,
    /// The same errcode can get worse: a token that is refused for every call is another reason than one refusal.
    pub(crate) class: Option<ErrorClass>,
}

impl FailureReason {
    /// A bug in kfwatch.
    pub(crate) const PANIC: Self = Self { source: "kfwatch", code: "panic", errcode: None, class: None };
    /// getsessionlist refuses a kf account to which no WeChat user is bound.
    pub(crate) const UNBOUND: Self = Self {
        source: Endpoint::SessionList.as_str(),
        code: "65402",
        errcode: Some(65402),
        class: Some(ErrorClass::UnboundAccount),
    };
    /// The store failed to commit what the answer changes.
    pub(crate) const STORE: Self = Self { source: "kfwatch", code: "store", errcode: None, class: None };
}
