//! The errors of calls to WeChat: why a call failed, the class that decides the backoff, and the remedy.
//!
//! The meaning of each errcode is in [`crate::domain::errcode`], the backoff of each class in
//! [`crate::domain::backoff`]. This is the only place that gives a failed call its class.

use std::{borrow::Cow, time::Duration};

use super::{origin::TokenOrigin, wire::WireError};
use crate::{
    domain::{
        clock::Moment,
        endpoint::{CallKind, Endpoint},
        errcode,
        error_class::{ErrorClass, Scope},
        peer_text::PeerText,
        remedy::{self, Remedy, RemedyText},
    },
    tls::TlsRefusal,
};

/// Why a call failed. The text contains no URL, no token and no part of a body except `errmsg`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what happened")]
pub enum CallError {
    #[error("errcode {code}: {message}")]
    Refused {
        code: i64,
        /// The errmsg, with secrets removed.
        message: PeerText,
    },
    /// The answer did not arrive completely before the timeout.
    #[error("no response in time")]
    Timeout,
    #[error("connection failed: {0}")]
    Connect(PeerText),
    #[error("TLS failed: {0}")]
    Tls(TlsRefusal),
    /// The HTTP client tells no status but 407.
    #[error("{}", proxy_refusal(.status))]
    Proxy { status: Option<u16> },
    /// WeChat rejected an access token of the operator's own file or server.
    #[error("WeChat refused the token that {origin} gave ({code}): it is old, or belongs to another appid")]
    ForeignTokenRefused { code: i64, origin: Box<TokenOrigin> },
    /// The operator's own server does not answer this request, and would not answer it later either.
    #[error("{server} answers with HTTP status {status}")]
    ServerRefused { status: u16, server: Box<str> },
    #[error("HTTP status {status}")]
    Http { status: u16, retry_after: Option<Duration> },
    #[error("malformed response: {0}")]
    Malformed(Box<str>),
    #[error("response larger than {limit} bytes")]
    TooLarge { limit: usize },
    /// A token is needed, the minimum interval since the last fetch has not passed, and that fetch was interrupted or made by a
    /// previous process. Polls and commands wait instead ([`FetchWait`](super::token::FetchWait)).
    #[error("no access token, and the next fetch is not allowed yet")]
    TokenNotYet,
    #[error("token file: {0}")]
    TokenFile(Box<str>),
    #[error("ticket file: {0}")]
    TicketFile(Box<str>),
    #[error("no refresh token: the official account is not among those that have authorized the component")]
    NoRefreshToken,
    /// WeChat issued a new refresh token, which must not be used before it is stored.
    #[error("the new refresh token could not be stored: {0}")]
    RefreshTokenNotStored(Box<str>),
    /// Replicas share the token of a component, and this one does not know whether it may fetch another one.
    #[error("the component's token that the replicas share could not be read: {0}")]
    TokenNotShared(Box<str>),
}

/// A failed call, with everything that decides the reaction to it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {error}", endpoint.as_str())]
pub struct CallFailure {
    /// The call that failed.
    pub endpoint: Endpoint,
    /// The class that decides the backoff.
    pub class: ErrorClass,
    /// When the request was sent.
    pub sent_at: Moment,
    /// Why it failed. Not a `source`, because the text of this type already includes it.
    pub error: CallError,
}

/// The texts of hyper-util's errors, whose type is private, when a proxy answers 407 or another status than 200.
const PROXY_AUTH_REQUIRED: &str = "tunnel error: proxy authorization required";
const TUNNEL_REFUSED: &str = "tunnel error: unsuccessful";

impl CallError {
    /// Removes `secrets` from the errmsg before it is shortened: the server may quote what was sent.
    pub(super) fn from_wire(error: WireError, secrets: &[&str]) -> Self {
        match error {
            WireError::Refused { code, message } => {
                let secrets = secrets.iter().filter(|secret| !secret.is_empty());
                let message = secrets.fold(message, |message, secret| message.replace(*secret, "[REDACTED]"));
                Self::Refused { code, message: message.into() }
            }
            WireError::Malformed(reason) => Self::Malformed(reason.into()),
        }
    }

    /// Names the origin of a rejected token, if it is not WeChat.
    pub(super) fn of_token_from(self, origin: Option<&TokenOrigin>) -> Self {
        match (self, origin) {
            (Self::Refused { code, .. }, Some(origin)) if rejects_token(code) => {
                Self::ForeignTokenRefused { code, origin: Box::new(origin.clone()) }
            }
            (error, _) => error,
        }
    }

