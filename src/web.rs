//! The web server: metrics, health checks and the status page.
//!
//! It reads memory and the store, and never calls WeChat. Slow clients are disconnected, and the number of concurrent scrapes is
//! limited.

mod reload;
mod status_page;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::{Stream, StreamExt, future::try_join_all, stream};
use hyper_util::rt::TokioTimer;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::Instant,
};
use tower_http::{
    CompressionLevel, catch_panic::CatchPanicLayer, compression::CompressionLayer,
    limit::RequestBodyLimitLayer, set_header::SetResponseHeaderLayer, timeout::TimeoutLayer,
};

use crate::{
    domain::{clock::Clock, local_time::LocalZone},
    metrics::{
        Metrics,
        exposition::{self, ClusterView, Detail, SinkView, Stored, share_of_shards},
    },
    reload::{ReloadRefusal, ReloadRequests},
    status::{AccountTable, ClusterStatus, Liveness, SinkStatus, SinkTable},
    store::{self, Store, StoreError, StoredSink},
};

/// How long a client may take to send the request head, and the next one on the same connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a response may take to start.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest request body in bytes. No request here needs one.
const MAX_REQUEST_BODY: usize = 1024;

/// Scrapes served at the same time; further ones get status 503.
pub(crate) const MAX_CONCURRENT_SCRAPES: usize = 8;

/// Chunks of a scrape queued for a slow client.
const CHUNKS_IN_FLIGHT: usize = 4;

/// The deadline for all store reads of one page. What was not read by then is left out.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a client may leave a full queue of chunks unread.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The sources of all pages.
pub struct WebState {
    /// The views of all accounts.
    pub table: Arc<AccountTable>,
    /// The closed families of metrics and their counters.
    pub metrics: Arc<Metrics>,
    /// The stores whose accounts this process owns: a file, or shards. For the event log and pending events.
    pub(crate) stores: Arc<ArcSwap<Vec<Store>>>,
    /// The cluster, if the store is in PostgreSQL.
    pub(crate) cluster: Option<watch::Receiver<ClusterStatus>>,
    /// The status of all sinks.
    pub(crate) sinks: Arc<SinkTable>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Replaced as a whole; each request reads it once.
    pub(crate) settings: ArcSwap<WebSettings>,
    /// Whether the daemon is ready: the store is open, the gauges are restored, and no drain has started.
    pub(crate) ready: AtomicBool,
    /// Whether polling, commits and schedules make progress.
    pub(crate) liveness: Arc<Liveness>,
    /// Limits concurrent scrapes.
    pub(crate) scrapes: Arc<Semaphore>,
    /// Asks for reloads.
    pub(crate) reload_requests: ReloadRequests,
    /// Why the last reload was refused; `None` if it was applied.
    pub(crate) reload_refusal: ArcSwapOption<ReloadRefusal>,
}

/// What responses take from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebSettings {
    /// Whether metrics have series for each kf account.
    pub(crate) detail: Detail,
    /// The size at which the store suspends a sink.
    pub(crate) event_log_max_bytes: u64,
    /// Where people read times.
    pub(crate) timezone: LocalZone,
    /// Whether `/-/reload` asks for reloads.
    pub(crate) enable_reload: bool,
}

impl WebState {
    /// The present settings.
    pub fn settings(&self) -> WebSettings {
        **self.settings.load()
    }

    /// Why the last transaction of a store failed; `None` if it was committed.
    pub(crate) fn write_failure(&self) -> Option<StoreError> {
        self.stores.load().iter().find_map(Store::write_failure)
    }

