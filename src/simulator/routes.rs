//! From a request line to an endpoint and its parameters. Nothing is allocated unless a parameter is percent-encoded.

use std::borrow::Cow;

use serde::Deserialize;

/// What can be called.
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
    /// GET /simulator/tickets/ and the component_appid: the operator's own server of component_verify_tickets.
    #[serde(rename = "ticket_server")]
    TicketServer,
    /// GET /simulator/tokens/ and the appid: the operator's own central token server.
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

    /// The path under the base URL; of the operator's own servers, what precedes the appid.
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

    /// Whether it is called by POST with a JSON body; the others by GET.
    pub const fn is_post(self) -> bool {
        matches!(self, Endpoint::StableToken | Endpoint::QuotaGet) || self.is_of_component()
    }

    /// Whether it hands out something that the other calls need: its calls are limited, and so recorded one by one.
    pub const fn gives_tokens(self) -> bool {
        !self.takes_access_token() && !matches!(self, Endpoint::StartPushTicket)
    }

    /// Whether a third-party platform calls it for itself.
    pub(super) const fn is_of_component(self) -> bool {
        matches!(
            self,
            Endpoint::ComponentToken
                | Endpoint::AuthorizerToken
                | Endpoint::AuthorizerList
                | Endpoint::StartPushTicket
        )
    }

    /// Whether it is a server of the operator's own, not WeChat's.
    pub(super) const fn is_of_operator(self) -> bool {
        matches!(self, Endpoint::TicketServer | Endpoint::TokenServer)
    }

    /// Whether it is called for one official account, with a token of that account.
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
        let leads_to = |endpoint: &Endpoint| match path.strip_prefix(endpoint.path()) {
            Some(rest) => endpoint.is_of_operator() || rest.is_empty(),
            None => false,
        };
        Endpoint::ALL.into_iter().find(leads_to)
    }
}

/// The value of a query parameter; none if it is absent or empty, which the API does not distinguish.
pub(super) fn query_parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    (!value.is_empty()).then(|| percent_decoded(value))
}

/// Undoes percent-encoding; what is not a valid escape stays as it is.
fn percent_decoded(value: &str) -> Cow<'_, str> {
    if !value.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(value);
    }
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, escaped_byte(tail)) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => decoded.push(b' '),
            _ => decoded.push(*first),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

fn escaped_byte(tail: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_endpoints() {
        for endpoint in Endpoint::ALL {
            assert_eq!(Endpoint::from_path(endpoint.path()), Some(endpoint));
        }
        assert_eq!(Endpoint::from_path("/cgi-bin/tokens"), None);
        assert_eq!(Endpoint::from_path("/simulator/tokens/wx1"), Some(Endpoint::TokenServer));
    }

    #[test]
    fn an_at_sign_may_be_literal_or_percent_encoded() {
        for query in ["a=1&kf_account=kf1@test", "kf_account=kf1%40test&a=1"] {
            assert_eq!(query_parameter(query, "kf_account").as_deref(), Some("kf1@test"));
        }
    }

    #[test]
    fn absent_and_empty_parameters_are_the_same() {
        for query in ["", "kf_account", "kf_account=", "xkf_account=1", "kf_account2=1"] {
            assert_eq!(query_parameter(query, "kf_account"), None, "{query}");
        }
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        assert_eq!(query_parameter("a=%4", "a").as_deref(), Some("%4"));
        assert_eq!(query_parameter("a=%zz%", "a").as_deref(), Some("%zz%"));
        assert_eq!(query_parameter("a=b+c", "a").as_deref(), Some("b c"));
    }
}
