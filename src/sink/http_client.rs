//! What the sinks that send HTTP requests have in common: the client, the beginning of a response, and why a request failed.

use std::time::Duration;

use reqwest::{Client, ClientBuilder, Response, redirect};

use crate::tls::TlsRefusal;

/// How many bytes of a response body are read. The connection is reused if that was all of it.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// How long to wait for the body of a response.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// How many bytes of a body are kept, more than are shown.
const KEPT_BYTES: usize = 1024;

/// Idle connections are closed before most servers would.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(25);

/// A client that follows no redirects, uses no proxy and repeats nothing by itself. `timeout` limits a whole request.
pub(super) fn builder(timeout: Duration) -> ClientBuilder {
    Client::builder()
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .retry(reqwest::retry::never())
        .user_agent(concat!("kfwatch/", env!("CARGO_PKG_VERSION")))
        .timeout(timeout)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
}

/// The beginning of the body, as far as it can be read.
pub(super) async fn body_start(response: Response) -> Vec<u8> {
    let mut kept = Vec::new();
    // A slow body costs the connection, but no more time.
    let _ = tokio::time::timeout(BODY_TIMEOUT, read_start(response, &mut kept)).await;
    kept
}

async fn read_start(mut response: Response, kept: &mut Vec<u8>) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        let room = KEPT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if read > MAX_BODY_BYTES {
            break;
        }
    }
}

/// Explains to operators why a request failed, without the URL, which may contain a secret: the innermost cause, or what to do
/// about a refusal of TLS.
pub(super) fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "the receiver did not answer in time".to_owned();
    }
    match TlsRefusal::find(&error) {
        Some(refusal) => format!("{refusal}: {}", refusal.remedy_at_sink()),
        None => crate::innermost_cause(&error.without_url()).into(),
    }
}
