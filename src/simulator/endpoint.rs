//! The endpoints of the simulator and their paths.

use serde::Deserialize;

/// An endpoint of the simulated WeChat API, or of the simulated servers of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// GET /cgi-bin/token
    Token,
    /// POST /cgi-bin/stable_token
    #[serde(rename = "stable_token")]
    StableToken,
    /// GET /customservice/kfsession/getsessionlist
    GetSessionList,
    /// GET /cgi-bin/customservice/getkflist
    GetKfList,
    /// GET /cgi-bin/customservice/getonlinekflist
    GetOnlineKfList,
    /// GET /customservice/kfsession/getwaitcase
    GetWaitCase,
    /// POST /cgi-bin/openapi/quota/get
    #[serde(rename = "quota_get")]
    QuotaGet,
    /// POST /cgi-bin/component/api_component_token
    #[serde(rename = "api_component_token")]
    ComponentToken,
    /// POST /cgi-bin/component/api_authorizer_token
    #[serde(rename = "api_authorizer_token")]
    AuthorizerToken,
    /// POST /cgi-bin/component/api_get_authorizer_list
    #[serde(rename = "api_get_authorizer_list")]
    AuthorizerList,
    /// POST /cgi-bin/component/api_start_push_ticket
    #[serde(rename = "api_start_push_ticket")]
    StartPushTicket,
    /// GET /simulator/tickets/{component_appid}: the operator's server of component_verify_tickets.
    #[serde(rename = "ticket_server")]
    TicketServer,
    /// GET /simulator/tokens/{appid}: the operator's central token server.
    #[serde(rename = "token_server")]
    TokenServer,
}

impl Endpoint {
    /// Every endpoint, in the order of their discriminants.
    pub const ALL: [Endpoint; 13] = [
        Endpoint::Token,
        Endpoint::StableToken,
        Endpoint::GetSessionList,
        Endpoint::GetKfList,
        Endpoint::GetOnlineKfList,
        Endpoint::GetWaitCase,
        Endpoint::QuotaGet,
        Endpoint::ComponentToken,
        Endpoint::AuthorizerToken,
        Endpoint::AuthorizerList,
        Endpoint::StartPushTicket,
        Endpoint::TicketServer,
        Endpoint::TokenServer,
    ];

    /// The path under the base URL. For the operator's servers, the part before the appid.
    pub const fn path(self) -> &'static str {
        match self {
            Endpoint::Token => "/cgi-bin/token",
            Endpoint::StableToken => "/cgi-bin/stable_token",
            Endpoint::GetSessionList => "/customservice/kfsession/getsessionlist",
            Endpoint::GetKfList => "/cgi-bin/customservice/getkflist",
            Endpoint::GetOnlineKfList => "/cgi-bin/customservice/getonlinekflist",
            Endpoint::GetWaitCase => "/customservice/kfsession/getwaitcase",
            Endpoint::QuotaGet => "/cgi-bin/openapi/quota/get",
            Endpoint::ComponentToken => "/cgi-bin/component/api_component_token",
            Endpoint::AuthorizerToken => "/cgi-bin/component/api_authorizer_token",
            Endpoint::AuthorizerList => "/cgi-bin/component/api_get_authorizer_list",
            Endpoint::StartPushTicket => "/cgi-bin/component/api_start_push_ticket",
            Endpoint::TicketServer => "/simulator/tickets/",
            Endpoint::TokenServer => "/simulator/tokens/",
        }
    }

    /// Whether clients use POST with a JSON body. The other endpoints take GET.
    pub(super) const fn is_post(self) -> bool {
        matches!(self, Endpoint::StableToken | Endpoint::QuotaGet) || self.is_of_component()
    }

    /// Whether it issues tokens or tickets. These calls are limited, so the simulator records each of them.
    pub(super) const fn gives_tokens(self) -> bool {
        !self.takes_access_token() && !matches!(self, Endpoint::StartPushTicket)
    }

    /// Whether it is an endpoint for third-party platforms.
    pub(super) const fn is_of_component(self) -> bool {
        matches!(
            self,
            Endpoint::ComponentToken
                | Endpoint::AuthorizerToken
                | Endpoint::AuthorizerList
                | Endpoint::StartPushTicket
        )
    }

    /// Whether it belongs to a server of the operator, not to WeChat.
    pub(super) const fn is_of_operator(self) -> bool {
        matches!(self, Endpoint::TicketServer | Endpoint::TokenServer)
    }

    /// Whether it requires the access token of an official account.
    pub(super) const fn takes_access_token(self) -> bool {
        matches!(
            self,
            Endpoint::GetSessionList
                | Endpoint::GetKfList
                | Endpoint::GetOnlineKfList
                | Endpoint::GetWaitCase
                | Endpoint::QuotaGet
        )
    }

    pub(super) fn from_path(path: &str) -> Option<Endpoint> {
        let matches_path = |endpoint: &Endpoint| match path.strip_prefix(endpoint.path()) {
            Some(rest) => endpoint.is_of_operator() || rest.is_empty(),
            None => false,
        };
        Endpoint::ALL.into_iter().find(matches_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_endpoint() {
        for endpoint in Endpoint::ALL {
            assert_eq!(Endpoint::from_path(endpoint.path()), Some(endpoint));
        }
        assert_eq!(Endpoint::from_path("/cgi-bin/tokens"), None);
        assert_eq!(Endpoint::from_path("/simulator/tokens/wx1"), Some(Endpoint::TokenServer));
    }
}
