//! The WeChat API, as far as kfwatch calls it: the only place that knows its URLs and errcodes.
//!
//! [`client`] makes a call with a valid access token and repeats it once with a new token when the old one is refused;
//! [`token`] keeps that token; [`pace`] spaces the calls where they are limited; [`http`] sends and receives; `skew`
//! compares the clocks; [`wire`] reads what comes back; [`error`] says what a refusal means. Callers see parsed answers or
//! a [`error::CallFailure`] with its class, never a status, a header or a URL: the access token travels in the URL, so no
//! URL of a request is ever printed.

pub mod client;
pub mod error;
pub mod http;
pub mod rate_limit;
mod skew;
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
    /// The operator's own central token server, which is not WeChat's.
    TokenServer,
    /// `POST /cgi-bin/component/api_component_token`
    ComponentToken,
    /// `POST /cgi-bin/component/api_authorizer_token`
    AuthorizerToken,
    /// `POST /cgi-bin/component/api_get_authorizer_list`
    AuthorizerList,
    /// `GET /customservice/kfsession/getsessionlist`
    SessionList,
    /// `GET /cgi-bin/customservice/getkflist`
    KfList,
    /// `GET /cgi-bin/customservice/getonlinekflist`
    OnlineKfList,
    /// `GET /customservice/kfsession/getwaitcase`
    WaitCase,
    /// `POST /cgi-bin/openapi/quota/get`
    Quota,
}

/// What a call is for: the same errcode means different things to different kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// Fetches an access token.
    Token,
    /// Lists the sessions of one kf account.
    Poll,
    /// Collects what is known of the official account as a whole.
    Collector,
}

impl Endpoint {
    /// Every call, in the order of the variants.
    pub const ALL: [Self; 11] = [
        Self::Token,
        Self::StableToken,
        Self::TokenServer,
        Self::ComponentToken,
        Self::AuthorizerToken,
        Self::AuthorizerList,
        Self::SessionList,
        Self::KfList,
        Self::OnlineKfList,
        Self::WaitCase,
        Self::Quota,
    ];

    /// The name used in labels, events and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::StableToken => "stable_token",
            Self::TokenServer => "token_server",
            Self::ComponentToken => "api_component_token",
            Self::AuthorizerToken => "api_authorizer_token",
            Self::AuthorizerList => "api_get_authorizer_list",
            Self::SessionList => "getsessionlist",
            Self::KfList => "getkflist",
            Self::OnlineKfList => "getonlinekflist",
            Self::WaitCase => "getwaitcase",
            Self::Quota => "quota_get",
        }
    }

    /// What the call is for.
    pub fn kind(self) -> CallKind {
        match self {
            Self::Token
            | Self::StableToken
            | Self::TokenServer
            | Self::ComponentToken
            | Self::AuthorizerToken
            | Self::AuthorizerList => CallKind::Token,
            Self::SessionList => CallKind::Poll,
            Self::KfList | Self::OnlineKfList | Self::WaitCase | Self::Quota => CallKind::Collector,
        }
    }

    /// Under the base URL. The token server has a URL of its own.
    fn path(self) -> &'static str {
        match self {
            Self::Token => "cgi-bin/token",
            Self::StableToken => "cgi-bin/stable_token",
            Self::TokenServer => "",
            Self::ComponentToken => "cgi-bin/component/api_component_token",
            Self::AuthorizerToken => "cgi-bin/component/api_authorizer_token",
            Self::AuthorizerList => "cgi-bin/component/api_get_authorizer_list",
            Self::SessionList => "customservice/kfsession/getsessionlist",
            Self::KfList => "cgi-bin/customservice/getkflist",
            Self::OnlineKfList => "cgi-bin/customservice/getonlinekflist",
            Self::WaitCase => "customservice/kfsession/getwaitcase",
            Self::Quota => "cgi-bin/openapi/quota/get",
        }
    }
}

/// Who wants to know of the calls made for one official account.
pub trait CallObserver: Send + Sync + 'static {
    /// A request was answered, or failed, after that long.
    fn called(&self, endpoint: Endpoint, elapsed: Duration, error: Option<&CallError>);

    /// An access token was fetched or read; where its source says so, it expires then, in UNIX seconds.
    fn token_refreshed(&self, expires_at: Option<i64>);

    /// The access token was refused and dropped.
    fn token_dropped(&self);

    /// Fetching or reading an access token failed.
    fn token_refresh_failed(&self);

    /// WeChat refused our token long before it expired, and gave out another one: some other program fetched one.
    fn token_replaced(&self);

    /// This machine's clock was found to be so many seconds ahead of WeChat's, or behind it if negative.
    fn clock_skew_known(&self, _seconds: f64) {}
}

/// The longest full kf account, in characters.
pub const MAX_KF_ACCOUNT_CHARS: usize = 64;

/// Whether a text can be a full kf account, `prefix@wechatid`, in the URL of a request and in a log.
pub fn is_kf_account(text: &str) -> bool {
    // These would be read as something else there.
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "&=#?%".contains(c);
    let parts: Vec<&str> = text.split('@').collect();
    matches!(parts[..], [prefix, wechatid] if !prefix.is_empty() && !wechatid.is_empty())
        && !text.contains(forbidden)
        && text.chars().count() <= MAX_KF_ACCOUNT_CHARS
}
