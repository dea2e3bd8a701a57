//! A small HTTP server for the tests: a token server, and WeChat's API for third-party platforms.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Query, Request, State},
    http::{StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
};
use futures_util::future::BoxFuture;
use kfwatch::{
    domain::clock::{Clock, Moment},
    wechat::{
        CallObserver, Endpoint,
        client::OfficialAccountClient,
        error::{CallError, CallFailure},
        http::{ClientOptions, HttpVersion, WechatClient},
        token::{
            Authorization, Component, ComponentCredentials, TicketSource, TokenJournal, TokenProvider,
            TokenSource,
        },
        wire::{self, SessionList},
    },
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::support::rehearsal::ScriptedClock;

pub(crate) const COMPONENT: &str = "wxcccccccccccccccc";
pub(crate) const COMPONENT_SECRET: &str = "component-s3cret";

/// The server, and what its clients share.
pub(crate) struct Platform {
    pub(crate) url: String,
    pub(crate) clock: Arc<ScriptedClock>,
    pub(crate) journal: Arc<Ledger>,
    pub(crate) client: Arc<WechatClient>,
    world: Arc<Mutex<World>>,
    server: tokio::task::JoinHandle<()>,
}

/// The state of the server, and the requests that it received.
pub(crate) struct World {
    pub(crate) ticket: String,
    /// The parameter for the component's token.
    pub(crate) parameter: &'static str,
    /// The component's token that is valid, and how many there were.
    pub(crate) component_token: String,
    pub(crate) component_tokens: usize,
    /// By appid.
    pub(crate) merchants: BTreeMap<String, Merchant>,
    /// What the token server answers: status and body.
    pub(crate) served: (u16, String),
    /// The token that getsessionlist accepts in addition to those of the merchants.
    pub(crate) accepted: String,
    /// The next request is answered once the sender of this is dropped.
    delay: Option<oneshot::Receiver<()>>,
    pub(crate) asked: Vec<Asked>,
}

#[derive(Clone, Default)]
pub(crate) struct Merchant {
    pub(crate) refresh_token: String,
    pub(crate) access_token: String,
    pub(crate) rotates: bool,
    pub(crate) tokens: usize,
}

/// A received request.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) query: HashMap<String, String>,
    pub(crate) body: Value,
    /// The header `X-Key`, or else `Authorization`.
    pub(crate) key: Option<String>,
}

impl Platform {
    pub(crate) async fn start() -> Self {
        Self::with_proxy(None).await
    }

