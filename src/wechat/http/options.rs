//! The options of the HTTP client.

use std::time::Duration;

use reqwest::Url;

use crate::tls::TlsRoots;

/// The HTTP version to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
    /// The version that TLS negotiates.
    Auto,
}

/// How to reach WeChat, and the limits of one call.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientOptions {
    /// The base URL of the API.
    pub base_url: Url,
    /// The timeout for establishing a connection.
    pub connect_timeout: Duration,
    /// The timeout for a complete answer.
    pub timeout: Duration,
    /// The size limit of an answer, in bytes after decompression.
    pub max_body_bytes: usize,
    /// The HTTP version.
    pub http_version: HttpVersion,
    /// TLS roots to use instead of the system's.
    pub ca: Option<TlsRoots>,
    /// A proxy for all calls.
    pub proxy: Option<Url>,
}

/// The HTTP client cannot be built from its options.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client: {0}")]
pub struct ClientBuildError(pub(super) String);

impl From<reqwest::Error> for ClientBuildError {
    fn from(error: reqwest::Error) -> Self {
        Self(crate::innermost_cause(&error.without_url()).into())
    }
}
