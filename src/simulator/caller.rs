//! Who makes a request, for whom: found before anything is judged, so that refused requests are counted and struck by
//! faults like all others.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use super::attendance::KfAccount;
use super::component::Component;
use super::endpoints::component::ComponentCall;
use super::endpoints::token::Credentials;
use super::exchange::Request;
use super::fault::{Call, OnConnection};
use super::requests::TokenCall;
use super::routes::{Endpoint, query_parameter};
use super::token::official_account_number;
use super::world::OfficialAccount;

/// Who calls, as far as the request tells.
#[derive(Debug)]
pub(super) struct Caller<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) access_token: Option<Cow<'a, str>>,
    /// None also if the body of a token call is no JSON.
    pub(super) credentials: Option<Credentials<'a>>,
    /// None also if the body of a component's call is no JSON.
    pub(super) component_call: Option<ComponentCall<'a>>,
    pub(super) component: Option<&'a Component>,
    pub(super) official: Option<&'a OfficialAccount>,
    pub(super) kf_name: Option<Cow<'a, str>>,
    pub(super) kf_account: Option<Arc<KfAccount>>,
}

impl<'a> Caller<'a> {
    /// Reads the request; nothing is judged yet.
    pub(super) fn identify(shared: &'a Shared, endpoint: Endpoint, request: &Request<'a>) -> Self {
        let mut caller = Caller {
            endpoint,
            access_token: None,
            credentials: None,
            component_call: None,
            component: None,
            official: None,
            kf_name: None,
            kf_account: None,
        };
        let world = &shared.world;
        let appid_behind =
            |endpoint: Endpoint| request.path.strip_prefix(endpoint.path()).unwrap_or_default();
        match endpoint {
            Endpoint::Token => caller.credentials = Some(Credentials::from_query(request.query)),
            Endpoint::StableToken => caller.credentials = Credentials::from_json(request.body),
            Endpoint::TokenServer => caller.official = world.by_appid(appid_behind(endpoint)),
            Endpoint::TicketServer => caller.component = world.component(appid_behind(endpoint)),
            _ if endpoint.is_of_component() => caller.component_call = ComponentCall::from_json(request.body),
            _ => caller.access_token = query_parameter(request.query, "access_token"),
        }
        if let Some(appid) = caller.credentials.as_ref().and_then(|credentials| credentials.appid.as_deref())
        {
            caller.official = world.by_appid(appid);
        }
        if let Some(call) = &caller.component_call {
            caller.component = call.component_appid.as_deref().and_then(|appid| world.component(appid));
            caller.official = call.authorizer_appid.as_deref().and_then(|appid| world.by_appid(appid));
        }
        if let Some(number) = caller.access_token.as_deref().and_then(official_account_number) {
            caller.official = world.official_accounts().get(number);
        }
        if endpoint == Endpoint::GetSessionList {
            caller.kf_name = query_parameter(request.query, "kf_account");
            let named = caller.official.zip(caller.kf_name.as_deref());
            caller.kf_account = named.and_then(|(official, name)| official.kf_account(name));
        }
        caller
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
            shared.token_calls.record(TokenCall { endpoint: self.endpoint, appid, at_ms: now_ms });
        }
    }

    /// What faults look at.
    pub(super) fn call(&self, on_connection: OnConnection, since_start_ms: i64) -> Call<'_> {
        Call {
            endpoint: self.endpoint,
            official_account: self.official.map(|official| [&*official.name, &*official.appid]),
            kf_account: self.kf_name.as_deref(),
            on_connection,
            since_start_ms,
        }
    }
}
