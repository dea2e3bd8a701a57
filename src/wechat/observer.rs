//! What the client reports about the calls for one official account.

use std::time::Duration;

use super::error::CallError;
use crate::domain::endpoint::Endpoint;

/// Receives reports about the calls for one official account.
pub trait CallObserver: Send + Sync + 'static {
    /// A request was answered or failed, after `elapsed`.
    fn called(&self, endpoint: Endpoint, elapsed: Duration, error: Option<&CallError>);

    /// A response that was reported as a success could not be parsed.
    fn rejected(&self, endpoint: Endpoint, error: &CallError);

    /// An access token was fetched or read. `expires_at` is in UNIX seconds; `None` if the source does not state it.
    fn token_refreshed(&self, expires_at: Option<i64>);

    /// The access token was rejected and dropped.
    fn token_dropped(&self);

    /// Fetching or reading an access token failed.
    fn token_refresh_failed(&self);

    /// WeChat rejected our token long before it expired, and issued another: another program has fetched one.
    fn token_replaced(&self);

    /// This machine's clock is `seconds` ahead of WeChat's; negative if it is slow.
    fn clock_skew_known(&self, _seconds: f64) {}
}
