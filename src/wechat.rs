//! The WeChat API, as far as kfwatch calls it: the only place that knows its URLs and errcodes.
//!
//! [`client`] makes a call with a valid access token and repeats it once with a new token when the old one is refused;
//! [`token`] keeps that token; [`http`] sends and receives; [`wire`] reads what comes back; [`error`] says what a refusal
//! means. Callers see parsed answers or a [`error::CallFailure`] with its class, never a status, a header
//! or a URL: the access token travels in the URL, so no URL of a request is ever printed.

pub mod client;
pub mod error;
pub mod http;
pub mod token;
pub mod wire;

use std::time::Duration;

use error::CallError;

/// The calls that kfwatch makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// `GET /cgi-bin/token`
    Token,
    /// `POST /cgi-bin/stable_token`
    StableToken,
    /// `GET /customservice/kfsession/getsessionlist`
    SessionList,
}

impl Endpoint {
    /// Every call, in the order of the variants.
    pub const ALL: [Self; 3] = [Self::Token, Self::StableToken, Self::SessionList];

    /// The name used in labels, events and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::StableToken => "stable_token",
            Self::SessionList => "getsessionlist",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Token => "cgi-bin/token",
            Self::StableToken => "cgi-bin/stable_token",
            Self::SessionList => "customservice/kfsession/getsessionlist",
        }
    }
}

/// Who wants to know of the calls made for one official account.
pub trait CallObserver: Send + Sync + 'static {
    /// A request was answered, or failed, after that long.
    fn called(&self, endpoint: Endpoint, elapsed: Duration, error: Option<&CallError>);

    /// A new access token was fetched; it expires then, in UNIX seconds.
    fn token_refreshed(&self, expires_at: i64);

    /// The access token was refused and dropped.
    fn token_dropped(&self);

    /// Fetching an access token failed.
    fn token_refresh_failed(&self);

    /// WeChat refused our token long before it expired, and gave out another one: some other program fetched one.
    fn token_replaced(&self);
}
