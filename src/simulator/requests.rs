//! When tokens were asked for: tests hold ceilings on that, which counters alone cannot show.

use std::sync::{Arc, Mutex};

use super::lock;
use super::routes::Endpoint;

/// Token calls recorded at most; later ones are only counted.
pub const MAX_TOKEN_CALLS: usize = 100_000;

/// One request for an access token, a ticket or refresh tokens, whatever the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenCall {
    /// What was called.
    pub endpoint: Endpoint,
    /// Of the official account, else of the component, that it was made for; none if the request names neither.
    pub appid: Option<Arc<str>>,
    /// When the request arrived by the simulated clock, UNIX milliseconds.
    pub at_ms: i64,
}

/// The requests for tokens up to now.
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