    /// Whether requests should come here: it is not draining, and it knows that it owns its accounts.
    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed) && self.cluster().is_none_or(|cluster| cluster.is_trusted)
    }

    /// Whether the accounts are shared with other replicas.
    pub(crate) fn has_other_replicas(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.borrow().replicas.len() > 1)
    }

    /// The cluster, if the store is in PostgreSQL.
    fn cluster(&self) -> Option<ClusterView> {
        let status = self.cluster.as_ref()?.borrow().clone();
        let is_trusted = status.is_trusted(self.clock.now());
        Some(ClusterView { status, is_trusted })
    }

    /// Reads the store within [`READ_TIMEOUT`]. A store that fails or hangs costs a page only these values.
    pub async fn stored(&self, settings: WebSettings) -> Stored {
        let deadline = Instant::now() + READ_TIMEOUT;
        let stores = self.stores.load_full();
        let cluster = self.cluster();
        if stores.is_empty() {
            return Stored { cluster, ..Stored::default() };
        }
        let sinks = in_time(deadline, store::sinks_of(&stores)).await;
        let events = in_time(deadline, try_join_all(stores.iter().map(Store::count_events))).await;
        Stored {
            size_bytes: stores.iter().map(Store::size_bytes).sum(),
            used_bytes: stores.iter().map(|store| *store.used_bytes().borrow()).sum(),
            event_log_max_bytes: match cluster {
                Some(_) => share_of_shards(settings.event_log_max_bytes, stores.len()),
                None => settings.event_log_max_bytes,
            },
            events: events.map(|events| events.into_iter().sum()),
            writes: stores.iter().map(Store::write_stats).sum(),
            sinks: self.sinks.sinks().iter().map(|sink| sink_view(sink, sinks.as_deref())).collect(),
            cluster,
        }
    }
}

/// A sink, with what is stored about it if the store was read in time.
fn sink_view(sink: &Arc<SinkStatus>, stored: Option<&[StoredSink]>) -> SinkView {
    let stored = stored.and_then(|sinks| sinks.iter().find(|stored| stored.name == sink.name));
    let stored_state = stored.map(|stored| stored.state.clone()).unwrap_or_default();
    SinkView {
        status: Arc::clone(sink),
        state: stored_state.with_dispatcher(sink.read().state),
        backlog: stored.map(|stored| stored.backlog),
    }
}

/// Does not start a read after the deadline: each read of a store that hangs blocks a thread.
async fn in_time<T>(deadline: Instant, read: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
    if Instant::now() >= deadline {
        return None;
    }
    tokio::time::timeout_at(deadline, read).await.ok()?.ok()
}

/// A bound address.
pub struct WebListener {
    socket: TcpListener,
    /// The address, with the port that the system chose for port 0.
    pub(crate) address: SocketAddr,
}

impl WebListener {
    /// Binds the address.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Serves until the handle shuts it down.
    pub async fn serve(
        self,
        state: Arc<WebState>,
        handle: axum_server::Handle<SocketAddr>,
    ) -> io::Result<()> {
        // A server that speaks HTTP/2, too, waits without a limit for the first byte, which tells the two apart.
        let mut server = axum_server::from_tcp(self.socket)?.http1_only().handle(handle);
        server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        server.serve(router(state).into_make_service()).await
    }
}

fn router(state: Arc<WebState>) -> Router {
    let header = |name: &'static str, value: &'static str| {
        SetResponseHeaderLayer::if_not_present(
            header::HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    Router::new()
        .route("/", get(status_page::page))
        .route("/metrics", get(metrics))
        .route("/-/healthy", get(healthy))
        .route("/-/live", get(live))
        .route("/-/ready", get(ready))
        .route("/-/reload", post(reload::reload).put(reload::reload))
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

/// The status is 200 as long as the process serves.
async fn healthy(State(state): State<Arc<WebState>>) -> String {
    let problem = state.write_failure().map(|error| format!("Nothing is stored: {}\n", crate::chain(&error)));
    format!("kfwatch is healthy.\n{}", problem.unwrap_or_default())
}

/// The status is 503 while a restart may help: polls, commits or a schedule make no progress. Failures, of WeChat or of the store, are
/// progress.
async fn live(State(state): State<Arc<WebState>>) -> Response {
    match state.liveness.problem() {
        None => "kfwatch makes progress.\n".into_response(),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem + "\n").into_response(),
    }
}

async fn ready(State(state): State<Arc<WebState>>) -> Response {
    match state.is_ready() {
        true => "kfwatch is ready.\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "kfwatch is not ready.\n").into_response(),
    }
}

async fn metrics(State(state): State<Arc<WebState>>) -> Response {
    let Ok(permit) = Arc::clone(&state.scrapes).try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at once\n").into_response();
    };
    let settings = state.settings();
    let stored = state.stored(settings).await;
    let (chunks, body) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let writer = MetricsWriter { chunks, runtime: Handle::current() };
    tokio::task::spawn_blocking(move || writer.write(&state, &stored, settings.detail, permit));
    let body = stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], Body::from_stream(wake_at_end(body))).into_response()
}

