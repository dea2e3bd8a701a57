//! Counters of the calls and access tokens of one official account.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError, atomic::AtomicU64},
};

use crate::domain::endpoint::Endpoint;

/// Counters of the calls and access tokens of one official account.
#[derive(Default)]
pub struct CallCounters {
    /// Requests by endpoint, in the order of `Endpoint::ALL`.
    pub(crate) requests: [AtomicU64; Endpoint::ALL.len()],
    /// Failed requests by endpoint and code.
    pub(crate) errors: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    pub(crate) token_refreshes: AtomicU64,
    pub(crate) token_refresh_failures: AtomicU64,
    /// Tokens that another program replaced.
    pub(crate) token_replaced: AtomicU64,
    /// When the current token expires, in UNIX seconds; 0 without a token.
    pub(crate) token_expires_at: AtomicU64,
    /// Whether the last attempt to get an access token succeeded; `None` before the first.
    last_refresh: Mutex<Option<bool>>,
}

impl CallCounters {
    /// Whether the last attempt to get an access token succeeded; `None` before the first.
    pub fn last_refresh(&self) -> Option<bool> {
        *self.last_refresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_last_refresh(&self, succeeded: bool) {
        *self.last_refresh.lock().unwrap_or_else(PoisonError::into_inner) = Some(succeeded);
    }
}
