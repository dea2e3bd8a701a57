//! Other sources of tokens: third-party platforms, and the operator's own token server.

use serde::Deserialize;

/// A third-party platform ("component").
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentScript {
    pub component_appid: String,
    pub secret: String,
    /// The names or appids of the official accounts that authorize it. Each may authorize one platform.
    pub authorizers: Vec<String>,
    /// The query parameter for the component_access_token.
    #[serde(default)]
    pub component_parameter: ComponentParameter,
    /// Whether api_authorizer_token returns a new refresh token each time.
    #[serde(default)]
    pub rotate_refresh_tokens: RefreshTokenRotation,
    /// Required by the operator's ticket server.
    #[serde(default)]
    pub ticket_header: Option<RequiredHeader>,
}

/// The query parameters that are accepted for the component_access_token. WeChat's pages disagree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComponentParameter {
    /// Only `component_access_token`, as on older pages.
    ComponentAccessToken,
    /// Only `access_token`, as on newer pages.
    AccessToken,
    #[default]
    Either,
}

impl ComponentParameter {
    /// The names of the parameters.
    pub(crate) const fn accepted(self) -> &'static [&'static str] {
        match self {
            ComponentParameter::ComponentAccessToken => &["component_access_token"],
            ComponentParameter::AccessToken => &["access_token"],
            ComponentParameter::Either => &["component_access_token", "access_token"],
        }
    }
}

/// What happens to a refresh token when it is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshTokenRotation {
    /// It stays the current one.
    #[default]
    Never,
    /// A new one replaces it. It stays valid until the new one is used.
    WhenUsed,
    /// A new one replaces it, and it is invalid at once.
    AtOnce,
}

/// A header without which a server of the operator responds with 403.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequiredHeader {
    pub name: String,
    /// Compared byte by byte.
    pub value: String,
}

/// The operator's central token server. It serves every official account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenServerScript {
    /// The names or appids of the official accounts whose tokens a client should fetch there.
    pub official_accounts: Vec<String>,
    /// Required by the server.
    pub header: Option<RequiredHeader>,
}

/// Where a client should get an official account's access tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenRoute {
    /// From WeChat, with the AppSecret.
    Secret,
    /// From the operator's token server, with this header.
    TokenServer(Option<RequiredHeader>),
    /// From WeChat, through this component.
    Component {
        component: ComponentScript,
        /// The first refresh token of the authorization.
        refresh_token: String,
    },
}
