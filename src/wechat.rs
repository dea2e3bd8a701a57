//! The client of the WeChat API: the only module that knows its URLs and the form of its answers.
//!
//! - [`client`] makes a call with a valid access token, and retries it once with a new token if WeChat rejects the old one.
//! - [`token`] fetches and caches that token.
//! - [`rate_limit`] spaces the calls of an official account that has a limit.
//! - [`http`] sends requests and receives answers; `skew` compares the clocks.
//! - [`wire`] parses the answers.
//! - [`error`] turns a failed call into a [`error::CallFailure`] with its class.
//! - [`CallObserver`] receives a report of each call.
//!
//! Callers get parsed answers or failures, never a status, a header or a URL. The access token travels in the URL, so
//! the URL of a request is never printed.

pub mod client;
pub mod error;
pub mod http;
mod observer;
pub mod origin;
pub mod rate_limit;
mod skew;
pub mod token;
pub mod wire;

pub use self::observer::CallObserver;
pub use crate::domain::endpoint::{CallKind, Endpoint};