    /// Names the operator's own server in a refusal that only a person can end.
    pub(super) fn of_server(self, server: String) -> Self {
        match self {
            // A redirect is not followed, and the other statuses ask for another attempt.
            Self::Http { status: status @ 300..=499, .. } if !matches!(status, 408 | 425 | 429) => {
                Self::ServerRefused { status, server: server.into() }
            }
            error => error,
        }
    }

    pub(super) fn from_http(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            Self::Timeout
        } else if error.is_body() || error.is_decode() {
            Self::Malformed("the response is incomplete".into())
        } else if let Some(refusal) = TlsRefusal::find(&error) {
            Self::Tls(refusal)
        } else {
            match crate::innermost_cause(&error.without_url()) {
                cause if &*cause == PROXY_AUTH_REQUIRED => Self::Proxy { status: Some(407) },
                cause if &*cause == TUNNEL_REFUSED => Self::Proxy { status: None },
                cause => Self::Connect(cause),
            }
        }
    }

    /// The value of the label `code`: the number of an errcode that is in the table, a word for everything else.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { code, .. } | Self::ForeignTokenRefused { code, .. } => {
                errcode::label(*code).unwrap_or("other")
            }
            Self::Timeout => "timeout",
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::Proxy { .. } => "proxy",
            Self::Http { .. } | Self::ServerRefused { .. } => "http",
            Self::Malformed(_) => "malformed",
            Self::TooLarge { .. } => "too_large",
            Self::TokenNotYet
            | Self::TokenFile(_)
            | Self::TicketFile(_)
            | Self::NoRefreshToken
            | Self::RefreshTokenNotStored(_)
            | Self::TokenNotShared(_) => "token",
        }
    }

    /// The errcode, if the answer has one.
    pub fn errcode(&self) -> Option<i64> {
        match self {
            Self::Refused { code, .. } | Self::ForeignTokenRefused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// How long the server asked us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Http { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The class of this error at this endpoint.
    pub fn class(&self, endpoint: Endpoint) -> ErrorClass {
        match self {
            Self::Refused { code, .. } | Self::ForeignTokenRefused { code, .. } => {
                errcode::class(*code, endpoint)
            }
            Self::TokenFile(_) | Self::TicketFile(_) | Self::NoRefreshToken | Self::ServerRefused { .. } => {
                ErrorClass::NotAuthorized
            }
            Self::Tls(_) | Self::Proxy { status: Some(403 | 407) } => ErrorClass::TlsOrProxyRefused,
            Self::Timeout
            | Self::Connect(_)
            | Self::Proxy { .. }
            | Self::Http { .. }
            | Self::Malformed(_)
            | Self::TooLarge { .. }
            | Self::TokenNotYet
            | Self::RefreshTokenNotStored(_)
            | Self::TokenNotShared(_) => ErrorClass::Busy,
        }
    }

    /// Whether WeChat rejected the token that was used.
    pub fn rejects_token(&self) -> bool {
        self.errcode().is_some_and(rejects_token)
    }

    /// Whether the call failed only because it had no valid token.
    pub fn lacks_token(&self) -> bool {
        self.rejects_token() || matches!(self, Self::TokenNotYet)
    }

    /// The place that the remedy names, if it names one.
    fn place(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::ServerRefused { server, .. } => Some((&**server).into()),
            Self::ForeignTokenRefused { origin, .. } => Some(origin.place()),
            _ => None,
        }
    }

    fn remedy(&self, endpoint: Endpoint) -> Option<Remedy> {
        match self {
            Self::TokenNotYet => None,
            Self::TokenFile(_) => Some(remedy::TOKEN_FILE),
            Self::TicketFile(_) => Some(remedy::TICKET_FILE),
            Self::NoRefreshToken => Some(remedy::AUTHORIZE),
            Self::ForeignTokenRefused { origin, .. } => Some(match **origin {
                TokenOrigin::File(_) => remedy::STALE_TOKEN_FILE,
                TokenOrigin::Server(_) => remedy::STALE_SERVER_TOKEN,
            }),
            Self::ServerRefused { status: 401 | 403, .. } => Some(remedy::SERVER_LOGIN),
            Self::ServerRefused { .. } => Some(remedy::SERVER_URL),
            Self::RefreshTokenNotStored(_) | Self::TokenNotShared(_) => Some(remedy::STORE),
            Self::Tls(refusal) => Some(tls_remedy(refusal)),
            Self::Proxy { status: Some(407) } => Some(remedy::PROXY_LOGIN),
            Self::Proxy { status: Some(403) } => Some(remedy::PROXY_FORBIDS),
            Self::Proxy { .. } => Some(remedy::PROXY_FAILS),
            _ if endpoint == Endpoint::TokenServer => Some(remedy::TOKEN_SERVER),
            Self::Refused { code, .. } => errcode::remedy(*code, endpoint),
            // WeChat has answered wrong credentials with an empty page.
            Self::Malformed(_) if endpoint == Endpoint::ComponentToken => Some(remedy::PLATFORM_SECRET),
            Self::Malformed(_) if endpoint.kind() == CallKind::Token => Some(remedy::SECRET),
            Self::Connect(_) | Self::Timeout => Some(remedy::NETWORK),
            Self::TooLarge { .. } => Some(remedy::TOO_LARGE),
            Self::Http { .. } | Self::Malformed(_) => Some(remedy::PROXY),
        }
    }
}

