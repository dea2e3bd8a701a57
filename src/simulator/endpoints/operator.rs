//! The servers of the operator, not of WeChat: the ticket server, which returns the newest component_verify_ticket, and
//! the central token server. They refuse with an HTTP status.

use hyper::{HeaderMap, StatusCode};

use crate::simulator::component::Component;
use crate::simulator::json_writer::JsonWriter;
use crate::simulator::lock;
use crate::simulator::response::SimulatedResponse;
use crate::simulator::scenario::{RequiredHeader, ResponseStyle};
use crate::simulator::world::OfficialAccount;

/// The expires_in of a broken token server.
const ANNOUNCED_LIFETIME_S: i64 = 7_200;

/// Returns the newest ticket as plain text.
pub(crate) fn ticket(component: Option<&Component>, headers: &HeaderMap, now_ms: i64) -> SimulatedResponse {
    let Some(component) = component else { return SimulatedResponse::not_found() };
    if !has_required_header(component.ticket_header.as_ref(), headers) {
        return SimulatedResponse::html(StatusCode::FORBIDDEN);
    }
    SimulatedResponse::json(component.tickets.newest(now_ms).into_bytes()).text_plain()
}

/// Returns the same token as stable_token, unless the token server is broken.
pub(crate) fn token(
    official: Option<&OfficialAccount>,
    required: Option<&RequiredHeader>,
    headers: &HeaderMap,
    now_ms: i64,
) -> SimulatedResponse {
    let Some(official) = official else { return SimulatedResponse::not_found() };
    if !has_required_header(required, headers) {
        return SimulatedResponse::html(StatusCode::FORBIDDEN);
    }
    let stale = lock(&official.stale_token).clone();
    let (token, expires_in_s) = match stale {
        Some(stale) => (stale, ANNOUNCED_LIFETIME_S),
        None => {
            let issued = lock(&official.token_issuer).issue_stable(now_ms);
            (issued.value, issued.expires_in_s)
        }
    };
    let style = ResponseStyle::default();
    let mut body = JsonWriter::new(&style, 256);
    body.text("access_token", &token);
    body.number("expires_in", expires_in_s);
    SimulatedResponse::json(body.finish())
}

fn has_required_header(required: Option<&RequiredHeader>, headers: &HeaderMap) -> bool {
    required.is_none_or(|required| {
        headers.get(&required.name).is_some_and(|value| value.as_bytes() == required.value.as_bytes())
    })
}
