//! The results of `kfwatch poll` and `kfwatch check --online`, as JSON and as tables.

#![expect(missing_docs, reason = "docs/en/reference/output.md describes each field, as a test checks")]

use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        error_class::ErrorClass,
        remedy::{Remedy, RemedyText},
    },
    wechat::{
        CallKind,
        error::{CallError, CallFailure},
    },
};

/// The result of one poll.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollReport {
    pub official_account: String,
    /// The full kf account; `None` if the official account's kf accounts are unknown.
    pub kf_account: Option<String>,
    /// `ok`, the class of the failure, or `no_kf_account`.
    pub result: String,
    pub sessions: Option<u64>,
    /// The start of the longest open session, in RFC 3339.
    pub oldest_session_started_at: Option<String>,
    /// Sessions that are not in the stored snapshot.
    pub started: Option<u64>,
    /// Sessions of the stored snapshot that are no longer open.
    pub ended: Option<u64>,
    /// The errcode or the word of the failure; the same for failures of the same kind.
    pub code: Option<String>,
    pub error: Option<String>,
    pub remedy: Option<String>,
    pub remedy_zh: Option<String>,
}

/// One result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CheckReport {
    /// An official account; its kf accounts follow.
    OfficialAccount(OfficialAccountCheck),
    KfAccount(KfAccountCheck),
}

impl CheckReport {
    /// The official account, and the kf account if the report is about one.
    pub(crate) fn names(&self) -> (&str, Option<&str>) {
        match self {
            Self::OfficialAccount(row) => (&row.official_account, None),
            Self::KfAccount(row) => (&row.official_account, Some(&row.kf_account)),
        }
    }

    pub(crate) fn problems(&self) -> &[Problem] {
        match self {
            Self::OfficialAccount(row) => &row.problems,
            Self::KfAccount(row) => &row.problems,
        }
    }
}

/// The check of an official account. Unknown values are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfficialAccountCheck {
    pub official_account: String,
    pub token_source: String,
    pub token_age_seconds: Option<u64>,
    /// The remaining validity of the token, if its source reports it.
    pub token_expires_in_seconds: Option<u64>,
    /// Calls of getsessionlist that its schedule makes a day.
    pub calls_a_day: u64,
    /// Calls of getsessionlist that WeChat allows a day.
    pub quota_limit: Option<u64>,
    /// Calls made today, by any program.
    pub quota_used: Option<u64>,
    pub quota_remaining: Option<u64>,
    pub waiting: Option<u64>,
    /// By how many milliseconds this machine's clock is ahead of WeChat's; negative if it is slow.
    pub clock_skew_ms: Option<i64>,
    pub problems: Vec<Problem>,
}

/// The check of a kf account. Unknown values are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KfAccountCheck {
    pub official_account: String,
    pub kf_account: String,
    pub nickname: Option<String>,
    pub bound: Option<bool>,
    /// The state of the last invitation of a WeChat user: `waiting`, `rejected`, `expired` or `other`.
    pub invitation: Option<String>,
    /// When the invitation expires, in RFC 3339.
    pub invitation_expires_at: Option<String>,
    pub online: Option<bool>,
    /// `ok`, the class of the failure of its poll, or `not_asked`.
    pub result: String,
    pub sessions: Option<u64>,
    pub problems: Vec<Problem>,
}

/// A problem that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub severity: Severity,
    /// An errcode or a word; problems of the same kind share it.
    pub code: String,
    pub error: String,
    pub remedy: Option<String>,
    pub remedy_zh: Option<String>,
}

/// The severity of a problem; the worst comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A human must fix it.
    Human,
    /// It usually ends without help.
    Passing,
    /// kfwatch works without what is missing.
    Note,
}

/// The configuration names no kf account, and none was discovered.
pub(super) const NO_KF_ACCOUNT: Remedy = Remedy {
    en: "add a kf account in the console, or correct kf_accounts in the configuration",
    zh: "请在公众平台添加客服帐号，或更正配置中的 kf_accounts",
};

