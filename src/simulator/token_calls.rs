//! Records the time of each request for tokens: tests check rates, which counters alone cannot show.

use std::sync::{Arc, Mutex};

use super::endpoint::Endpoint;
use super::lock;

/// Limit of recorded token calls. Later ones are only counted.
pub const MAX_TOKEN_CALLS: usize = 100_000;

/// One request for an access token, a ticket or refresh tokens, whatever the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenCall {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The official account, or else the component. None if the request names neither.
    pub appid: Option<Arc<str>>,
    /// When the request arrived, in UNIX milliseconds of the simulated clock.
    pub at_ms: i64,
}

/// All token calls so far.
#[derive(Debug, Default)]
pub(super) struct TokenCalls(Mutex<Vec<TokenCall>>);

impl TokenCalls {
    pub(super) fn record(&self, call: TokenCall) {
        let mut calls = lock(&self.0);
        if calls.len() < MAX_TOKEN_CALLS {
            calls.push(call);
        }
    }

    pub(super) fn copy(&self) -> Vec<TokenCall> {
        lock(&self.0).clone()
    }
}