    /// With a proxy for the calls to WeChat.
    #[expect(clippy::disallowed_methods, reason = "a test is its own composition root")]
    pub(crate) async fn with_proxy(proxy: Option<&str>) -> Self {
        let world = Arc::new(Mutex::new(World {
            ticket: "ticket-1".to_owned(),
            parameter: "component_access_token",
            component_token: String::new(),
            component_tokens: 0,
            merchants: BTreeMap::new(),
            served: (200, "served-1".to_owned()),
            accepted: "served-1".to_owned(),
            delay: None,
            asked: Vec::new(),
        }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&world));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let options = ClientOptions {
            base_url: url.parse().unwrap(),
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(5),
            max_body_bytes: 64 * 1024,
            http_version: HttpVersion::Http1,
            ca: None,
            proxy: proxy.map(|proxy| proxy.parse().unwrap()),
        };
        let clock = Arc::new(ScriptedClock::default());
        let client = WechatClient::build(&options, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
        let client = Arc::new(client.with_servers(&options).unwrap());
        Self { url, clock, journal: Arc::default(), client, world, server }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(crate) fn request_count(&self, path: &str) -> usize {
        self.world().asked.iter().filter(|asked| asked.path.ends_with(path)).count()
    }

    /// Delays the response to the next request until the returned sender is dropped.
    pub(crate) fn delay_next(&self) -> oneshot::Sender<()> {
        let (release, delay) = oneshot::channel();
        self.world().delay = Some(delay);
        release
    }

    /// Runs these polls, none of which may end, until the path was requested so often.
    pub(crate) async fn poll_until_requested(
        &self,
        polls: &mut (impl Future + Unpin),
        path: &str,
        times: usize,
    ) {
        let asked = async {
            while self.request_count(path) < times {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = polls => panic!("ended before {path} was requested {times} times"),
            asked = tokio::time::timeout(Duration::from_secs(4), asked) => asked.unwrap(),
        }
    }

    /// Adds merchants that have authorized the component. Returns their appids.
    pub(crate) fn merchants(&self, count: usize) -> Vec<String> {
        let appids: Vec<String> = (0..count).map(|n| format!("wx{n:016}")).collect();
        for appid in &appids {
            let merchant = Merchant { refresh_token: format!("refresh-{appid}"), ..Merchant::default() };
            self.world().merchants.insert(appid.clone(), merchant);
        }
        appids
    }

    pub(crate) fn component(&self, ticket: TicketSource, last_fetch_ago: Option<Duration>) -> Arc<Component> {
        let secret = SecretString::from(COMPONENT_SECRET).into();
        let credentials = Arc::new(ComponentCredentials { appid: COMPONENT.into(), secret, ticket });
        let journal = Arc::clone(&self.journal) as Arc<dyn TokenJournal>;
        Arc::new(Component::new(credentials, journal, last_fetch_ago, self.clock.now()))
    }

    pub(crate) fn of_component(
        &self,
        appid: &str,
        component: &Arc<Component>,
        refresh_token: Option<&str>,
    ) -> Account {
        let authorization = authorization(component, refresh_token);
        let journal = Arc::clone(&self.journal) as Arc<dyn TokenJournal>;
        self.account(TokenProvider::new(appid.into(), authorization, journal, None, self.clock.now()))
    }

    pub(crate) fn own(&self, source: TokenSource, last_fetch_ago: Option<Duration>) -> Account {
        let journal = Arc::clone(&self.journal) as Arc<dyn TokenJournal>;
        let appid = "wx0123456789abcdef".into();
        self.account(TokenProvider::new(appid, source, journal, last_fetch_ago, self.clock.now()))
    }

    fn account(&self, tokens: TokenProvider) -> Account {
        let tally = Arc::new(Tally::default());
        let observer = Arc::clone(&tally) as Arc<dyn CallObserver>;
        Account {
            client: OfficialAccountClient::new(Arc::clone(&self.client), Arc::new(tokens), observer),
            tally,
        }
    }
}

/// An authorization of which no refresh token was stored.
pub(crate) fn authorization(component: &Arc<Component>, refresh_token: Option<&str>) -> Authorization {
    Authorization {
        component: Arc::clone(component),
        stored_refresh_token: None,
        configured_refresh_token: refresh_token.map(Into::into),
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An official account that can be polled.
pub(crate) struct Account {
    pub(crate) client: OfficialAccountClient,
    pub(crate) tally: Arc<Tally>,
}

impl Account {
    pub(crate) async fn poll(&self) -> Result<(), CallFailure> {
        let response = self.client.session_list("kf@test").await?;
        assert!(matches!(wire::session_list(&wire::text(&response.body)), Ok(SessionList::Listed(_))));
        Ok(())
    }

    /// Returns the failure of a poll, which must show nothing that was sent.
    pub(crate) async fn failure(&self) -> CallFailure {
        let failure = self.poll().await.unwrap_err();
        let shown = format!("{failure} {failure:?}");
        for secret in ["s3cret", "ticket-", "component-1", "refresh-wx", "access-wx", "served-"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        failure
    }
}

/// Counts what the client reports.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) calls: Mutex<BTreeMap<&'static str, usize>>,
    pub(crate) refreshed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) replaced: AtomicU64,
}

impl Tally {
    pub(crate) fn of(&self, endpoint: Endpoint) -> usize {
        self.calls.lock().unwrap().get(endpoint.as_str()).copied().unwrap_or_default()
    }
}

impl CallObserver for Tally {
    fn called(&self, endpoint: Endpoint, _elapsed: Duration, _error: Option<&CallError>) {
        *self.calls.lock().unwrap().entry(endpoint.as_str()).or_default() += 1;
    }

    fn rejected(&self, _endpoint: Endpoint, _error: &CallError) {}

    fn token_refreshed(&self, expires_at: Option<i64>) {
        self.refreshed.fetch_add(expires_at.is_some().into(), Ordering::Relaxed);
    }

    fn token_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn token_refresh_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    fn token_replaced(&self) {
        self.replaced.fetch_add(1, Ordering::Relaxed);
    }
}

/// A journal that can be read, and that can fail.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) fetches: Mutex<Vec<String>>,
    pub(crate) refresh_tokens: Mutex<Vec<(String, String)>>,
    pub(crate) fails: AtomicBool,
}

impl TokenJournal for Ledger {
    fn record_fetch<'a>(&'a self, appid: &'a str, _at: Moment) -> BoxFuture<'a, ()> {
        self.fetches.lock().unwrap().push(appid.to_owned());
        Box::pin(std::future::ready(()))
    }

    fn store_refresh_token<'a>(
        &'a self,
        appid: &'a str,
        token: &'a SecretString,
        _at: Moment,
    ) -> BoxFuture<'a, Result<(), String>> {
        let stored = if self.fails.load(Ordering::Relaxed) {
            Err("no space left".to_owned())
        } else {
            let entry = (appid.to_owned(), token.expose_secret().to_owned());
            self.refresh_tokens.lock().unwrap().push(entry);
            Ok(())
        };
        Box::pin(std::future::ready(stored))
    }
}

async fn answer(
    State(world): State<Arc<Mutex<World>>>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    let headers = request.headers().clone();
    let body: Bytes = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let key = header("x-key").or_else(|| header("authorization"));
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let asked = Asked { path, query, body, key };
    let delay = {
        let mut world = world.lock().unwrap();
        world.asked.push(asked.clone());
        world.delay.take()
    };
    if let Some(delay) = delay {
        // Nothing is sent; dropping the sender ends the wait.
        delay.await.unwrap_err();
    }
    let mut world = world.lock().unwrap();
    match asked.path.rsplit('/').next().unwrap() {
        "api_component_token" => world.component_token(&asked.body),
        "api_authorizer_token" => world.authorizer_token(&asked),
        "api_get_authorizer_list" => world.authorizers(&asked),
        "getsessionlist" => world.sessions(&asked.query["access_token"]),
        "ticket" => world.ticket.clone().into_response(),
        _ => {
            let (status, body) = world.served.clone();
            (StatusCode::from_u16(status).unwrap(), [(LOCATION, "/elsewhere")], body).into_response()
        }
    }
}

impl World {
    fn component_token(&mut self, body: &Value) -> Response {
        if body["component_appid"] != COMPONENT || body["component_appsecret"] != COMPONENT_SECRET {
            return refused(40125, "invalid appsecret", &body["component_appsecret"]);
        }
        if body["component_verify_ticket"] != *self.ticket {
            return refused(61006, "component ticket is invalid", &body["component_verify_ticket"]);
        }
        self.component_tokens += 1;
        self.component_token = format!("component-{}", self.component_tokens);
        json_response(json!({"component_access_token": self.component_token, "expires_in": "7200"}))
    }

