//! An HTTP client that is replaced from time to time, so that it opens new connections.
//!
//! A connection in constant use never resolves its host again: if the host moves, calls go to the old address as long as
//! that answers. And an HTTP/2 connection that hangs is never closed. So the client is replaced by one without connections
//! after [`MAX_AGE`], or after [`MAX_CONSECUTIVE_FAILURES`] calls without an answer, but not before [`MIN_AGE`]. Calls in
//! flight keep their connection, which closes after them. There are never more connections than calls in flight, or twice
//! as many during a replacement; workers, collectors and commands limit those.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use reqwest::{Client, ClientBuilder, Proxy, Request, Response};

use super::options::{ClientBuildError, ClientOptions, HttpVersion};
use crate::{domain::clock::Moment, http::broke_before_answer, tls::TlsRoots};

/// Idle connections are closed before WeChat closes them, because a request on a connection that is being closed fails
/// without an answer.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(25);

/// The age at which a client is always replaced. The price is one handshake per connection.
const MAX_AGE: Duration = Duration::from_secs(600);

/// A client is not replaced before this age, however many calls fail.
const MIN_AGE: Duration = Duration::from_secs(30);

/// After this many consecutive calls without an answer, the connections may be the cause.
const MAX_CONSECUTIVE_FAILURES: u32 = 16;

/// Where the client connects to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    /// WeChat, directly or through the configured proxy.
    Wechat,
    /// Token and ticket servers of the operator: without that proxy, and with the system's TLS roots in addition to `ca`.
    OwnServers,
}

/// A client for one peer.
pub(super) struct RotatingClient {
    peer: Peer,
    options: ClientOptions,
    current: ArcSwap<AgedClient>,
    consecutive_failures: AtomicU32,
    /// Locked by the caller that replaces the client.
    replacing: Mutex<()>,
}

struct AgedClient {
    client: Client,
    /// Opens a new connection for each request.
    unpooled: Client,
    /// On the monotonic clock.
    created_at: Duration,
}

impl RotatingClient {
    /// Builds a client without connecting.
    pub(super) fn new(peer: Peer, options: ClientOptions, now: Moment) -> Result<Self, ClientBuildError> {
        let current = ArcSwap::from_pointee(peer.client(&options, now)?);
        Ok(Self {
            peer,
            options,
            current,
            consecutive_failures: AtomicU32::new(0),
            replacing: Mutex::default(),
        })
    }

    pub(super) fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// Sends a request and returns the head of the answer.
    pub(super) async fn execute(&self, request: Request, now: Moment) -> reqwest::Result<Response> {
        let answer = self.client(now).execute(request).await;
        self.count(&answer);
        answer
    }

    /// The same for a request that may be made twice: if its connection broke before the answer, the request is repeated once,
    /// at once, on a new connection.
    pub(super) async fn execute_repeatable(
        &self,
        request: Request,
        now: Moment,
    ) -> reqwest::Result<Response> {
        let repetition = request.try_clone();
        match (self.execute(request, now).await, repetition) {
            (Err(error), Some(repetition)) if broke_before_answer(&error) => {
                let unpooled = self.current.load().unpooled.clone();
                let answer = unpooled.execute(repetition).await;
                self.count(&answer);
                answer
            }
            (answer, _) => answer,
        }
    }

    fn count(&self, answer: &reqwest::Result<Response>) {
        if answer.is_err() {
            self.consecutive_failures.fetch_add(1, Ordering::Relaxed);
        } else if self.consecutive_failures.load(Ordering::Relaxed) > 0 {
            self.consecutive_failures.store(0, Ordering::Relaxed);
        }
    }

    /// Returns the client to use now, and replaces it first if that is due.
    pub(super) fn client(&self, now: Moment) -> Client {
        let current = self.current.load();
        // Other callers use the old client during a replacement.
        if self.is_due(&current, now)
            && let Ok(_replacing) = self.replacing.try_lock()
            && self.is_due(&self.current.load(), now)
        {
            return self.replace(now);
        }
        current.client.clone()
    }

    fn is_due(&self, current: &AgedClient, now: Moment) -> bool {
        let failing = self.consecutive_failures.load(Ordering::Relaxed) >= MAX_CONSECUTIVE_FAILURES;
        let max_age = if failing { MIN_AGE } else { MAX_AGE };
        now.monotonic.saturating_sub(current.created_at) >= max_age
    }

