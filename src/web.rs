//! What kfwatch serves over HTTP: metrics, health, and a page that shows every account.
//!
//! Everything is read from memory or the store; nothing here calls WeChat. Each connection has little time to say
//! what it wants, and only so many scrapes are served at once.

mod status_page;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{StreamExt, stream};
use hyper_util::rt::TokioTimer;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};
use tower_http::{
    CompressionLevel, catch_panic::CatchPanicLayer, compression::CompressionLayer,
    limit::RequestBodyLimitLayer, set_header::SetResponseHeaderLayer, timeout::TimeoutLayer,
};

use crate::{
    domain::clock::Clock,
    metrics::{
        Metrics,
        exposition::{self, Detail, Stored},
    },
    status::{SinkStatus, Table},
    store::{Pending, Store, StoreError},
};

/// How long a client may take to send its request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take to begin.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest request body: no request here has one.
const MAX_REQUEST_BODY: usize = 1024;

/// How many pages of metrics are written at once; what is beyond is told to come again.
const MAX_CONCURRENT_SCRAPES: usize = 8;

/// Chunks of a page of metrics that wait for a slow reader.
const CHUNKS_IN_FLIGHT: usize = 4;

/// How long the store may take to say what is in its log, and what all sinks have pending of it, before it is done without.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a reader of a page may stand still.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What requests are answered from.
pub struct WebState {
    /// The accounts.
    pub table: Table,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The store, for what sinks have pending.
    pub store: Store,
    /// How large the store may become before sinks lose events.
    pub event_log_max_bytes: u64,
    /// The sinks.
    pub sinks: Vec<Arc<SinkStatus>>,
    /// Which series the metrics have.
    pub detail: Detail,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Whether the daemon is ready: the store is open, the gauges are restored, no drain has begun.
    pub ready: AtomicBool,
    /// Bounds the scrapes.
    pub scrapes: Arc<Semaphore>,
}

impl WebState {
    /// The bound of the scrapes.
    pub fn scrape_limit() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(MAX_CONCURRENT_SCRAPES))
    }

    /// What the store knows, as far as it says so in time: everything else is worth having even when it fails or hangs.
    pub async fn stored(&self) -> Stored {
        let deadline = Instant::now() + READ_TIMEOUT;
        let used_bytes = *self.store.used_bytes().borrow();
        let mut stored = Stored {
            size_bytes: self.store.size_bytes(),
            used_bytes,
            event_log_max_bytes: self.event_log_max_bytes,
            events: in_time(deadline, self.store.count_events()).await,
            writes: self.store.writes(),
            pending: Vec::with_capacity(self.sinks.len()),
        };
        for sink in &self.sinks {
            let pending = in_time(deadline, self.store.pending(&sink.name)).await;
            // Also a stop of which the store could not be told yet.
            let is_stopped = sink.read().stopped.is_some();
            let pending =
                pending.map(|pending| Pending { stopped: pending.stopped || is_stopped, ..pending });
            stored.pending.push((sink.name.clone(), pending));
        }
        stored
    }
}

/// Nothing is asked after the deadline: each read of a store that hangs keeps a thread.
async fn in_time<T>(deadline: Instant, read: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
    if Instant::now() >= deadline {
        return None;
    }
    tokio::time::timeout_at(deadline, read).await.ok()?.ok()
}

/// An address that is listened on.
pub struct WebListener {
    socket: TcpListener,
    /// The address, with the port that was given out for port 0.
    pub address: SocketAddr,
}

impl WebListener {
    /// Binds the address.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Serves until the handle says otherwise.
    pub async fn serve(
        self,
        state: Arc<WebState>,
        handle: axum_server::Handle<SocketAddr>,
    ) -> io::Result<()> {
        let mut server = axum_server::from_tcp(self.socket)?.handle(handle);
        server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        server.serve(router(state).into_make_service()).await
    }
}

/// All pages.
pub fn router(state: Arc<WebState>) -> Router {
    let header = |name: &'static str, value: &'static str| {
        SetResponseHeaderLayer::if_not_present(
            header::HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    Router::new()
        .route("/", get(status_page::page))
        .route("/metrics", get(metrics))
        .route("/-/healthy", get(|| async { "kfwatch is healthy.\n" }))
        .route("/-/ready", get(ready))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, REQUEST_TIMEOUT))
        .layer(RequestBodyLimitLayer::new(MAX_REQUEST_BODY))
        .layer(header("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'"))
        .layer(header("x-content-type-options", "nosniff"))
        .layer(header("x-frame-options", "DENY"))
        .layer(header("referrer-policy", "no-referrer"))
        .layer(CatchPanicLayer::new())
        .with_state(state)
}

async fn ready(State(state): State<Arc<WebState>>) -> Response {
    match state.ready.load(Ordering::Relaxed) {
        true => "kfwatch is ready.\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "kfwatch is not ready.\n").into_response(),
    }
}

async fn metrics(State(state): State<Arc<WebState>>) -> Response {
    let Ok(permit) = Arc::clone(&state.scrapes).try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at once\n").into_response();
    };
    let stored = state.stored().await;
    let (chunks, body) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let page = Page { chunks, reader: Handle::current() };
    tokio::task::spawn_blocking(move || page.write(&state, &stored, permit));
    let body = stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    // The compression looks for trailers behind the end, where an unfused `unfold` panics.
    let body = body.fuse();
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], Body::from_stream(body)).into_response()
}

/// A page of metrics on its way to a reader.
struct Page {
    chunks: mpsc::Sender<io::Result<Vec<u8>>>,
    reader: Handle,
}

impl Page {
    fn write(&self, state: &WebState, stored: &Stored, _scrape: OwnedSemaphorePermit) {
        let mut closed_families = Vec::new();
        if let Err(error) = state.metrics.encode(&mut closed_families) {
            tracing::error!("Metrics not rendered: {error}");
            self.send(Err(io::Error::other("metrics not rendered")));
        } else if self.send(Ok(closed_families)) {
            exposition::write(&state.table, &state.metrics, stored, state.detail, |chunk| {
                self.send(Ok(chunk))
            });
        }
    }

    /// Whether somebody still reads, and not too slowly: a reader that stands still must not keep its place for ever.
    fn send(&self, chunk: io::Result<Vec<u8>>) -> bool {
        let sending = self.chunks.send_timeout(chunk, STALL_TIMEOUT);
        self.reader.block_on(sending).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_share_a_deadline_and_nothing_is_asked_after_it() {
        let begun = Instant::now();
        let deadline = begun + READ_TIMEOUT;
        let read = async |share| {
            tokio::time::sleep(READ_TIMEOUT.mul_f64(share)).await;
            Ok(share)
        };
        let mut in_time_were = Vec::new();
        for share in [0.4, 0.5, 100.0, 0.0] {
            in_time_were.extend(in_time(deadline, read(share)).await);
        }
        assert_eq!(in_time_were, [0.4, 0.5]);
        assert_eq!(begun.elapsed(), READ_TIMEOUT);
    }
}
