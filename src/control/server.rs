//! The daemon's side of the control socket.
//!
//! An axum router accepts commands and streams the results; [`CommandExecutor`] runs the commands, as far as they may run at the
//! same time ([`lanes`](super::lanes)). A connection serves one request. A request has a head and no body: a body is never read. A
//! client that disconnects or stops reading ends its command, so that no kf account stays locked for it.

use std::{
    convert::Infallible, os::unix::net::SocketAddr, panic::AssertUnwindSafe, pin::pin, sync::Arc,
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Query, State},
    http::{HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream, stream::FuturesUnordered};
use hyper_util::rt::TokioTimer;
use serde::Serialize;
use tokio::sync::{AcquireError, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tower::service_fn;
use tower_http::set_header::SetResponseHeaderLayer;

use super::{
    CHECK_PATH, ControlCommand, HEALTH_PATH, HEARTBEAT, POLL_PATH, ResponseLine, SESSIONS_PATH, SINKS_PATH,
    VERSION_HEADER,
    lanes::{CommandLanes, LanePlace},
    operations::Operations,
    socket::ControlSocket,
};
use crate::{
    dispatch::admin::{SinkAdmin, SinkAnswer, SinkCommand},
    domain::account_filter::{AccountFilter, UnknownAccount},
    status::Liveness,
};

/// Connections served at the same time. The kernel queues further ones.
const MAX_CONNECTIONS: usize = 16;

/// The largest request head in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// How long a client may take to send the request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Lines queued for a slow client.
const LINES_IN_FLIGHT: usize = 64;

/// How long a client may leave a full queue of lines unread. Polls pause meanwhile, and their accounts stay locked.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long clients may take to read the last lines when the daemon stops.
const CLOSING_GRACE: Duration = Duration::from_secs(1);

/// What a client receives whose command the drain interrupts or prevents.
const STOPPING: &str = "the daemon is being stopped";

/// What a client receives whose command panicked.
const PANICKED: &str = "the command panicked: this is a bug in kfwatch, please report it";

/// Serves commands on the control socket.
pub(crate) struct ControlServer {
    socket: ControlSocket,
    executor: CommandExecutor,
    liveness: Arc<Liveness>,
}

impl ControlServer {
    /// A server that polls and checks with `operations` and runs commands on sinks with `sinks`.
    pub(crate) fn new(
        socket: ControlSocket,
        operations: Operations,
        sinks: Arc<SinkAdmin>,
        liveness: Arc<Liveness>,
    ) -> Self {
        Self { socket, executor: CommandExecutor { operations, sinks }, liveness }
    }

    /// Serves until `stop`. Running commands are then interrupted, and their clients receive the reason.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let (queue, accepted) = mpsc::channel(MAX_CONNECTIONS);
        let intake = CommandIntake { lanes: CommandLanes::new(), queue, liveness: self.liveness };
        let served = Box::pin(serve(self.socket, router(intake), stop.clone()));
        tokio::join!(served, Box::pin(self.executor.run(accepted, stop)));
    }
}

/// Serves the router on at most [`MAX_CONNECTIONS`] connections.
async fn serve(socket: ControlSocket, router: Router, stop: CancellationToken) {
    let (listener, file) = socket.into_parts();
    let handle = axum_server::Handle::new();
    let mut server =
        axum_server::Server::<SocketAddr>::from_listener(listener).handle(handle.clone()).http1_only();
    server
        .http_builder()
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .keep_alive(false);
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // The server awaits this for each connection before it accepts the next one. The router owns the permit while it serves.
    let make_service = service_fn(|_: SocketAddr| {
        let (router, permit) = (router.clone(), Arc::clone(&connections).acquire_owned());
        async { Ok::<_, AcquireError>(router.layer(Extension(Arc::new(permit.await?)))) }
    });
    let closing = async {
        stop.cancelled().await;
        drop(file);
        connections.close();
        handle.graceful_shutdown(Some(CLOSING_GRACE));
    };
    let (served, ()) = tokio::join!(server.serve(make_service), closing);
    if let Err(error) = served {
        tracing::error!("The control socket failed: {error}");
    }
}

fn router(intake: CommandIntake) -> Router {
    let version = HeaderValue::from_static(env!("CARGO_PKG_VERSION"));
    Router::new()
        .route(POLL_PATH, about_accounts(ControlCommand::Poll))
        .route(CHECK_PATH, about_accounts(ControlCommand::Check))
        .route(SESSIONS_PATH, about_accounts(ControlCommand::Sessions))
        .route(SINKS_PATH, post(sink_command))
        .route(HEALTH_PATH, get(health))
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, "commands need POST\n"))
        .fallback(async || (StatusCode::NOT_FOUND, "there is no such command\n"))
        .layer(SetResponseHeaderLayer::overriding(HeaderName::from_static(VERSION_HEADER), version))
        .with_state(Arc::new(intake))
}

type IntakeState = State<Arc<CommandIntake>>;

/// Accepts a command about the accounts that the query selects.
fn about_accounts(command: fn(AccountFilter) -> ControlCommand) -> MethodRouter<Arc<CommandIntake>> {
    post(async move |State(intake): IntakeState, Query(filter): Query<AccountFilter>| {
        intake.accept(command(filter))
    })
}

async fn sink_command(State(intake): IntakeState, Query(command): Query<SinkCommand>) -> Response {
    intake.accept(ControlCommand::Sinks(command))
}

async fn health(State(intake): IntakeState) -> Response {
    match intake.liveness.problem() {
        None => StatusCode::OK.into_response(),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem).into_response(),
    }
}

