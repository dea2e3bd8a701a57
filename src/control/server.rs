//! The daemon's side of the control socket.
//!
//! An axum router accepts commands and streams the results; [`CommandExecutor`] runs the commands, as far as they may run at the
//! same time ([`lanes`](super::lanes)). A connection serves one request. A request has a head and no body: a body is never read.

use std::{convert::Infallible, os::unix::net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Query, State},
    http::{HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use hyper_util::rt::TokioTimer;
use tokio::sync::{AcquireError, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tower::service_fn;
use tower_http::set_header::SetResponseHeaderLayer;

use super::{
    CHECK_PATH, ControlCommand, HEALTH_PATH, HEARTBEAT, POLL_PATH, RELOAD_PATH, ReloadQuery, SESSIONS_PATH,
    SINKS_PATH, VERSION_HEADER,
    executor::{AcceptedCommand, CommandExecutor, ResponseWriter, STOPPING},
    lanes::CommandLanes,
    socket::ControlSocket,
};
use crate::{dispatch::admin::SinkCommand, domain::account_filter::AccountFilter, status::Liveness};

/// Connections served at the same time. The kernel queues further ones.
const MAX_CONNECTIONS: usize = 16;

/// The largest request head in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// How long a client may take to send the request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Lines queued for a slow client.
const LINES_IN_FLIGHT: usize = 64;

/// How long clients may take to read the last lines when the daemon stops.
const CLOSING_GRACE: Duration = Duration::from_secs(1);

/// Serves commands on the control socket.
pub(crate) struct ControlServer {
    socket: ControlSocket,
    executor: Arc<CommandExecutor>,
    liveness: Arc<Liveness>,
}

impl ControlServer {
    /// A server that answers with the liveness of the daemon.
    pub(crate) fn new(
        socket: ControlSocket,
        executor: Arc<CommandExecutor>,
        liveness: Arc<Liveness>,
    ) -> Self {
        Self { socket, executor, liveness }
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
        .route(RELOAD_PATH, post(reload))
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

async fn reload(State(intake): IntakeState, Query(ReloadQuery { mode }): Query<ReloadQuery>) -> Response {
    intake.accept(ControlCommand::Reload(mode))
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
