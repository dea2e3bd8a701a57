//! Third-party platforms ("components").

mod authorization;
mod tickets;

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use super::api_call::ApiCall;
use super::scenario::{ComponentParameter, ComponentScript, RequiredHeader};
use super::token::TokenIssuer;

pub(super) use self::authorization::{Authorization, NOT_AUTHORIZED};
pub(super) use self::tickets::Tickets;

/// One component.
#[derive(Debug)]
pub(super) struct Component {
    pub(super) appid: Arc<str>,
    pub(super) secret: Box<str>,
    pub(super) parameter: ComponentParameter,
    pub(super) ticket_header: Option<RequiredHeader>,
    /// Indices of the official accounts that grant it or have granted it, in the order of the authorizer list.
    pub(super) authorizers: Vec<usize>,
    pub(super) token_issuer: Mutex<TokenIssuer>,
    pub(super) tickets: Tickets,
    /// Whether its IP address is not in the allow-list. Every call then gets 61004.
    pub(super) address_refused: AtomicBool,
    pub(super) requests: [AtomicU64; ApiCall::ALL.len()],
}

impl Component {
    pub(super) fn new(script: &ComponentScript, token_issuer: TokenIssuer, tickets: Tickets) -> Self {
        Component {
            appid: script.component_appid.as_str().into(),
            secret: script.secret.as_str().into(),
            parameter: script.component_parameter,
            ticket_header: script.ticket_header.clone(),
            authorizers: Vec::with_capacity(script.authorizers.len()),
            token_issuer: Mutex::new(token_issuer),
            tickets,
            address_refused: AtomicBool::new(false),
            requests: Default::default(),
        }
    }
}
