//! The daemon's side of the control socket.
//!
//! Commands that cannot disturb each other are carried out side by side, the others take turns ([`turns`](super::turns)).
//! Connections ask once and are closed; a request is a line and some headers, and whatever body it has is never read. A reader
//! that goes, or stands still, ends its command, so that no kf account stays claimed for it.

use std::{convert::Infallible, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream, stream::FuturesUnordered};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header::HeaderValue, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{net::UnixStream, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Command, HEARTBEAT, Line, VERSION_HEADER,
    operations::Operations,
    socket::ControlSocket,
    turns::{Turn, Turns},
};
use crate::dispatch::admin::{SinkAdmin, SinkAnswer};

/// Connections served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 16;

/// The largest head of a request in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Lines that wait for a slow reader.
const LINES_IN_FLIGHT: usize = 64;

/// How long a reader may stand still. Polls stand still with it, and keep their claims.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Before accepting again when that failed, for want of file descriptors say.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// How long the last lines may take to be read when the daemon stops.
const CLOSING_GRACE: Duration = Duration::from_secs(1);

/// Carries out what is asked for through the socket.
pub struct ControlServer {
    socket: ControlSocket,
    work: Work,
}

/// What commands are carried out with.
struct Work {
    operations: Operations,
    sinks: Arc<SinkAdmin>,
}

impl ControlServer {
    /// A server that carries commands out with these operations, and what concerns sinks with these.
    pub fn new(socket: ControlSocket, operations: Operations, sinks: Arc<SinkAdmin>) -> Self {
        Self { socket, work: Work { operations, sinks } }
    }

    /// Serves until `stop`. A command that is under way then is told so.
    pub async fn run(self, stop: CancellationToken) {
        // Each connection gives one.
        let (orders, given) = mpsc::channel(MAX_CONNECTIONS);
        let desk = Desk { turns: Turns::new(), orders };
        tokio::join!(serve(self.socket, desk, stop.clone()), Box::pin(carry_out(&self.work, given, stop)));
    }
}

/// Where commands are given.
struct Desk {
    turns: Turns,
    orders: mpsc::Sender<Order>,
}

async fn serve(socket: ControlSocket, desk: Desk, stop: CancellationToken) {
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = socket.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok(stream) => connections.push(serve_connection(stream, &desk)),
                Err(error) => {
                    tracing::warn!("Control socket: a connection was not accepted: {error}");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            },
            Some(()) = connections.next() => {}
        }
    }
    drop(socket);
    // Those who have asked read the end of their answer; who has not asked yet is not waited for.
    let answered = async { while connections.next().await.is_some() {} };
    tokio::time::timeout(CLOSING_GRACE, answered).await.ok();
}

async fn serve_connection(stream: UnixStream, desk: &Desk) {
    let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(desk.answer(&request))));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("Control socket: a connection ended early: {error}");
    }
}

impl Desk {
    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let (status, body) = match (Command::from_uri(request.uri()), request.method()) {
            (None, _) => (StatusCode::NOT_FOUND, Body::from("there is no such command\n")),
            (Some(_), method) if method != Method::POST => {
                (StatusCode::METHOD_NOT_ALLOWED, Body::from("commands are POSTed\n"))
            }
            (Some(Err(error)), _) => {
                (StatusCode::BAD_REQUEST, Body::from(format!("{}\n", error.body_text())))
            }
            (Some(Ok(command)), _) => match self.take(command) {
                Ok(lines) => (StatusCode::OK, Body::from_stream(with_heartbeat(lines))),
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, Body::from(why)),
            },
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let version = HeaderValue::from_static(env!("CARGO_PKG_VERSION"));
        response.headers_mut().insert(VERSION_HEADER, version);
        response
    }

    /// Gives a place and an order, and where its lines will come from; or why there can be none.
    fn take(&self, command: Command) -> Result<mpsc::Receiver<Bytes>, String> {
        let turn = self.turns.place(&command).map_err(|refused| refused.to_string())?;
        let (lines, answer) = mpsc::channel(LINES_IN_FLIGHT);
        let given = self.orders.try_send(Order { command, turn, lines });
        given.map_err(|_| STOPPING.to_owned())?;
        Ok(answer)
    }
}

