//! What came of a command, as it goes through the socket, to scripts (`--format json`) and to tables.

use serde::{Deserialize, Serialize};

use crate::{
    domain::{error_class::ErrorClass, remedy::Remedy},
    wechat::{
        CallKind,
        error::{CallError, CallFailure},
    },
};

/// The result of one poll.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Polled {
    /// The official account's name.
    pub official_account: String,
    /// The full kf account; `None` where nobody could be polled, as the list of whom to poll was not to be had.
    pub kf_account: Option<String>,
    /// `ok`, the class of the failure, or `no_kf_account`.
    pub result: String,
    /// Its open sessions.
    pub sessions: Option<u64>,
    /// When the session open longest was accepted, in RFC 3339.
    pub oldest_session_started_at: Option<String>,
    /// Sessions that are not in the snapshot.
    pub started: Option<u64>,
    /// Sessions of the snapshot that are open no longer.
    pub ended: Option<u64>,
    /// What failed.
    pub error: Option<String>,
    /// What to do about that.
    pub remedy: Option<String>,
}

/// A result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Checked {
    /// Of an official account; before those of its kf accounts.
    OfficialAccount(CheckedOfficialAccount),
    /// Of a kf account.
    KfAccount(CheckedKfAccount),
}

impl Checked {
    /// The official account, and the kf account if it is the result of one.
    pub fn names(&self) -> (&str, Option<&str>) {
        match self {
            Self::OfficialAccount(row) => (&row.official_account, None),
            Self::KfAccount(row) => (&row.official_account, Some(&row.kf_account)),
        }
    }

    /// What is wrong.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::OfficialAccount(row) => &row.problems,
            Self::KfAccount(row) => &row.problems,
        }
    }
}

/// What was found about an official account. What is not known is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedOfficialAccount {
    /// Its name.
    pub official_account: String,
    /// Where its access token comes from.
    pub token_source: String,
    /// How long ago the present token was fetched.
    pub token_age_seconds: Option<u64>,
    /// How long it is still valid, where its source says so.
    pub token_expires_in_seconds: Option<u64>,
    /// How many calls of getsessionlist its schedule makes a day.
    pub calls_a_day: u64,
    /// How many calls of getsessionlist WeChat allows a day.
    pub quota_limit: Option<u64>,
    /// How many were made today, by whomever.
    pub quota_used: Option<u64>,
    /// How many are left today.
    pub quota_remaining: Option<u64>,
    /// Customers who wait for an agent.
    pub waiting: Option<u64>,
    /// How many milliseconds this machine's clock is ahead of WeChat's, or behind it if negative.
    pub clock_skew_ms: Option<i64>,
    /// What is wrong with it as a whole.
    pub problems: Vec<Problem>,
}

/// What was found about a kf account. What is not known is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedKfAccount {
    /// The official account's name.
    pub official_account: String,
    /// The full kf account.
    pub kf_account: String,
    /// The name that customers see.
    pub nickname: Option<String>,
    /// Whether a WeChat user is bound to it.
    pub bound: Option<bool>,
    /// What became of the last invitation of a WeChat user: `waiting`, `rejected`, `expired` or `other`.
    pub invitation: Option<String>,
    /// Until when the invitation can be accepted, in RFC 3339.
    pub invitation_expires_at: Option<String>,
    /// Whether it is online.
    pub online: Option<bool>,
    /// `ok`, the class of the failure of its poll, or `not_asked`.
    pub result: String,
    /// Its open sessions.
    pub sessions: Option<u64>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The same for problems of the same kind: an errcode, or a word.
    pub code: String,
    /// What is wrong.
    pub error: String,
    /// What to do about it, in English.
    pub remedy: Option<String>,
    /// The same in Chinese.
    pub remedy_zh: Option<String>,
}

/// How bad a problem is; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It does not end before a human has done something.
    Human,
    /// It usually ends by itself.
    Passing,
    /// kfwatch does its work without what is missing.
    Note,
}

/// What getkflist must be granted for where patterns have to find kf accounts.
const LIST_NEEDED: Remedy = Remedy {
    en: "patterns in kf_accounts find nobody without this call: have it granted to the official account (verified; \
         permission set 1, 6 or 100-101) or its quota cleared, or name the kf accounts in full",
    zh: "kf_accounts 中的通配符须靠该接口发现客服帐号：请为公众号（须已认证）开通该接口权限（权限集 1、6 或 100-101）\
         或清零其额度，或在 kf_accounts 中逐一列出客服帐号",
};

/// What a human should do about a getkflist that failed where it is needed. Everywhere else it can be turned off.
pub(super) fn remedy_of_needed_list(failure: &CallFailure) -> Option<Remedy> {
    match failure.error.errcode() {
        Some(45009 | 48001 | 61007) => Some(LIST_NEEDED),
        _ => failure.error.remedy(failure.endpoint),
    }
}

impl Problem {
    /// The code of [a wrong clock](Self::concerns_this_machine).
    pub(super) const CLOCK_SKEW: &str = "clock_skew";

    /// Whether it is the same one fact, whichever official account it was seen at.
    pub fn concerns_this_machine(&self) -> bool {
        self.code == Self::CLOCK_SKEW
    }

    /// Something that a human must do something about.
    pub(super) fn for_a_human(code: &str, error: String, remedy: Remedy) -> Self {
        Self {
            severity: Severity::Human,
            code: code.to_owned(),
            error,
            remedy: Some(remedy.en.to_owned()),
            remedy_zh: Some(remedy.zh.to_owned()),
        }
    }

    /// A call that polls cannot do without has failed.
    pub(super) fn of_poll(failure: &CallFailure) -> Self {
        Self::of(severity(failure), failure.error.remedy(failure.endpoint), failure)
    }

    /// getkflist has failed, and without it no kf account is discovered.
    pub(super) fn of_needed_list(failure: &CallFailure) -> Self {
        Self::of(severity(failure), remedy_of_needed_list(failure), failure)
    }

    /// A call has failed that polls can do without.
    pub(super) fn of_collector(failure: &CallFailure) -> Self {
        Self::of(Severity::Note, failure.error.remedy(failure.endpoint), failure)
    }

    fn of(severity: Severity, remedy: Option<Remedy>, failure: &CallFailure) -> Self {
        Self {
            severity,
            code: failure.error.code().to_owned(),
            error: failure.to_string(),
            remedy: remedy.map(|remedy| remedy.en.to_owned()),
            remedy_zh: remedy.map(|remedy| remedy.zh.to_owned()),
        }
    }
}

/// How bad it is that a call failed that is needed. The class tells how soon to ask again, and that may be soon although
/// only a human can end it.
fn severity(failure: &CallFailure) -> Severity {
    let lasting = match &failure.error {
        CallError::RefreshTokenNotStored(_) => true,
        // Wrong credentials get an empty page, and a json_pointer may point at nothing.
        CallError::Malformed(_) => failure.endpoint.kind() == CallKind::Token,
        // It was refused again after another was asked for, or was so new that there was no other.
        error => error.rejects_token(),
    };
    match failure.class {
        ErrorClass::Busy | ErrorClass::MinuteQuota if !lasting => Severity::Passing,
        _ => Severity::Human,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{domain::clock::Moment, wechat::Endpoint};

    #[test]
    fn what_is_asked_again_soon_may_need_a_human_all_the_same() {
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
            assert_eq!(Problem::of_poll(&failure).severity, severity, "{failure}");
        }
    }
}