    fn refusal(&self, asked: &Asked) -> Option<Response> {
        match asked.query.get(self.parameter) {
            None => Some(refused(41001, "access_token missing", &Value::Null)),
            Some(token) if *token != self.component_token => {
                Some(refused(40001, "invalid credential", &json!(token)))
            }
            Some(_) => None,
        }
    }

    fn authorizer_token(&mut self, asked: &Asked) -> Response {
        if let Some(refusal) = self.refusal(asked) {
            return refusal;
        }
        let appid = asked.body["authorizer_appid"].as_str().unwrap();
        let refresh_token = &asked.body["authorizer_refresh_token"];
        let Some(merchant) =
            self.merchants.get_mut(appid).filter(|merchant| *refresh_token == *merchant.refresh_token)
        else {
            return refused(61023, "refresh_token is invalid", refresh_token);
        };
        merchant.tokens += 1;
        merchant.access_token = format!("access-{appid}-{}", merchant.tokens);
        if merchant.rotates {
            merchant.refresh_token = format!("refresh-{appid}-{}", merchant.tokens);
        }
        json_response(json!({
            "authorizer_access_token": merchant.access_token,
            "expires_in": 7200,
            "authorizer_refresh_token": merchant.refresh_token,
        }))
    }

    fn authorizers(&self, asked: &Asked) -> Response {
        if let Some(refusal) = self.refusal(asked) {
            return refusal;
        }
        let number = |key: &str| usize::try_from(asked.body[key].as_u64().unwrap()).unwrap();
        let page = self.merchants.iter().skip(number("offset")).take(number("count"));
        let list: Vec<Value> = page
            .map(|(appid, merchant)| json!({"authorizer_appid": appid, "refresh_token": merchant.refresh_token}))
            .collect();
        json_response(json!({"total_count": self.merchants.len(), "list": list}))
    }

    fn sessions(&self, token: &str) -> Response {
        let accepted =
            token == self.accepted || self.merchants.values().any(|merchant| token == merchant.access_token);
        if accepted {
            json_response(json!({"sessionlist": []}))
        } else {
            refused(40001, "invalid", &json!(token))
        }
    }
}

fn json_response(answer: Value) -> Response {
    answer.to_string().into_response()
}

/// Quotes what was sent, so that tests notice an error text that is not redacted.
fn refused(errcode: i64, what: &str, quoted: &Value) -> Response {
    json_response(
        json!({"errcode": errcode, "errmsg": format!("{what}: {}", quoted.as_str().unwrap_or_default())}),
    )
}
