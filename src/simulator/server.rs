//! The HTTP side: accepts connections, reads requests, delivers answers as their faults demand.
//!
//! On hyper itself rather than on a web framework: faults need the connection (to break off a body, to reset before any
//! answer), and load tests need the speed.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, DATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Shared;
use super::answer::Answer;
use super::body::AnswerBody;
use super::exchange::{self, Delivery, Reply};
use super::fault::OnConnection;

/// Connections served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 16_384;
/// Time for a request head, and so for an idle connection too; longer than clients keep theirs.
const HEAD_READ_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_REQUEST_BODY_BYTES: usize = 64 * 1024;
/// Before accepting again when that failed, for want of file descriptors say.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves until it is dropped, and with it every connection.
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
    // Without it, a body in several pieces would wait for the client's delayed acknowledgements.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = %error, "Failed to set TCP_NODELAY");
    }
    let connection =
        Arc::new(Connection { shared, requests: AtomicU64::new(0), reset: AtomicBool::new(false) });
    let socket = Socket { stream, connection: Arc::clone(&connection) };
    let service = service_fn(move |request| respond(Arc::clone(&connection), request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        // It would be the wall clock's.
        .auto_date_header(false)
        .header_read_timeout(HEAD_READ_TIMEOUT)
        .serve_connection(TokioIo::new(socket), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(error = %error, "A connection ended early");
    }
}

#[derive(Debug)]
struct Connection {
    shared: Arc<Shared>,
    requests: AtomicU64,
    /// Set to have the socket reset rather than closed.
    reset: AtomicBool,
}

/// Makes hyper end the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("no answer is given")]
struct NoAnswer;

async fn respond(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, NoAnswer> {
    let earlier_requests = connection.requests.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    let body = if head.method == hyper::Method::GET { Bytes::new() } else { read_body(body).await };
    let Reply { mut answer, delivery, flight } = exchange::reply(
        &connection.shared,
        &exchange::Request {
            method: &head.method,
            path: head.uri.path(),
            query: head.uri.query().unwrap_or_default(),
            body: &body,
            headers: &head.headers,
            on_connection: if earlier_requests == 0 { OnConnection::First } else { OnConnection::Reused },
        },
    );
    let body = std::mem::take(&mut answer.body);
    let body = match delivery {
        Delivery::Whole => AnswerBody::whole(body, flight),
        Delivery::Truncated => AnswerBody::truncated(body, flight),
        Delivery::Drip(over) => AnswerBody::dripping(body, over, flight),
        Delivery::After(delay) => {
            tokio::time::sleep(delay).await;
            AnswerBody::whole(body, flight)
        }
        Delivery::Never => std::future::pending().await,
        Delivery::Close => return Err(NoAnswer),
        Delivery::Reset => {
            connection.reset.store(true, Ordering::Relaxed);
            return Err(NoAnswer);
        }
    };
    Ok(response(answer, body, &connection.shared))
}

/// A body beyond the limit, or one that breaks off, counts as empty, which is not the JSON that was asked for.
async fn read_body(body: Incoming) -> Bytes {
    let collected = Limited::new(body, MAX_REQUEST_BODY_BYTES).collect().await;
    collected.map(|collected| collected.to_bytes()).unwrap_or_default()
}

fn response(answer: Answer, body: AnswerBody, shared: &Shared) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, answer.content_type);
    if let Some((name, value)) = answer.extra_header {
        headers.insert(name, value);
    }
    if let Some(date) = shared.date.at(shared.clock.now_ms()) {
        headers.insert(DATE, date);
    }
    response
}

/// A connection's socket, which can be reset when it is dropped.
#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    connection: Arc<Connection>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.connection.reset.load(Ordering::Relaxed)
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::debug!(error = %error, "Failed to reset a connection");
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
