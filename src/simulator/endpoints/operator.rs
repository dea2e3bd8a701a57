//! Servers that are the operator's own and not WeChat's: the one that keeps the newest component_verify_ticket, and the
//! central token server. They refuse by HTTP status.

use hyper::{HeaderMap, StatusCode};

use super::super::answer::{Answer, Object};
use super::super::component::Component;
use super::super::lock;
use super::super::scenario::{RequiredHeader, Style};
use super::super::world::OfficialAccount;

/// What a stale token server says of its token's life, as if nothing were wrong.
const ANNOUNCED_LIFE_S: i64 = 7_200;

/// The newest ticket, as plain text.
pub(in super::super) fn ticket(component: Option<&Component>, headers: &HeaderMap, now_ms: i64) -> Answer {
    let Some(component) = component else { return Answer::not_found() };
    if !is_admitted(component.ticket_header.as_ref(), headers) {
        return Answer::html(StatusCode::FORBIDDEN);
    }
    Answer::json(lock(&component.tickets).newest(now_ms).into_bytes()).text_plain()
}

/// The official account's token that is valid now, as stable_token would give it.
pub(in super::super) fn token(
    official: Option<&OfficialAccount>,
    required: Option<&RequiredHeader>,
    headers: &HeaderMap,
    now_ms: i64,
) -> Answer {
    let Some(official) = official else { return Answer::not_found() };
    if !is_admitted(required, headers) {
        return Answer::html(StatusCode::FORBIDDEN);
    }
    let stale = lock(&official.stale_token).clone();
    let (token, expires_in_s) = match stale {
        Some(stale) => (stale, ANNOUNCED_LIFE_S),
        None => match lock(&official.desk).issue_stable(now_ms) {
            Ok(issued) => (issued.value, issued.expires_in_s),
            Err(_) => return Answer::html(StatusCode::BAD_GATEWAY),
        },
    };
    let style = Style::default();
    let mut body = Object::new(&style, 256);
    body.text("access_token", &token);
    body.number("expires_in", expires_in_s);
    Answer::json(body.finish())
}

fn is_admitted(required: Option<&RequiredHeader>, headers: &HeaderMap) -> bool {
    required.is_none_or(|required| {
        headers.get(&required.name).is_some_and(|value| value.as_bytes() == required.value.as_bytes())
    })
}
