//! The HTTP server: accepts connections, reads requests, sends responses as their faults require.
//!
//! It uses hyper without a web framework: faults need the connection (to truncate a body, to reset before any response),
//! and load tests need the speed.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Shared;
use super::exchange::{self, PlannedResponse};
use super::fault::{ConnectionUse, Fault};
use super::request::HttpRequest;
use super::response::SimulatedResponse;
use super::response_body::{BodyStream, ResponseBody};

/// Connections served at once. Further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 16_384;
/// Timeout for a request head, and so for an idle connection. Longer than clients keep idle connections.
const HEAD_READ_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_REQUEST_BODY_BYTES: usize = 64 * 1024;
/// Pause after a failed accept, for example when there are no file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves until the future is dropped, which also closes every connection.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) -> Infallible {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let permit = Arc::clone(&permits).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    serve_connection(stream, shared).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "Failed to accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, shared: Arc<Shared>) {
    // With Nagle's algorithm, a body in several pieces would wait for the client's delayed acknowledgements.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = %error, "Failed to set TCP_NODELAY");
    }
    let connection =
        Arc::new(Connection { shared, requests: AtomicU64::new(0), reset: AtomicBool::new(false) });
    let service = service_fn(|request| respond(Arc::clone(&connection), request));
    let mut served = http1::Builder::new()
        .timer(TokioTimer::new())
        // hyper would send the time of the wall clock instead of the simulated one.
        .auto_date_header(false)
        .header_read_timeout(HEAD_READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = (&mut served).await {
        tracing::debug!(error = %error, "A connection ended early");
    }
    let stream = served.into_parts().io.into_inner();
    if connection.reset.load(Ordering::Relaxed)
        && let Err(error) = stream.set_zero_linger()
    {
        tracing::debug!(error = %error, "Failed to reset a connection");
    }
}

#[derive(Debug)]
struct Connection {
    shared: Arc<Shared>,
    requests: AtomicU64,
    /// Whether the connection is reset at its end, rather than closed.
    reset: AtomicBool,
}

/// Makes hyper end the connection without a response.
#[derive(Debug, thiserror::Error)]
#[error("no response is sent")]
struct NoResponse;

async fn respond(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<BodyStream>, NoResponse> {
    let earlier_requests = connection.requests.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    let body = if head.method == hyper::Method::GET { Bytes::new() } else { read_body(body).await };
    let PlannedResponse { mut response, fault, recorder } = exchange::plan_response(
        &connection.shared,
        &HttpRequest {
            method: &head.method,
            path: head.uri.path(),
            query: head.uri.query().unwrap_or_default(),
            body: &body,
            headers: &head.headers,
            connection_use: if earlier_requests == 0 { ConnectionUse::First } else { ConnectionUse::Reused },
        },
    );
    let body = std::mem::take(&mut response.body);
    let body = match fault {
        Some(Fault::TruncatedBody) => ResponseBody::truncated(body, recorder),
        Some(Fault::Drip(over)) => ResponseBody::dripping(body, over, recorder),
        Some(Fault::Slow(delay)) => {
            tokio::time::sleep(delay).await;
            ResponseBody::whole(body, recorder)
        }
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Close) => return Err(NoResponse),
        Some(Fault::Reset) => {
            connection.reset.store(true, Ordering::Relaxed);
            return Err(NoResponse);
        }
        _ => ResponseBody::whole(body, recorder),
    };
    Ok(hyper_response(response, body, &connection.shared))
}

/// A body that is too long or incomplete counts as empty: it is not the expected JSON.
async fn read_body(body: Incoming) -> Bytes {
    let collected = Limited::new(body, MAX_REQUEST_BODY_BYTES).collect().await;
    collected.map(|collected| collected.to_bytes()).unwrap_or_default()
}

fn hyper_response(simulated: SimulatedResponse, body: ResponseBody, shared: &Shared) -> Response<BodyStream> {
    let mut response = Response::new(body.stream);
    *response.status_mut() = simulated.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, simulated.content_type);
    headers.insert(CONTENT_LENGTH, body.announced_length.into());
    if let Some((name, value)) = simulated.extra_header {
        headers.insert(name, value);
    }
    if let Some(date) = shared.date.at(shared.clock.now_ms()) {
        headers.insert(DATE, date);
    }
    response
}
