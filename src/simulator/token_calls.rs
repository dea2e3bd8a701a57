//! Records the time of each request for tokens: tests check rates, which counters alone cannot show.

use std::sync::Arc;

use super::api_call::ApiCall;
use super::{Shared, lock};

/// Limit of recorded token calls. Later ones are only counted.
const MAX_TOKEN_CALLS: usize = 100_000;

/// One request for an access token, a ticket or refresh tokens, whatever the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenCall {
    pub endpoint: ApiCall,
    /// The official account, or else the component. None if the request names neither.
    pub appid: Option<Arc<str>>,
    /// When the request arrived, in UNIX milliseconds of the simulated clock.
    pub at_ms: i64,
}

impl Shared {
    pub(super) fn record_token_call(&self, call: TokenCall) {
        let mut calls = lock(&self.token_calls);
        if calls.len() < MAX_TOKEN_CALLS {
            calls.push(call);
        }
    }
}
