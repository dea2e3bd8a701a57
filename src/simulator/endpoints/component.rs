//! POST /cgi-bin/component/…: what a third-party platform calls for itself.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use serde::Deserialize;

use super::super::answer::Object;
use super::super::component::{Authorization, Component, RefreshRefusal, TicketVerdict};
use super::super::lock;
use super::super::quota::Refusal;
use super::super::routes::{Endpoint, query_parameter};
use super::super::scenario::Style;
use super::super::token::{Issued, Verdict};
use super::super::world::{OfficialAccount, World};
use super::Outcome;

/// The most that api_get_authorizer_list gives at once.
const MAX_LISTED_AUTHORIZERS: usize = 500;

/// The body of a component's call.
#[derive(Debug, Default, Deserialize)]
pub(in super::super) struct ComponentCall<'a> {
    #[serde(borrow)]
    pub(in super::super) component_appid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    component_appsecret: Option<Cow<'a, str>>,
    #[serde(borrow)]
    component_secret: Option<Cow<'a, str>>,
    #[serde(borrow)]
    component_verify_ticket: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(in super::super) authorizer_appid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    authorizer_refresh_token: Option<Cow<'a, str>>,
    offset: Option<usize>,
    count: Option<usize>,
}

impl<'a> ComponentCall<'a> {
    /// None if the body is not the JSON that was asked for.
    pub(in super::super) fn from_json(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

/// Who is asked for what.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Asked<'a> {
    pub(in super::super) endpoint: Endpoint,
    pub(in super::super) query: &'a str,
    pub(in super::super) call: Option<&'a ComponentCall<'a>>,
    pub(in super::super) component: Option<&'a Component>,
    /// The one that authorizer_appid names, if there is one.
    pub(in super::super) official: Option<&'a OfficialAccount>,
}

/// The calls that a component makes for itself.
pub(in super::super) fn answer(asked: Asked<'_>, world: &World, now_ms: i64) -> Outcome {
    let call = asked.call.ok_or(47001)?;
    present(&call.component_appid).ok_or(41018)?;
    let component = asked.component.ok_or(61011)?;
    if component.address_refused.load(Ordering::Relaxed) {
        return Err(61004);
    }
    match asked.endpoint {
        Endpoint::ComponentToken => component_token(call, component, now_ms),
        Endpoint::StartPushTicket => {
            let secret = present(&call.component_secret).or(present(&call.component_appsecret));
            check_secret(component, secret)?;
            lock(&component.tickets).resume();
            Ok(br#"{"errcode":0,"errmsg":"ok"}"#.to_vec())
        }
        Endpoint::AuthorizerToken => {
            check_component_token(component, asked.query, now_ms)?;
            authorizer_token(call, component, (world, asked.official), now_ms)
        }
        _ => {
            check_component_token(component, asked.query, now_ms)?;
            authorizer_list(call, component, world)
        }
    }
}

fn component_token(call: &ComponentCall<'_>, component: &Component, now_ms: i64) -> Outcome {
    check_secret(component, present(&call.component_appsecret))?;
    let ticket = call.component_verify_ticket.as_deref().ok_or(47001)?;
    match lock(&component.tickets).judge(ticket, now_ms) {
        TicketVerdict::Valid => {}
        TicketVerdict::Expired => return Err(61005),
        TicketVerdict::Unknown => return Err(61006),
    }
    let issued = lock(&component.desk).issue_classic(now_ms).map_err(Refusal::errcode)?;
    Ok(token_body("component_access_token", &issued, None))
}

fn authorizer_token(
    call: &ComponentCall<'_>,
    component: &Component,
    (world, official): (&World, Option<&OfficialAccount>),
    now_ms: i64,
) -> Outcome {
    present(&call.authorizer_appid).ok_or(41002)?;
    let official = official.ok_or(40013)?;
    let mut authorization = official
        .authorization
        .as_ref()
        .filter(|_| world.component_of(official).is_some_and(|of| of.appid == component.appid))
        .map(lock)
        .ok_or(61003)?;
    let presented = call.authorizer_refresh_token.as_deref().unwrap_or_default();
    let refresh_token = authorization.refresh(presented).map_err(|refusal| match refusal {
        RefreshRefusal::Withdrawn => 61003,
        RefreshRefusal::Invalid => 61023,
    })?;
    let issued = lock(&official.desk).issue_authorizer(now_ms).map_err(Refusal::errcode)?;
    Ok(token_body("authorizer_access_token", &issued, Some(&refresh_token)))
}

/// The official accounts that grant the component now, with their refresh tokens.
fn authorizer_list(call: &ComponentCall<'_>, component: &Component, world: &World) -> Outcome {
    let count = call.count.ok_or(47001)?;
    if count == 0 || count > MAX_LISTED_AUTHORIZERS {
        return Err(40097);
    }
    let officials = component.authorizers.iter().filter_map(|place| world.official_accounts().get(*place));
    let granting: Vec<&OfficialAccount> = officials
        .filter(|official| official.authorization.as_ref().map(lock).is_some_and(|it| it.is_granted()))
        .collect();
    let style = Style::default();
    let mut body = Object::new(&style, 64 + granting.len().min(count) * 160);
    body.number("total_count", i64::try_from(granting.len()).unwrap_or(i64::MAX));
    let page = granting.into_iter().skip(call.offset.unwrap_or(0)).take(count);
    body.array("list", page, |entry, official| {
        let authorization = official.authorization.as_ref().map(lock);
        let listed = authorization.as_deref().and_then(Authorization::listed);
        if let Some((refresh_token, granted_ms)) = listed {
            entry.text("authorizer_appid", &official.appid);
            entry.text("refresh_token", refresh_token);
            entry.number("auth_time", granted_ms.div_euclid(1_000));
        }
    });
    Ok(body.finish())
}

fn check_secret(component: &Component, secret: Option<&str>) -> Result<(), i64> {
    if secret.ok_or(41004)? == &*component.secret { Ok(()) } else { Err(40125) }
}

fn check_component_token(component: &Component, query: &str, now_ms: i64) -> Result<(), i64> {
    let token =
        component.parameter.accepted().iter().find_map(|name| query_parameter(query, name)).ok_or(41001)?;
    match lock(&component.desk).judge(&token, now_ms) {
        Verdict::Valid => Ok(()),
        Verdict::Expired => Err(42001),
        Verdict::NotLatest => Err(40001),
    }
}

fn token_body(key: &str, issued: &Issued, refresh_token: Option<&str>) -> Vec<u8> {
    let style = Style::default();
    let mut body = Object::new(&style, 384);
    body.text(key, &issued.value);
    body.number("expires_in", issued.expires_in_s);
    if let Some(refresh_token) = refresh_token {
        body.text("authorizer_refresh_token", refresh_token);
    }
    body.finish()
}

/// A field that is empty is as good as absent.
fn present<'a>(field: &'a Option<Cow<'_, str>>) -> Option<&'a str> {
    field.as_deref().filter(|text| !text.is_empty())
}