    /// Takes some milliseconds, because it loads the system's TLS roots again.
    fn replace(&self, now: Moment) -> Client {
        let next = self.peer.client(&self.options, now).unwrap_or_else(|error| {
            tracing::warn!("HTTP client not replaced, the old one stays in use: {error}");
            let current = self.current.load();
            let (client, unpooled) = (current.client.clone(), current.unpooled.clone());
            AgedClient { client, unpooled, created_at: now.monotonic }
        });
        let client = next.client.clone();
        self.consecutive_failures.store(0, Ordering::Relaxed);
        self.current.store(next.into());
        client
    }
}

impl Peer {
    fn client(self, options: &ClientOptions, now: Moment) -> Result<AgedClient, ClientBuildError> {
        let roots = match (self, &options.ca) {
            (Self::Wechat, Some(ca)) => ca.clone(),
            (Self::OwnServers, Some(ca)) => system_roots().with(ca),
            (_, None) => system_roots(),
        };
        let build = |builder: ClientBuilder| builder.tls_certs_only(roots.http_certificates()).build();
        let client = build(self.builder(options)?)?;
        let unpooled = build(self.builder(options)?.pool_max_idle_per_host(0))?;
        Ok(AgedClient { client, unpooled, created_at: now.monotonic })
    }

    fn builder(self, options: &ClientOptions) -> Result<ClientBuilder, ClientBuildError> {
        let builder = Client::builder()
            .user_agent(concat!("kfwatch/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(options.connect_timeout)
            .timeout(options.timeout)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT);
        let builder = match (self, options.http_version) {
            (Self::Wechat, HttpVersion::Http1) => builder.http1_only(),
            (Self::Wechat, HttpVersion::Http2) => builder.http2_prior_knowledge(),
            (Self::Wechat, HttpVersion::Auto) | (Self::OwnServers, _) => builder,
        };
        Ok(match (self, &options.proxy) {
            (Self::Wechat, Some(proxy)) => builder.proxy(Proxy::all(proxy.clone())?),
            _ => builder.no_proxy(),
        })
    }
}

fn system_roots() -> TlsRoots {
    let roots = TlsRoots::from_system();
    if let Some(problem) = roots.system_problem() {
        tracing::warn!("No usable CA store on this system ({problem}); using the built-in roots");
    }
    roots
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use jiff::Timestamp;
    use reqwest::{Method, Url};

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment { wall: Timestamp::UNIX_EPOCH, monotonic: Duration::from_secs(seconds) }
    }

    /// A client, and a URL where no server listens.
    fn without_server() -> (RotatingClient, Url) {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let base_url: Url = format!("http://{address}/").parse().unwrap();
        let options = ClientOptions {
            base_url: base_url.clone(),
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            max_body_bytes: 1024,
            http_version: HttpVersion::Http1,
            ca: None,
            proxy: None,
        };
        (RotatingClient::new(Peer::Wechat, options, at(0)).unwrap(), base_url)
    }

    fn created_at(client: &RotatingClient) -> u64 {
        client.current.load().created_at.as_secs()
    }

    #[tokio::test]
    async fn client_is_replaced_after_consecutive_failures_and_min_age() {
        let (client, url) = without_server();
        let call = |second| client.execute(Request::new(Method::GET, url.clone()), at(second));
        for _ in 1..MAX_CONSECUTIVE_FAILURES {
            call(31).await.unwrap_err();
        }
        call(40).await.unwrap_err();
        assert_eq!(created_at(&client), 0, "one more call must fail first");
        call(41).await.unwrap_err();
        assert_eq!(created_at(&client), 41);
        for _ in 0..2 * MAX_CONSECUTIVE_FAILURES {
            call(70).await.unwrap_err();
        }
        assert_eq!(created_at(&client), 41, "not before the minimum age");
        call(71).await.unwrap_err();
        assert_eq!(created_at(&client), 71);
    }

    #[test]
    fn only_one_caller_replaces_the_client() {
        let (client, _) = without_server();
        let replacing = client.replacing.lock().unwrap();
        client.client(at(600));
        assert_eq!(created_at(&client), 0, "another caller replaces it, and no caller waits");
        drop(replacing);
        client.client(at(599));
        assert_eq!(created_at(&client), 0);
        client.client(at(600));
        assert_eq!(created_at(&client), 600);
    }
}