/// Whether WeChat rejects the access token with this errcode.
fn rejects_token(code: i64) -> bool {
    matches!(code, 40001 | 40014 | 42001)
}

fn proxy_refusal(status: &Option<u16>) -> String {
    match status {
        None => "the proxy does not connect; `kfwatch check --online` asks it for its status".to_owned(),
        Some(407) => "the proxy wants a login (HTTP status 407)".to_owned(),
        Some(403) => "the proxy forbids the connection (HTTP status 403)".to_owned(),
        Some(status) => format!("the proxy does not connect (HTTP status {status})"),
    }
}

fn tls_remedy(refusal: &TlsRefusal) -> Remedy {
    match refusal {
        TlsRefusal::UnknownIssuer => remedy::TLS_ISSUER,
        TlsRefusal::WrongName { .. } => remedy::TLS_NAME,
        TlsRefusal::CaAsLeaf => remedy::TLS_CA_AS_LEAF,
        TlsRefusal::OutOfDate(_) => remedy::TLS_DATE,
        TlsRefusal::Certificate(_) | TlsRefusal::NotTls | TlsRefusal::Disagreement(_) => remedy::TLS,
    }
}

impl CallFailure {
    /// Adds the status with which the proxy refuses to connect, if it is not known yet.
    pub(super) fn add_proxy_status(&mut self, status: u16) {
        if self.lacks_proxy_status() {
            self.error = CallError::Proxy { status: Some(status) };
            self.class = self.error.class(self.endpoint);
        }
    }

    /// Whether a proxy refused to connect, and its status is unknown.
    pub fn lacks_proxy_status(&self) -> bool {
        self.error == CallError::Proxy { status: None }
    }

    /// A call that was sent at `sent_at` and failed, with its class.
    pub fn new(endpoint: Endpoint, error: CallError, sent_at: Moment) -> Self {
        Self { endpoint, class: error.class(endpoint), sent_at, error }
    }

    /// What a human should do, if a human can do something.
    pub fn remedy(&self) -> Option<RemedyText> {
        let remedy = self.error.remedy(self.endpoint)?;
        Some(self.error.place().map_or_else(|| remedy.into(), |place| remedy.at(&place)))
    }

    /// Whether every other call for the official account would fail for the same reason. Then the whole official account
    /// backs off; after any other failure of a collector, only that collector does.
    pub fn concerns_every_call(&self) -> bool {
        let fetching = self.endpoint.kind() == CallKind::Token;
        self.class.concerns_every_call() || (fetching && self.class.scope() == Scope::OfficialAccount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: i64) -> CallError {
        CallError::Refused { code, message: "".into() }
    }

    #[test]
    fn unknown_errcode_is_labelled_other_and_shown_by_number() {
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
    fn known_errcode_is_its_own_label() {
        assert_eq!(refused(65402).code(), "65402");
    }

    #[test]
    fn any_token_server_failure_points_to_the_token_server() {
        for error in [refused(40001), refused(7), CallError::Timeout, CallError::Malformed("".into())] {
            assert_eq!(error.remedy(Endpoint::TokenServer), Some(remedy::TOKEN_SERVER), "{error}");
        }
    }

    #[test]
    fn call_and_class_decide_whether_every_call_is_affected() {
        let failure = |code, endpoint| {
            let sent_at = Moment { wall: jiff::Timestamp::UNIX_EPOCH, monotonic: Duration::ZERO };
            CallFailure::new(endpoint, refused(code), sent_at)
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
}
