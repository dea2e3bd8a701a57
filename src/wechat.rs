//! The WeChat API, as far as kfwatch calls it: the only place that knows its URLs and errcodes.
//!
//! [`client`] makes a call with a valid access token and repeats it once with a new token when the old one is refused;
//! [`token`] keeps that token; [`pace`] spaces the calls where they are limited; [`http`] sends and receives; `skew`
//! compares the clocks; [`wire`] reads what comes back; [`error`] says what a refusal means. Callers see parsed answers or
//! a [`error::CallFailure`] with its class, never a status, a header or a URL: the access token travels in the URL, so no
//! URL of a request is ever printed.

pub mod client;
pub mod error;
pub mod http;
pub mod rate_limit;
mod skew;
pub mod token;
pub mod wire;

use std::time::Duration;

use error::CallError;

pub use crate::domain::endpoint::{CallKind, Endpoint};

/// Who wants to know of the calls made for one official account.
pub trait CallObserver: Send + Sync + 'static {
    /// A request was answered, or failed, after that long.
    fn called(&self, endpoint: Endpoint, elapsed: Duration, error: Option<&CallError>);

    /// An access token was fetched or read; where its source says so, it expires then, in UNIX seconds.
    fn token_refreshed(&self, expires_at: Option<i64>);

    /// The access token was refused and dropped.
    fn token_dropped(&self);

    /// Fetching or reading an access token failed.
    fn token_refresh_failed(&self);

    /// WeChat refused our token long before it expired, and gave out another one: some other program fetched one.
    fn token_replaced(&self);

    /// This machine's clock was found to be so many seconds ahead of WeChat's, or behind it if negative.
    fn clock_skew_known(&self, _seconds: f64) {}
}

/// The longest full kf account, in characters.
pub const MAX_KF_ACCOUNT_CHARS: usize = 64;

/// Whether a text can be a full kf account, `prefix@wechatid`, in the URL of a request and in a log.
pub fn is_kf_account(text: &str) -> bool {
    // These would be read as something else there.
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "&=#?%".contains(c);
    let parts: Vec<&str> = text.split('@').collect();
    matches!(parts[..], [prefix, wechatid] if !prefix.is_empty() && !wechatid.is_empty())
        && !text.contains(forbidden)
        && text.chars().count() <= MAX_KF_ACCOUNT_CHARS
}
