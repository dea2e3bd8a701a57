//! The connections to WeChat, or to the operator's own servers, and the client that keeps them.
//!
//! A connection that is busy never looks its host up again: a host that moved would be asked at its old address for as
//! long as that answers, and an HTTP/2 connection that hangs is never given up. So the client is replaced by a new one,
//! without connections, after [`LONGEST_USE`], and after [`UNANSWERED_IN_A_ROW`] calls. Calls in flight keep their
//! connection, which is closed behind them. There are no more connections than calls in flight, for each of which a worker,
//! a collector or a command stands; while a client is being replaced, twice as many.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use reqwest::{Client, ClientBuilder, Proxy, Request, Response};

use super::{ClientBuildError, ClientOptions, HttpVersion};
use crate::{domain::clock::Moment, tls::TlsRoots};

/// Idle connections are closed before WeChat would close them: a request on a connection that is just being closed
/// fails without an answer.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(25);

/// After so long the host is looked up anew. The price is a handshake for each connection.
const LONGEST_USE: Duration = Duration::from_secs(600);

/// A client is not replaced sooner, however calls fail.
const SHORTEST_USE: Duration = Duration::from_secs(30);

/// After so many calls without an answer, none between them with one, it may be the connections' fault.
const UNANSWERED_IN_A_ROW: u32 = 16;

/// Whom the connections lead to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    /// WeChat, or the proxy to it.
    Wechat,
    /// Token and ticket servers of the operator's: not reached through that proxy, and trusted by the system's
    /// certificates beside those of `ca`.
    OwnServers,
}

/// The connections to one peer.
pub(super) struct Connections {
    peer: Peer,
    options: ClientOptions,
    opened: ArcSwap<Opened>,
    unanswered: AtomicU32,
    /// Held by whoever replaces the client.
    replacing: Mutex<()>,
}

struct Opened {
    client: Client,
    /// On the monotonic clock.
    at: Duration,
}

impl Connections {
    /// A client that has not connected yet.
    pub(super) fn new(peer: Peer, options: ClientOptions, now: Moment) -> Result<Self, ClientBuildError> {
        let client = peer.client(&options)?;
        let opened = ArcSwap::from_pointee(Opened { client, at: now.monotonic });
        Ok(Self { peer, options, opened, unanswered: AtomicU32::new(0), replacing: Mutex::default() })
    }

    /// One request and the head of its answer.
    pub(super) async fn execute(&self, request: Request, now: Moment) -> reqwest::Result<Response> {
        let answer = self.client(now).execute(request).await;
        if answer.is_err() {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
        } else if self.unanswered.load(Ordering::Relaxed) > 0 {
            self.unanswered.store(0, Ordering::Relaxed);
        }
        answer
    }

    /// The client to use at this moment, replaced if its time has come.
    pub(super) fn client(&self, now: Moment) -> Client {
        let opened = self.opened.load();
        // Whoever comes while another replaces it uses the one that is there.
        if self.is_due(&opened, now)
            && let Ok(_replacing) = self.replacing.try_lock()
            && self.is_due(&self.opened.load(), now)
        {
            return self.replace(now);
        }
        opened.client.clone()
    }

    fn is_due(&self, opened: &Opened, now: Moment) -> bool {
        let failing = self.unanswered.load(Ordering::Relaxed) >= UNANSWERED_IN_A_ROW;
        let use_for = if failing { SHORTEST_USE } else { LONGEST_USE };
        now.monotonic.saturating_sub(opened.at) >= use_for
    }

    /// Reads the certificates of the system anew, which takes some milliseconds.
    fn replace(&self, now: Moment) -> Client {
        let client = self.peer.client(&self.options).unwrap_or_else(|error| {
            tracing::warn!("The HTTP client is used on: {error}");
            self.opened.load().client.clone()
        });
        self.unanswered.store(0, Ordering::Relaxed);
        self.opened.store(Opened { client: client.clone(), at: now.monotonic }.into());
        client
    }
}

impl Peer {
    fn client(self, options: &ClientOptions) -> Result<Client, ClientBuildError> {
        let roots = match (self, &options.ca) {
            (Self::Wechat, Some(ca)) => ca.clone(),
            (Self::OwnServers, Some(ca)) => system_roots().and(ca),
            (_, None) => system_roots(),
        };
        Ok(self.builder(options)?.tls_certs_only(roots.for_http()).build()?)
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
    let roots = TlsRoots::of_system();
    if let Some(problem) = roots.no_ca_store() {
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

    /// Connections to a port where nobody listens.
    fn to_nobody() -> (Connections, Url) {
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
        (Connections::new(Peer::Wechat, options, at(0)).unwrap(), base_url)
    }

    fn opened_at(connections: &Connections) -> u64 {
        connections.opened.load().at.as_secs()
    }

    #[tokio::test]
    async fn calls_without_an_answer_replace_the_client_after_some_of_them_and_some_time() {
        let (connections, url) = to_nobody();
        let call = |second| connections.execute(Request::new(Method::GET, url.clone()), at(second));
        for _ in 1..UNANSWERED_IN_A_ROW {
            call(31).await.unwrap_err();
        }
        call(40).await.unwrap_err();
        assert_eq!(opened_at(&connections), 0, "one more had to fail first");
        call(41).await.unwrap_err();
        assert_eq!(opened_at(&connections), 41);
        for _ in 0..2 * UNANSWERED_IN_A_ROW {
            call(70).await.unwrap_err();
        }
        assert_eq!(opened_at(&connections), 41, "not all the time");
        call(71).await.unwrap_err();
        assert_eq!(opened_at(&connections), 71);
    }

    #[test]
    fn one_of_many_replaces_the_client() {
        let (connections, _) = to_nobody();
        let replacing = connections.replacing.lock().unwrap();
        connections.client(at(600));
        assert_eq!(opened_at(&connections), 0, "another is at it, and nobody waits for it");
        drop(replacing);
        connections.client(at(599));
        assert_eq!(opened_at(&connections), 0);
        connections.client(at(600));
        assert_eq!(opened_at(&connections), 600);
    }
}
