//! The calls that kfwatch makes, and what each is for.
//!
//! Their URLs are known to `wechat` only.

/// A call that kfwatch makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// `GET /cgi-bin/token`
    Token,
    /// `POST /cgi-bin/stable_token`
    StableToken,
    /// The operator's central token server, which does not belong to WeChat.
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

/// The purpose of a call. The same errcode can mean different things to different kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// Fetches an access token.
    Token,
    /// Lists the sessions of one kf account.
    Poll,
    /// Collects facts about the official account as a whole.
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
    pub const fn as_str(self) -> &'static str {
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

    /// The call with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.as_str() == name)
    }

    /// The purpose of the call.
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

    /// Whether its request may be sent again when the connection broke before the answer, so that nobody knows whether WeChat
    /// received it.
    pub fn may_be_repeated(self) -> bool {
        match self {
            // Each issues another token. The last one may also use up the refresh token.
            Self::Token | Self::ComponentToken | Self::AuthorizerToken => false,
            // stable_token returns the same token again, because kfwatch never forces another one.
            Self::StableToken
            | Self::TokenServer
            | Self::AuthorizerList
            | Self::SessionList
            | Self::KfList
            | Self::OnlineKfList
            | Self::WaitCase
            | Self::Quota => true,
        }
    }
}
