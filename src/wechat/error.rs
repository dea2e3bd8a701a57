//! What a failed call means: how to react, and what a human should do.
//!
//! What WeChat's errcodes mean at which call is in one table, [`errcodes`]; what is done about a class is in
//! [`crate::domain::backoff`]; what a human should do is the [`Remedy`], which log, commands and pages share.

mod errcodes;
mod remedies;

use std::time::Duration;

pub use self::remedies::Remedy;
use self::{
    errcodes::{errcode, label},
    remedies::{
        AUTHORIZE, NETWORK, PLATFORM_SECRET, PROXY, SECRET, STORE, TICKET_FILE, TOKEN_FILE, TOKEN_SERVER,
        TOO_LARGE,
    },
};
use super::{CallKind, Endpoint};
use crate::domain::{
    backoff::{ErrorClass, Scope},
    clock::Moment,
};

/// Why a call gave no usable answer. Its text holds no URL, no token and no part of a body but `errmsg`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// WeChat answered with an errcode other than 0.
    #[error("errcode {code}: {message}")]
    Refused {
        /// The errcode.
        code: i64,
        /// The errmsg, shortened, without secrets.
        message: Box<str>,
    },
    /// No whole answer came in time.
    #[error("no answer in time")]
    Timeout,
    /// No connection could be made, or it broke before an answer.
    #[error("connection failed: {0}")]
    Connect(Box<str>),
    /// A status other than success.
    #[error("HTTP status {status}")]
    Http {
        /// The status.
        status: u16,
        /// What the answer asked for in `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The answer is not what the API promises.
    #[error("malformed answer: {0}")]
    Malformed(Box<str>),
    /// The answer is larger than `api.max_body_bytes`.
    #[error("answer larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// A token is needed, and the last fetch was too short ago for another.
    #[error("no access token, and the next fetch is not allowed yet")]
    TokenNotYet,
    /// The file with the token cannot be used.
    #[error("token file: {0}")]
    TokenFile(Box<str>),
    /// The file with the component's ticket cannot be used.
    #[error("ticket file: {0}")]
    TicketFile(Box<str>),
    /// Nobody knows a refresh token of the official account, WeChat's list included.
    #[error("no refresh token: the official account is not among those that have authorized the component")]
    NoRefreshToken,
    /// WeChat gave out a new refresh token, which must not be used before it is stored.
    #[error("the new refresh token could not be stored: {0}")]
    RefreshTokenNotStored(Box<str>),
}

/// A failed call with all that the reaction to it depends on.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {error}", endpoint.as_str())]
pub struct CallFailure {
    /// The call that failed.
    pub endpoint: Endpoint,
    /// How to react.
    pub class: ErrorClass,
    /// When the request was sent.
    pub sent_at: Moment,
    /// Why it failed. (Not a `source`: the text above has it already.)
    pub error: CallError,
}

impl CallError {
    /// The value of the label `code`: errcodes of the table by their number, everything else by a word.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { code, .. } => label(*code).unwrap_or("other"),
            Self::Timeout => "timeout",
            Self::Connect(_) => "connect",
            Self::Http { .. } => "http",
            Self::Malformed(_) => "malformed",
            Self::TooLarge { .. } => "too_large",
            Self::TokenNotYet
            | Self::TokenFile(_)
            | Self::TicketFile(_)
            | Self::NoRefreshToken
            | Self::RefreshTokenNotStored(_) => "token",
        }
    }

    /// The errcode, if WeChat gave one.
    pub fn errcode(&self) -> Option<i64> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// How long the answer asked us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Http { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// How to react when this endpoint failed so.
    pub fn class(&self, endpoint: Endpoint) -> ErrorClass {
        match self {
            Self::Refused { code, .. } => match (errcode(*code, endpoint), code) {
                (Some(known), _) => known.class,
                // These ranges are about requests, whatever the one code says of them.
                (None, 41_000..=41_999 | 43_000..=43_999) => ErrorClass::BadRequest,
                (None, _) => ErrorClass::Unknown,
            },
            Self::TokenFile(_) | Self::TicketFile(_) | Self::NoRefreshToken => ErrorClass::NotAuthorized,
            Self::Timeout
            | Self::Connect(_)
            | Self::Http { .. }
            | Self::Malformed(_)
            | Self::TooLarge { .. }
            | Self::TokenNotYet
            | Self::RefreshTokenNotStored(_) => ErrorClass::Busy,
        }
    }

    /// Whether the token used is the reason.
    pub fn rejects_token(&self) -> bool {
        matches!(self, Self::Refused { code: 40001 | 40014 | 42001, .. })
    }

    /// Whether all that was missing is a token that is accepted.
    pub fn lacks_token(&self) -> bool {
        self.rejects_token() || matches!(self, Self::TokenNotYet)
    }

    /// What a human should do, where a human can do something.
    pub fn remedy(&self, endpoint: Endpoint) -> Option<Remedy> {
        match self {
            Self::TokenNotYet => None,
            Self::TokenFile(_) => Some(TOKEN_FILE),
            Self::TicketFile(_) => Some(TICKET_FILE),
            Self::NoRefreshToken => Some(AUTHORIZE),
            Self::RefreshTokenNotStored(_) => Some(STORE),
            _ if endpoint == Endpoint::TokenServer => Some(TOKEN_SERVER),
            Self::Refused { code, .. } => errcode(*code, endpoint).and_then(|known| known.remedy),
            // Wrong credentials have been answered with an empty page.
            Self::Malformed(_) if endpoint == Endpoint::ComponentToken => Some(PLATFORM_SECRET),
            Self::Malformed(_) if endpoint.kind() == CallKind::Token => Some(SECRET),
            Self::Connect(_) | Self::Timeout => Some(NETWORK),
            Self::TooLarge { .. } => Some(TOO_LARGE),
            Self::Http { .. } | Self::Malformed(_) => Some(PROXY),
        }
    }
}

