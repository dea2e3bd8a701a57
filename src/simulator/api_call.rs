//! The calls that the simulator answers, and their paths.

use serde::Deserialize;

/// A call of the simulated WeChat API, or of the simulated servers of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiCall {
    Token,
    StableToken,
    #[serde(rename = "getsessionlist")]
    GetSessionList,
    #[serde(rename = "getkflist")]
    GetKfList,
    #[serde(rename = "getonlinekflist")]
    GetOnlineKfList,
    #[serde(rename = "getwaitcase")]
    GetWaitCase,
    QuotaGet,
    #[serde(rename = "api_component_token")]
    ComponentToken,
    #[serde(rename = "api_authorizer_token")]
    AuthorizerToken,
    #[serde(rename = "api_get_authorizer_list")]
    AuthorizerList,
    /// The operator's server of component_verify_tickets.
    TicketServer,
    /// The operator's central token server.
    TokenServer,
}

impl ApiCall {
    /// Every call, in the order of the variants.
    pub const ALL: [ApiCall; 12] = [
        ApiCall::Token,
        ApiCall::StableToken,
        ApiCall::GetSessionList,
        ApiCall::GetKfList,
        ApiCall::GetOnlineKfList,
        ApiCall::GetWaitCase,
        ApiCall::QuotaGet,
        ApiCall::ComponentToken,
        ApiCall::AuthorizerToken,
        ApiCall::AuthorizerList,
        ApiCall::TicketServer,
        ApiCall::TokenServer,
    ];

    /// The path under the base URL. For the operator's servers, the part before the appid.
    pub const fn path(self) -> &'static str {
        match self {
            ApiCall::Token => "/cgi-bin/token",
            ApiCall::StableToken => "/cgi-bin/stable_token",
            ApiCall::GetSessionList => "/customservice/kfsession/getsessionlist",
            ApiCall::GetKfList => "/cgi-bin/customservice/getkflist",
            ApiCall::GetOnlineKfList => "/cgi-bin/customservice/getonlinekflist",
            ApiCall::GetWaitCase => "/customservice/kfsession/getwaitcase",
            ApiCall::QuotaGet => "/cgi-bin/openapi/quota/get",
            ApiCall::ComponentToken => "/cgi-bin/component/api_component_token",
            ApiCall::AuthorizerToken => "/cgi-bin/component/api_authorizer_token",
            ApiCall::AuthorizerList => "/cgi-bin/component/api_get_authorizer_list",
            ApiCall::TicketServer => "/simulator/tickets/",
            ApiCall::TokenServer => "/simulator/tokens/",
        }
    }

    /// Whether clients use POST with a JSON body. The other calls use GET.
    pub(super) fn is_post(self) -> bool {
        matches!(self, ApiCall::StableToken | ApiCall::QuotaGet) || self.is_of_component()
    }

    /// Whether it fetches tokens or tickets. These calls are limited, so the simulator records each of them.
    pub(super) fn gives_tokens(self) -> bool {
        !self.takes_access_token()
    }

    /// Whether it is a call of third-party platforms.
    pub(super) fn is_of_component(self) -> bool {
        self.path().starts_with("/cgi-bin/component/")
    }

    /// Whether it goes to a server of the operator, not to WeChat.
    pub(super) fn is_of_operator(self) -> bool {
        self.path().starts_with("/simulator/")
    }

    /// Whether it requires the access token of an official account.
    pub(super) fn takes_access_token(self) -> bool {
        let fetches_token = matches!(self, ApiCall::Token | ApiCall::StableToken);
        !fetches_token && !self.is_of_component() && !self.is_of_operator()
    }

    pub(super) fn from_path(path: &str) -> Option<ApiCall> {
        let matches_path = |endpoint: &ApiCall| match path.strip_prefix(endpoint.path()) {
            Some(rest) => endpoint.is_of_operator() || rest.is_empty(),
            None => false,
        };
        ApiCall::ALL.into_iter().find(matches_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_call() {
        for call in ApiCall::ALL {
            assert_eq!(ApiCall::from_path(call.path()), Some(call));
        }
        assert_eq!(ApiCall::from_path("/cgi-bin/tokens"), None);
        assert_eq!(ApiCall::from_path("/simulator/tokens/wx1"), Some(ApiCall::TokenServer));
    }
}
