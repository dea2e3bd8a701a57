//! POST /cgi-bin/component/…: the requests of third-party platforms.

use std::sync::atomic::Ordering;

use serde::Deserialize;

use super::EndpointResult;
use crate::simulator::api_call::ApiCall;
use crate::simulator::component::{Component, NOT_AUTHORIZED};
use crate::simulator::json_writer::JsonWriter;
use crate::simulator::lock;
use crate::simulator::query::query_parameter;
use crate::simulator::scenario::ResponseStyle;
use crate::simulator::token::IssuedToken;
use crate::simulator::world::{OfficialAccount, World};

/// Limit of entries in one response of api_get_authorizer_list.
const MAX_LISTED_AUTHORIZERS: usize = 500;

/// The JSON body of a component's request.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ComponentRequestBody {
    pub(crate) component_appid: Option<String>,
    component_appsecret: Option<String>,
    component_verify_ticket: Option<String>,
    pub(crate) authorizer_appid: Option<String>,
    authorizer_refresh_token: Option<String>,
    offset: Option<usize>,
    count: Option<usize>,
}

impl ComponentRequestBody {
    /// None if the body is not the expected JSON.
    pub(crate) fn from_json(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

/// A component's request with the accounts that it names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ComponentRequest<'a> {
    pub(crate) endpoint: ApiCall,
    pub(crate) query: &'a str,
    pub(crate) body: Option<&'a ComponentRequestBody>,
    pub(crate) component: Option<&'a Component>,
    /// The official account that authorizer_appid names.
    pub(crate) official: Option<&'a OfficialAccount>,
}

pub(crate) fn respond(request: ComponentRequest<'_>, world: &World, now_ms: i64) -> EndpointResult {
    let body = request.body.ok_or(47001)?;
    present(&body.component_appid).ok_or(41018)?;
    let component = request.component.ok_or(61011)?;
    if component.address_refused.load(Ordering::Relaxed) {
        return Err(61004);
    }
    match request.endpoint {
        ApiCall::ComponentToken => component_token(body, component, now_ms),
        ApiCall::AuthorizerToken => {
            check_component_token(component, request.query, now_ms)?;
            authorizer_token(body, component, (world, request.official), now_ms)
        }
        _ => {
            check_component_token(component, request.query, now_ms)?;
            authorizer_list(body, component, world)
        }
    }
}

fn component_token(body: &ComponentRequestBody, component: &Component, now_ms: i64) -> EndpointResult {
    check_secret(component, present(&body.component_appsecret))?;
    let ticket = body.component_verify_ticket.as_deref().ok_or(47001)?;
    component.tickets.validate(ticket, now_ms)?;
    let issued = lock(&component.token_issuer).issue_classic(now_ms)?;
    Ok(token_body("component_access_token", &issued, None))
}

fn authorizer_token(
    body: &ComponentRequestBody,
    component: &Component,
    (world, official): (&World, Option<&OfficialAccount>),
    now_ms: i64,
) -> EndpointResult {
    present(&body.authorizer_appid).ok_or(41002)?;
    let official = official.ok_or(40013)?;
    let mut authorization = official
        .authorization
        .as_ref()
        .filter(|_| world.component_of(official).is_some_and(|of| of.appid == component.appid))
        .map(lock)
        .ok_or(NOT_AUTHORIZED)?;
    let refresh_token =
        authorization.refresh(body.authorizer_refresh_token.as_deref().unwrap_or_default())?;
    let issued = lock(&official.token_issuer).issue_authorizer(now_ms)?;
    Ok(token_body("authorizer_access_token", &issued, Some(&refresh_token)))
}

/// Lists the official accounts that grant the component now, with their refresh tokens.
fn authorizer_list(
    request_body: &ComponentRequestBody,
    component: &Component,
    world: &World,
) -> EndpointResult {
    let count = request_body.count.ok_or(47001)?;
    if count == 0 || count > MAX_LISTED_AUTHORIZERS {
        return Err(40097);
    }
    let officials = component.authorizers.iter().filter_map(|index| world.official_accounts().get(*index));
    let granted = officials.filter_map(|official| {
        let authorization = lock(official.authorization.as_ref()?);
        let (refresh_token, granted_ms) = authorization.listed()?;
        Some((&*official.appid, refresh_token.to_owned(), granted_ms))
    });
    let granted: Vec<_> = granted.collect();
    let style = ResponseStyle::default();
    let mut body = JsonWriter::new(&style, 64 + granted.len().min(count) * 160);
    body.number("total_count", i64::try_from(granted.len()).unwrap_or(i64::MAX));
    let page = granted.into_iter().skip(request_body.offset.unwrap_or(0)).take(count);
    body.array("list", page, |entry, (appid, refresh_token, granted_ms)| {
        entry.text("authorizer_appid", appid);
        entry.text("refresh_token", &refresh_token);
        entry.number("auth_time", granted_ms.div_euclid(1_000));
    });
    Ok(body.finish())
}

fn check_secret(component: &Component, secret: Option<&str>) -> Result<(), i64> {
    if secret.ok_or(41004)? == &*component.secret { Ok(()) } else { Err(40125) }
}

fn check_component_token(component: &Component, query: &str, now_ms: i64) -> Result<(), i64> {
    let token =
        component.parameter.accepted().iter().find_map(|name| query_parameter(query, name)).ok_or(41001)?;
    lock(&component.token_issuer).validate(&token, now_ms)
}

fn token_body(key: &str, issued: &IssuedToken, refresh_token: Option<&str>) -> Vec<u8> {
    let style = ResponseStyle::default();
    let mut body = JsonWriter::new(&style, 384);
    body.text(key, &issued.value);
    body.number("expires_in", issued.expires_in_s);
    if let Some(refresh_token) = refresh_token {
        body.text("authorizer_refresh_token", refresh_token);
    }
    body.finish()
}

/// An empty field counts as absent.
fn present(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|text| !text.is_empty())
}