/// What is said to who has given a command, or wants to.
const STOPPING: &str = "the daemon is being stopped";

fn with_heartbeat(lines: mpsc::Receiver<Bytes>) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let next = |mut lines: mpsc::Receiver<Bytes>| async {
        let line = match tokio::time::timeout(HEARTBEAT, lines.recv()).await {
            Ok(line) => line?,
            Err(_) => Bytes::from_static(b"\n"),
        };
        Some((Ok(line), lines))
    };
    stream::unfold(lines, next).fuse()
}

/// A command, its place among others, and where its lines go.
struct Order {
    command: Command,
    turn: Turn,
    lines: mpsc::Sender<Bytes>,
}

/// Carries orders out until `stop`, and tells those then that are not done.
async fn carry_out(work: &Work, mut orders: mpsc::Receiver<Order>, stop: CancellationToken) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(order) = orders.recv() => under_way.push(order.until_done(work, &stop)),
            Some(()) = under_way.next() => {}
        }
    }
    orders.close();
    while let Ok(order) = orders.try_recv() {
        under_way.push(order.until_done(work, &stop));
    }
    while under_way.next().await.is_some() {}
}

impl Order {
    /// Waits for its turn and does it, unless `stop` comes before, or who gave it goes.
    async fn until_done(self, work: &Work, stop: &CancellationToken) {
        let Self { command, turn, lines } = self;
        let answer = Answer { lines: &lines };
        let doing = async {
            let _turn = turn.come().await;
            tracing::info!(?command, "Carrying out a command of the control socket");
            answer.to(command, work).await;
        };
        tokio::select! {
            biased; // Whatever is done by then: nothing new begins when the daemon stops.
            () = stop.cancelled() => answer.fail(STOPPING),
            () = lines.closed() => tracing::info!("Whoever gave a command has gone"),
            done = AssertUnwindSafe(doing).catch_unwind() => {
                if done.is_err() {
                    tracing::error!("A command panicked: this is a bug in kfwatch, please report it");
                    answer.fail("it panicked: this is a bug in kfwatch, please report it");
                }
            }
        }
    }
}

/// The lines that say what came of a command.
struct Answer<'a> {
    lines: &'a mpsc::Sender<Bytes>,
}

impl Answer<'_> {
    async fn to(&self, command: Command, work: &Work) {
        match command {
            Command::Poll => self.send(work.operations.polls()).await,
            Command::Check => self.send(work.operations.checks()).await,
            Command::Sinks(command) => match work.sinks.carry_out(command).await {
                Ok(SinkAnswer::Sinks(sinks)) => self.send(stream::iter(sinks)).await,
                Ok(SinkAnswer::DeadLetters(letters)) => self.send(stream::iter(letters)).await,
                Ok(SinkAnswer::Done(done)) => self.send(stream::iter([done])).await,
                Err(error) => self.fail(&crate::chain(&error)),
            },
        }
    }

    async fn send<T: Serialize>(&self, rows: impl Stream<Item = T>) {
        let mut rows = pin!(rows);
        while let Some(row) = rows.next().await {
            let sent = match line(&Line::Row(row)) {
                Ok(line) => self.lines.send_timeout(line, STALL_TIMEOUT).await.is_ok(),
                Err(error) => return self.fail(&format!("a result cannot be written: {error}")),
            };
            if !sent {
                tracing::info!("Whoever gave the command does not read the answer: it is given up");
                return;
            }
        }
        if let Ok(done) = line(&Line::<()>::Done) {
            self.lines.send_timeout(done, STALL_TIMEOUT).await.ok();
        }
    }

    /// A reader that has no room for this sees the answer break off.
    fn fail(&self, why: &str) {
        if let Ok(failed) = line(&Line::<()>::Failed(why.to_owned())) {
            self.lines.try_send(failed).ok();
        }
    }
}

fn line<T: Serialize>(line: &Line<T>) -> serde_json::Result<Bytes> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(text.into())
}
