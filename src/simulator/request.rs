//! An HTTP request, and the accounts that it concerns. They are resolved before anything is checked, so that refused
//! requests are counted and matched with faults like all others.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::{HeaderMap, Method};

use super::Shared;
use super::api_call::ApiCall;
use super::component::Component;
use super::endpoints::component::ComponentRequestBody;
use super::endpoints::token::Credentials;
use super::fault::{ConnectionUse, FaultTarget};
use super::kf_account::KfAccount;
use super::query::query_parameter;
use super::token::official_account_number;
use super::token_calls::TokenCall;
use super::world::OfficialAccount;

/// A request with its whole body.
#[derive(Debug)]
pub(super) struct HttpRequest<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) body: &'a [u8],
    pub(super) headers: &'a HeaderMap,
    pub(super) connection_use: ConnectionUse,
}

/// The parameters of a request and the accounts that they name.
#[derive(Debug)]
pub(super) struct ResolvedRequest<'a> {
    pub(super) endpoint: ApiCall,
    pub(super) access_token: Option<Cow<'a, str>>,
    /// None also if the body of a token request is not the expected JSON.
    pub(super) credentials: Option<Credentials>,
    /// None also if the body of a component's request is not the expected JSON.
    pub(super) component_body: Option<ComponentRequestBody>,
    pub(super) component: Option<&'a Component>,
    pub(super) official: Option<&'a OfficialAccount>,
    pub(super) kf_name: Option<Cow<'a, str>>,
    pub(super) kf_account: Option<Arc<KfAccount>>,
}

impl<'a> ResolvedRequest<'a> {
    pub(super) fn resolve(shared: &'a Shared, endpoint: ApiCall, request: &HttpRequest<'a>) -> Self {
        let mut resolved = ResolvedRequest {
            endpoint,
            access_token: None,
            credentials: None,
            component_body: None,
            component: None,
            official: None,
            kf_name: None,
            kf_account: None,
        };
        let world = &shared.world;
        let appid_in_path = || request.path.strip_prefix(endpoint.path()).unwrap_or_default();
        match endpoint {
            ApiCall::Token => resolved.credentials = Some(Credentials::from_query(request.query)),
            ApiCall::StableToken => resolved.credentials = Credentials::from_json(request.body),
            ApiCall::TokenServer => resolved.official = world.by_appid(appid_in_path()),
            ApiCall::TicketServer => resolved.component = world.component(appid_in_path()),
            _ if endpoint.is_of_component() => {
                resolved.component_body = ComponentRequestBody::from_json(request.body);
            }
            _ => resolved.access_token = query_parameter(request.query, "access_token"),
        }
        if let Some(appid) = resolved.credentials.as_ref().and_then(|it| it.appid.as_deref()) {
            resolved.official = world.by_appid(appid);
        }
        if let Some(body) = &resolved.component_body {
            resolved.component = body.component_appid.as_deref().and_then(|appid| world.component(appid));
            resolved.official = body.authorizer_appid.as_deref().and_then(|appid| world.by_appid(appid));
        }
        if let Some(number) = resolved.access_token.as_deref().and_then(official_account_number) {
            resolved.official = world.official_accounts().get(number);
        }
        if endpoint == ApiCall::GetSessionList {
            resolved.kf_name = query_parameter(request.query, "kf_account");
            let named = resolved.official.zip(resolved.kf_name.as_deref());
            resolved.kf_account = named.and_then(|(official, name)| official.kf_account(name));
        }
        resolved
    }

    pub(super) fn count(&self, shared: &Shared, now_ms: i64) {
        let endpoint = self.endpoint as usize;
        shared.requests[endpoint].fetch_add(1, Ordering::Relaxed);
        if let Some(official) = self.official {
            official.requests[endpoint].fetch_add(1, Ordering::Relaxed);
        }
        if let Some(component) = self.component {
            component.requests[endpoint].fetch_add(1, Ordering::Relaxed);
        }
        if let Some(account) = &self.kf_account {
            account.polls.fetch_add(1, Ordering::Relaxed);
        }
        if self.endpoint.gives_tokens() {
            let official = self.official.map(|official| &official.appid);
            let appid = official.or(self.component.map(|component| &component.appid)).cloned();
            shared.record_token_call(TokenCall { endpoint: self.endpoint, appid, at_ms: now_ms });
        }
    }

    pub(super) fn fault_target(&self, connection_use: ConnectionUse, since_start_ms: i64) -> FaultTarget<'_> {
        FaultTarget {
            endpoint: self.endpoint,
            official_account: self.official.map(|official| [&*official.name, &*official.appid]),
            kf_account: self.kf_name.as_deref(),
            connection_use,
            since_start_ms,
        }
    }
}