/// Has the stream polled once more after its end. The present hyper (1.10 to 1.12) looks twice whether there is more to write. If a body
/// ends at the second look, and its end adds nothing to what is written, hyper does not finish the response: a client of HTTP/1.0, such
/// as a proxy, waits for ever. For chunked bodies <https://github.com/hyperium/hyper/pull/4143> has corrected it.
fn wake_at_end<T>(stream: impl Stream<Item = T>) -> impl Stream<Item = T> {
    let end = stream::poll_fn(|context| {
        context.waker().wake_by_ref();
        Poll::Ready(None)
    });
    // The compression layer polls for trailers after the end.
    stream.chain(end).fuse()
}

/// Writes the metrics from a blocking thread to a client.
struct MetricsWriter {
    chunks: mpsc::Sender<io::Result<Vec<u8>>>,
    runtime: Handle,
}

impl MetricsWriter {
    fn write(&self, state: &WebState, stored: &Stored, detail: Detail, _permit: OwnedSemaphorePermit) {
        let mut closed_families = Vec::new();
        if let Err(error) = state.metrics.encode(&mut closed_families) {
            tracing::error!("Rendering the metrics failed: {error}");
            self.send(Err(io::Error::other("rendering the metrics failed")));
        } else if self.send(Ok(closed_families)) {
            // Another replica may export the same accounts.
            let is_trusted = stored.cluster.as_ref().is_none_or(|cluster| cluster.is_trusted);
            let table = if is_trusted { &*state.table } else { &AccountTable::default() };
            exposition::write(table, stored, detail, |chunk| self.send(Ok(chunk)));
        }
    }

    /// Returns whether the client still reads. One that stalls loses its permit.
    fn send(&self, chunk: io::Result<Vec<u8>>) -> bool {
        let sending = self.chunks.send_timeout(chunk, STALL_TIMEOUT);
        self.runtime.block_on(sending).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::{server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A body that is pending at hyper's first look after its only chunk, and has ended at the second.
    fn body_that_ends_between_looks() -> impl Stream<Item = io::Result<&'static str>> {
        let mut looks = 0;
        let end = stream::poll_fn(move |_| {
            looks += 1;
            if looks == 1 { Poll::Pending } else { Poll::Ready(None) }
        });
        stream::iter([Ok("chunk")]).chain(end)
    }

    #[tokio::test(start_paused = true)]
    async fn response_to_old_client_ends_with_its_body() {
        let (mut client, server) = tokio::io::duplex(1024);
        let respond = service_fn(|_| async {
            let body = Body::from_stream(wake_at_end(body_that_ends_between_looks()));
            Ok::<_, Infallible>(Response::new(body))
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(server), respond);
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let both = async { tokio::join!(serving, client.read_to_string(&mut answer)) };
        tokio::time::timeout(Duration::from_secs(1), both).await.unwrap().0.unwrap();
        assert!(answer.ends_with("\r\n\r\nchunk"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn reads_share_a_deadline() {
        let begun = Instant::now();
        let deadline = begun + READ_TIMEOUT;
        let read = async |share| {
            tokio::time::sleep(READ_TIMEOUT.mul_f64(share)).await;
            Ok(share)
        };
        let mut results = Vec::new();
        for share in [0.4, 0.5, 100.0, 0.0] {
            results.extend(in_time(deadline, read(share)).await);
        }
        assert_eq!(results, [0.4, 0.5]);
        assert_eq!(begun.elapsed(), READ_TIMEOUT);
    }
}