/// getkflist is not granted, and patterns need it.
const LIST_NEEDED: Remedy = Remedy {
    en: "patterns in kf_accounts match nothing without this call: have it granted to the official account (verified; \
         permission set 1, 6 or 100-101) or its quota cleared, or name the kf accounts in full",
    zh: "kf_accounts 中的通配符须靠该接口发现客服帐号：请为公众号（须已认证）开通该接口权限（权限集 1、6 或 100-101）\
         或清零其额度，或在 kf_accounts 中逐一列出客服帐号",
};

/// The remedy for a failed getkflist that patterns need. The general remedy is to turn the collector off, which would not help here.
pub(super) fn remedy_of_needed_list(failure: &CallFailure) -> Option<RemedyText> {
    match failure.error.errcode() {
        Some(45009 | 48001 | 61007) => Some(LIST_NEEDED.into()),
        _ => failure.remedy(),
    }
}

impl Problem {
    pub(super) const CLOCK_SKEW: &str = "clock_skew";

    /// Whether the problem is the machine's, and so the same at every official account.
    pub(crate) fn concerns_this_machine(&self) -> bool {
        self.code == Self::CLOCK_SKEW
    }

    pub(super) fn for_human(code: &str, error: String, remedy: Remedy) -> Self {
        Self {
            severity: Severity::Human,
            code: code.to_owned(),
            error,
            remedy: Some(remedy.en.to_owned()),
            remedy_zh: Some(remedy.zh.to_owned()),
        }
    }

    /// A call failed that polls need.
    pub(super) fn from_poll(failure: &CallFailure) -> Self {
        Self::from_failure(severity(failure), failure.remedy(), failure)
    }

    /// getkflist failed, and patterns need it.
    pub(super) fn from_needed_list(failure: &CallFailure) -> Self {
        Self::from_failure(severity(failure), remedy_of_needed_list(failure), failure)
    }

    /// A call failed that polls do not need.
    pub(super) fn from_collector(failure: &CallFailure) -> Self {
        Self::from_failure(Severity::Note, failure.remedy(), failure)
    }

    fn from_failure(severity: Severity, remedy: Option<RemedyText>, failure: &CallFailure) -> Self {
        let (remedy, remedy_zh) =
            remedy.map(|RemedyText { en, zh }| (en.into_owned(), zh.into_owned())).unzip();
        Self {
            severity,
            code: failure.error.code().to_owned(),
            error: failure.to_string(),
            remedy,
            remedy_zh,
        }
    }
}

/// The severity of a failed call that polls need. The error class alone does not decide: it says how soon to retry, and kfwatch
/// retries some failures soon although only a human can fix them.
fn severity(failure: &CallFailure) -> Severity {
    let needs_human = match &failure.error {
        CallError::RefreshTokenNotStored(_) => true,
        // Wrong credentials get an empty page, and a json_pointer may match nothing.
        CallError::Malformed(_) => failure.endpoint.kind() == CallKind::Token,
        // A new token was refused too, or the refused one was so new that there was no other.
        error => error.rejects_token(),
    };
    match failure.class {
        ErrorClass::Busy | ErrorClass::MinuteQuota if !needs_human => Severity::Passing,
        _ => Severity::Human,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{domain::clock::Moment, wechat::Endpoint};

    #[test]
    fn failure_retried_soon_may_need_human() {
        let refused = |code| CallError::Refused { code, message: "".into() };
        let sent_at = Moment { wall: jiff::Timestamp::UNIX_EPOCH, monotonic: Duration::ZERO };
        for (endpoint, error, severity) in [
            (Endpoint::SessionList, refused(40001), Severity::Human),
            (Endpoint::SessionList, refused(42001), Severity::Human),
            (Endpoint::AuthorizerToken, CallError::RefreshTokenNotStored("".into()), Severity::Human),
            (Endpoint::TokenServer, CallError::Malformed("".into()), Severity::Human),
            (Endpoint::StableToken, CallError::Malformed("".into()), Severity::Human),
            (Endpoint::SessionList, CallError::Malformed("".into()), Severity::Passing),
            (Endpoint::StableToken, CallError::Timeout, Severity::Passing),
            (Endpoint::StableToken, CallError::TokenNotYet, Severity::Passing),
            (Endpoint::SessionList, refused(-1), Severity::Passing),
        ] {
            let failure = CallFailure { class: ErrorClass::Busy, endpoint, sent_at, error };
            assert_eq!(Problem::from_poll(&failure).severity, severity, "{failure}");
        }
    }
}