impl CallFailure {
    /// The failure of a call that was sent then, with the class that it has.
    pub fn new(endpoint: Endpoint, error: CallError, sent_at: Moment) -> Self {
        Self { endpoint, class: error.class(endpoint), sent_at, error }
    }

    /// Whether any other call for the official account would fail for the same reason, so that it is held back as a
    /// whole. Other failures of a collector hold back that collector alone.
    pub fn concerns_every_call(&self) -> bool {
        let fetching = self.endpoint.kind() == CallKind::Token;
        self.class.concerns_every_call() || (fetching && self.class.scope() == Scope::OfficialAccount)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(code: i64) -> CallError {
        CallError::Refused { code, message: "".into() }
    }

    /// Each code with its class at token calls with an AppSecret, at polls and at collectors, and whether a human can do
    /// something about it.
    #[test]
    fn every_errcode_has_the_class_of_the_contract_at_every_kind_of_call() {
        use ErrorClass::*;
        for (codes, classes, human) in [
            (&[-1, 61450][..], [Busy; 3], false),
            (&[40001], [NotAuthorized, TokenRejected, TokenRejected], true),
            (&[40014, 42001], [BadRequest, TokenRejected, TokenRejected], true),
            (&[40013, 40125, 40243, 42007], [NotAuthorized; 3], true),
            (&[40164, 45035, 61004], [AddressNotAllowed; 3], true),
            (&[89501, 89502, 89503, 89504, 89505], [AddressNotAllowed; 3], true),
            (&[89506], [AddressRefusedForDay; 3], true),
            (&[89507], [AddressRefusedForHour; 3], true),
            (&[45009, 48006], [DayQuota; 3], true),
            (&[45011], [MinuteQuota; 3], true),
            (&[48001, 48004, 50002, 61003, 61005, 61006, 61007], [NotAuthorized; 3], true),
            (&[61011, 61014, 61015, 61023, 61024, 61028], [NotAuthorized; 3], true),
            (&[65400], [NotEnabled; 3], true),
            (&[61452, 65401], [BadRequest, InvalidAccount, BadRequest], true),
            (&[65402], [BadRequest, UnboundAccount, BadRequest], true),
            (&[40002, 40003, 41001, 41002, 41004, 41018, 43001, 43002, 43003, 47001], [BadRequest; 3], true),
            (&[61451, 61453, 61454, 61455, 61456, 61457, 61458, 61459], [BadRequest; 3], true),
            (&[65403, 65404, 65405, 65406, 65407, 65408, 65409, 65410], [BadRequest; 3], true),
            (&[65411, 65412, 65413, 65414, 65415, 65416, 65417], [BadRequest; 3], true),
            (&[76001, 76021], [BadRequest; 3], true),
            (&[76003, 76022], [BadRequest; 3], true),
        ] {
            for &code in codes {
                let error = refused(code);
                let at = [Endpoint::StableToken, Endpoint::SessionList, Endpoint::WaitCase];
                assert_eq!(at.map(|endpoint| error.class(endpoint)), classes, "{code}");
                assert_eq!(error.code(), code.to_string());
                for endpoint in Endpoint::ALL.into_iter().filter(|at| *at != Endpoint::TokenServer) {
                    assert_eq!(error.remedy(endpoint).is_some(), human, "{code} at {}", endpoint.as_str());
                }
            }
        }
    }

    #[test]
    fn a_code_means_what_it_means_at_the_call_that_was_made() {
        use ErrorClass::*;
        for (code, endpoint, class, advice) in [
            (40001, Endpoint::Token, NotAuthorized, "AppSecret"),
            (40001, Endpoint::ComponentToken, NotAuthorized, "open.weixin.qq.com"),
            (40001, Endpoint::AuthorizerToken, TokenRejected, "component_access_token"),
            (40001, Endpoint::SessionList, TokenRejected, "/cgi-bin/token"),
            (42001, Endpoint::AuthorizerList, TokenRejected, "component_access_token"),
            (40013, Endpoint::AuthorizerToken, NotAuthorized, "component"),
            (40125, Endpoint::ComponentToken, NotAuthorized, "component"),
            (61005, Endpoint::ComponentToken, NotAuthorized, "api_start_push_ticket"),
            (61006, Endpoint::ComponentToken, NotAuthorized, "authorization event URL"),
            (61023, Endpoint::AuthorizerToken, NotAuthorized, "api_get_authorizer_list"),
            (61004, Endpoint::StableToken, AddressNotAllowed, "developer console"),
            (61004, Endpoint::SessionList, AddressNotAllowed, "open.weixin.qq.com"),
            (40164, Endpoint::ComponentToken, AddressNotAllowed, "open.weixin.qq.com"),
            (61024, Endpoint::StableToken, NotAuthorized, "source = \"component\""),
            (61015, Endpoint::SessionList, NotAuthorized, "authorizer_access_token"),
            (45009, Endpoint::Token, DayQuota, "stable"),
            (45009, Endpoint::SessionList, DayQuota, "poll less often"),
            (45009, Endpoint::WaitCase, DayQuota, "[collectors]"),
            (48001, Endpoint::KfList, NotAuthorized, "[collectors]"),
            (61007, Endpoint::SessionList, NotAuthorized, "permission set"),
            (65400, Endpoint::OnlineKfList, NotEnabled, "test accounts"),
            (76003, Endpoint::Quota, NotAuthorized, "[collectors]"),
            (76022, Endpoint::Quota, NotAuthorized, "[collectors]"),
            (76021, Endpoint::Quota, BadRequest, "bug"),
            (65402, Endpoint::SessionList, UnboundAccount, "inviteworker"),
        ] {
            assert_eq!(refused(code).class(endpoint), class, "{code} at {}", endpoint.as_str());
            let remedy = refused(code).remedy(endpoint).unwrap();
            assert!(remedy.en.contains(advice), "{code} at {}: {}", endpoint.as_str(), remedy.en);
        }
    }

    #[test]
    fn an_unknown_errcode_is_counted_as_other_and_told_by_its_number() {
        for (code, class) in [
            (12_345, ErrorClass::Unknown),
            (41_099, ErrorClass::BadRequest),
            (43_101, ErrorClass::BadRequest),
        ] {
            let error = refused(code);
            assert_eq!((error.class(Endpoint::SessionList), error.code()), (class, "other"));
            assert_eq!(error.remedy(Endpoint::SessionList), None);
            assert!(error.to_string().contains(&code.to_string()));
        }
    }

    #[test]
    fn a_token_server_is_itself_the_place_to_look() {
        for error in [refused(40001), refused(7), CallError::Timeout, CallError::Malformed("".into())] {
            assert_eq!(error.remedy(Endpoint::TokenServer), Some(TOKEN_SERVER), "{error}");
        }
    }

    #[test]
    fn what_concerns_every_call_is_known_from_call_and_class() {
        let failure = |code, endpoint| {
            let error = refused(code);
            let sent_at = Moment { wall: jiff::Timestamp::UNIX_EPOCH, monotonic: Duration::ZERO };
            CallFailure { endpoint, class: error.class(endpoint), sent_at, error }
        };
        for (code, endpoint, expected) in [
            (40001, Endpoint::WaitCase, true),
            (40164, Endpoint::KfList, true),
            (89506, Endpoint::KfList, true),
            (40243, Endpoint::StableToken, true),
            (61023, Endpoint::AuthorizerToken, true),
            (45009, Endpoint::Token, true),
            (-1, Endpoint::StableToken, false),
            (48001, Endpoint::WaitCase, false),
            (45009, Endpoint::Quota, false),
            (45011, Endpoint::KfList, false),
            (65400, Endpoint::OnlineKfList, false),
            (-1, Endpoint::WaitCase, false),
        ] {
            let failure = failure(code, endpoint);
            assert_eq!(failure.concerns_every_call(), expected, "{failure}");
        }
    }

    proptest! {
        #[test]
        fn no_errcode_at_no_call_is_without_class_and_label(
            code in prop_oneof![any::<i64>(), 40_000..90_000i64], index in 0..Endpoint::ALL.len(),
        ) {
            let (error, endpoint) = (refused(code), Endpoint::ALL[index]);
            let known = error.code() != "other";
            let unknown = matches!(error.class(endpoint), ErrorClass::Unknown);
            prop_assert!(!(known && unknown));
            prop_assert!(known || unknown || error.class(endpoint) == ErrorClass::BadRequest);
            let conclusive = matches!(error.class(endpoint), ErrorClass::InvalidAccount | ErrorClass::UnboundAccount);
            prop_assert!(!conclusive || endpoint == Endpoint::SessionList, "only polls conclude");
        }
    }
}