/// Accepts commands for the executor.
struct CommandIntake {
    lanes: CommandLanes,
    queue: mpsc::Sender<AcceptedCommand>,
    liveness: Arc<Liveness>,
}

impl CommandIntake {
    /// Queues a command. The response streams its lines, or says why the command was refused.
    fn accept(&self, command: ControlCommand) -> Response {
        match self.queue(command) {
            Ok(lines) => Body::from_stream(with_heartbeat(lines)).into_response(),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
        }
    }

    fn queue(&self, command: ControlCommand) -> Result<mpsc::Receiver<Bytes>, String> {
        let place = self.lanes.place(&command)?;
        let (lines, response) = mpsc::channel(LINES_IN_FLIGHT);
        let accepted = AcceptedCommand { command, place, response: ResponseWriter { lines } };
        self.queue.try_send(accepted).map_err(|_| STOPPING.to_owned())?;
        Ok(response)
    }
}

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

struct AcceptedCommand {
    command: ControlCommand,
    place: LanePlace,
    response: ResponseWriter,
}

/// Runs accepted commands.
struct CommandExecutor {
    operations: Operations,
    sinks: Arc<SinkAdmin>,
}

impl CommandExecutor {
    /// Runs commands until `stop`, then ends the remaining ones with a reason.
    async fn run(&self, mut accepted: mpsc::Receiver<AcceptedCommand>, stop: CancellationToken) {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(command) = accepted.recv() => running.push(self.run_one(command, &stop)),
                Some(()) = running.next() => {}
            }
        }
        accepted.close();
        while let Ok(command) = accepted.try_recv() {
            running.push(self.run_one(command, &stop));
        }
        while running.next().await.is_some() {}
    }

    /// Waits for the command's place and runs it, until `stop` or until the client disconnects.
    async fn run_one(&self, accepted: AcceptedCommand, stop: &CancellationToken) {
        let AcceptedCommand { command, place, response } = accepted;
        let run = async {
            let _lane = place.wait().await;
            if command.changes_something() {
                tracing::info!(?command, "Running a control command");
            } else {
                tracing::debug!(?command, "Running a control command");
            }
            self.execute(command, &response).await;
        };
        tokio::select! {
            biased; // Nothing starts after `stop`.
            () = stop.cancelled() => response.fail(STOPPING),
            () = response.lines.closed() => tracing::info!("Control command dropped: its client disconnected"),
            done = AssertUnwindSafe(run).catch_unwind() => {
                if done.is_err() {
                    tracing::error!("A control command panicked: this is a bug in kfwatch, please report it");
                    response.fail(PANICKED);
                }
            }
        }
    }

    async fn execute(&self, command: ControlCommand, response: &ResponseWriter) {
        match command {
            ControlCommand::Poll(filter) => {
                response.note(self.operations.token_wait(&filter)).await;
                response.send_selected(self.operations.polls(filter)).await;
            }
            ControlCommand::Check(filter) => {
                response.note(self.operations.token_wait(&filter)).await;
                response.send_selected(self.operations.checks(filter)).await;
            }
            ControlCommand::Sessions(filter) => {
                response.send_selected(self.operations.sessions(filter)).await;
            }
            ControlCommand::Sinks(command) => match self.sinks.execute(command).await {
                Ok(SinkAnswer::Sinks(sinks)) => response.send(stream::iter(sinks)).await,
                Ok(SinkAnswer::DeadLetters(letters)) => response.send(stream::iter(letters)).await,
                Ok(SinkAnswer::Changed(done)) => response.send(stream::iter([done])).await,
                Err(error) => response.fail(&crate::chain(&error)),
            },
        }
    }
}

/// Writes the lines of one response.
struct ResponseWriter {
    lines: mpsc::Sender<Bytes>,
}

impl ResponseWriter {
    async fn note(&self, note: Option<String>) {
        if let Some(note) = note
            && let Ok(note) = line(&ResponseLine::<()>::Note(note))
        {
            // A client that does not read it is noticed with the first result.
            self.lines.send_timeout(note, STALL_TIMEOUT).await.ok();
        }
    }

    async fn send<T: Serialize>(&self, rows: impl Stream<Item = T>) {
        let mut rows = pin!(rows);
        while let Some(row) = rows.next().await {
            let sent = match line(&ResponseLine::Row(row)) {
                Ok(line) => self.lines.send_timeout(line, STALL_TIMEOUT).await.is_ok(),
                Err(error) => return self.fail(&format!("cannot write a result: {error}")),
            };
            if !sent {
                tracing::info!("Control command dropped: its client does not read the response");
                return;
            }
        }
        if let Ok(done) = line(&ResponseLine::<()>::Done) {
            self.lines.send_timeout(done, STALL_TIMEOUT).await.ok();
        }
    }

    async fn send_selected<T: Serialize>(&self, rows: Result<impl Stream<Item = T>, UnknownAccount>) {
        match rows {
            Ok(rows) => self.send(rows).await,
            Err(unknown) => self.end(&ResponseLine::UnknownAccount(unknown.to_string())),
        }
    }

    fn fail(&self, reason: &str) {
        self.end(&ResponseLine::Failed(reason.to_owned()));
    }

    /// If the queue is full, the client sees a truncated response instead.
    fn end(&self, last: &ResponseLine<()>) {
        if let Ok(last) = line(last) {
            self.lines.try_send(last).ok();
        }
    }
}

fn line<T: Serialize>(line: &ResponseLine<T>) -> serde_json::Result<Bytes> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(text.into())
}
