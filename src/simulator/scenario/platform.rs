//! Who acts for official accounts: third-party platforms, and the operator's own token server.

use serde::Deserialize;

/// A third-party platform ("component").
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentScript {
    /// The platform's own appid.
    pub component_appid: String,
    /// The platform's own AppSecret.
    pub secret: String,
    /// Names or appids of the official accounts that have granted it; each may grant one platform.
    pub authorizers: Vec<String>,
    /// How the component_access_token is to be given.
    #[serde(default)]
    pub component_parameter: ComponentParameter,
    /// Whether api_authorizer_token gives another refresh token each time.
    #[serde(default)]
    pub rotate_refresh_tokens: RefreshTokenRotation,
    /// Demanded by the operator's server of tickets.
    #[serde(default)]
    pub ticket_header: Option<RequiredHeader>,
}

/// Query parameters that are taken for the component_access_token; documents disagree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComponentParameter {
    /// `component_access_token` only, as older pages have it.
    ComponentAccessToken,
    /// `access_token` only, as newer pages have it.
    AccessToken,
    /// Both.
    #[default]
    Either,
}

impl ComponentParameter {
    /// The names that are accepted.
    pub(crate) const fn accepted(self) -> &'static [&'static str] {
        match self {
            ComponentParameter::ComponentAccessToken => &["component_access_token"],
            ComponentParameter::AccessToken => &["access_token"],
            ComponentParameter::Either => &["component_access_token", "access_token"],
        }
    }
}

/// What becomes of a refresh token that was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshTokenRotation {
    /// It stays the one to use.
    #[default]
    Never,
    /// Another one takes its place; it stays valid until that one is used.
    WhenUsed,
    /// Another one takes its place, and it is void at once.
    AtOnce,
}

/// A header without which a server of the operator's own answers 403.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequiredHeader {
    /// Its name.
    pub name: String,
    /// Its value, to the byte.
    pub value: String,
}

/// The operator's central token server. It serves every official account, whoever is configured to use it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenServerScript {
    /// Names or appids of the official accounts whose tokens a client should fetch there.
    pub official_accounts: Vec<String>,
    /// Demanded by the server.
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
        /// The platform.
        component: ComponentScript,
        /// The refresh token of the authorization at the start.
        refresh_token: String,
    },
}
