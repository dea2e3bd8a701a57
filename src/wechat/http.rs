//! The HTTP client: a connection pool, bounded in time and size, silent about secrets.
//!
//! Redirects are not followed and no `Referer` is sent, because both would carry the token to another host; every
//! error of the HTTP library loses its URL here. A request is repeated only when a kept-alive connection broke before
//! any answer.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Certificate, Method, Proxy, Request, Response, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use secrecy::{ExposeSecret, SecretString};

use super::{
    CallObserver, Endpoint,
    error::CallError,
    token::Fetched,
    wire::{self, WireError},
};
use crate::domain::clock::{Clock, Moment};

/// Idle connections are closed before WeChat would close them: a request on a connection that is just being closed
/// fails without an answer.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(25);

/// Which version of HTTP to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
    /// Whatever TLS negotiates.
    Auto,
}

/// How to reach WeChat, and the limits of one call.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Where the API is.
    pub base_url: Url,
    /// The longest time until a connection stands.
    pub connect_timeout: Duration,
    /// The longest time until an answer has been read whole.
    pub timeout: Duration,
    /// The largest answer, in bytes after decompression.
    pub max_body_bytes: usize,
    /// The version of HTTP.
    pub http_version: HttpVersion,
    /// PEM certificates to trust instead of the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// A proxy for all calls.
    pub proxy: Option<Url>,
}

/// The HTTP client could not be built from its options.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client: {0}")]
pub struct ClientBuildError(String);

/// The connection pool, shared by all official accounts.
pub struct WechatClient {
    http: reqwest::Client,
    /// Parsed once: one is needed for every poll. In the order of [`Endpoint::ALL`].
    endpoints: Vec<Url>,
    max_body_bytes: usize,
    clock: Arc<dyn Clock>,
}

impl WechatClient {
    /// Builds the pool; connects to nothing yet.
    pub fn build(options: &ClientOptions, clock: Arc<dyn Clock>) -> Result<Self, ClientBuildError> {
        let http = match builder(options)?.build() {
            Ok(http) => http,
            Err(error) if options.ca_pem.is_none() => {
                tracing::warn!(
                    "No usable CA store on this system ({}); using the built-in roots",
                    reason(error)
                );
                builder(options)?.tls_certs_only(built_in_roots()).build().map_err(ClientBuildError::from)?
            }
            Err(error) => return Err(error.into()),
        };
        let mut base_url = options.base_url.clone();
        if !base_url.path().ends_with('/') {
            // Otherwise `join` would replace the last segment.
            let path = format!("{}/", base_url.path());
            base_url.set_path(&path);
        }
        // Only a base URL that cannot be a base fails here, and the configuration refuses those.
        let url = |endpoint: Endpoint| {
            base_url.join(endpoint.path()).map_err(|error| ClientBuildError(error.to_string()))
        };
        let endpoints = Endpoint::ALL.into_iter().map(url).collect::<Result<_, _>>()?;
        Ok(Self { http, endpoints, max_body_bytes: options.max_body_bytes, clock })
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Fetches an access token: `GET /cgi-bin/token` or `POST /cgi-bin/stable_token`.
    pub(super) async fn fetch_token(
        &self,
        endpoint: Endpoint,
        appid: &str,
        secret: &SecretString,
        observer: &dyn CallObserver,
    ) -> Result<Fetched, CallError> {
        let request = self.token_request(endpoint, appid, secret);
        let started = self.now();
        let fetched = self.exchange(request).await.and_then(|body| {
            let answer = wire::text(&body);
            let answer = wire::token(&answer).map_err(|error| call_refused(error, secret.expose_secret()))?;
            Ok(Fetched::new(&answer.access_token, answer.expires_in))
        });
        observer.called(endpoint, self.now().since(&started), fetched.as_ref().err());
        fetched
    }

    fn token_request(&self, endpoint: Endpoint, appid: &str, secret: &SecretString) -> Request {
        let mut url = self.url(endpoint);
        let fields =
            [("grant_type", "client_credential"), ("appid", appid), ("secret", secret.expose_secret())];
        if endpoint == Endpoint::Token {
            url.query_pairs_mut().extend_pairs(fields);
            return Request::new(Method::GET, url);
        }
        let fields: serde_json::Map<_, _> =
            fields.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        let mut request = Request::new(Method::POST, url);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(serde_json::Value::Object(fields).to_string().into());
        request
    }

    pub(super) fn url(&self, endpoint: Endpoint) -> Url {
        self.endpoints[endpoint as usize].clone()
    }

    /// One request and its whole answer.
    async fn exchange(&self, request: Request) -> Result<Bytes, CallError> {
        let response = self.http.execute(request).await;
        self.read(response.map_err(call_error)?).await
    }

    /// One GET that changes nothing at WeChat, and its whole answer: repeated once at once when its connection broke
    /// before any answer.
    pub(super) async fn get(&self, url: Url) -> Result<Bytes, CallError> {
        let response = match self.http.execute(Request::new(Method::GET, url.clone())).await {
            Err(error) if broke_before_answer(&error) => {
                self.http.execute(Request::new(Method::GET, url)).await
            }
            first => first,
        };
        self.read(response.map_err(call_error)?).await
    }

    /// One POST of JSON, and its whole answer.
    pub(super) async fn post(&self, url: Url, json: &'static str) -> Result<Bytes, CallError> {
        let mut request = Request::new(Method::POST, url);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(json.into());
        self.exchange(request).await
    }

    async fn read(&self, mut response: Response) -> Result<Bytes, CallError> {
        let status = response.status();
        if !status.is_success() {
            let retry_after = retry_after(response.headers(), self.now());
            return Err(CallError::Http { status: status.as_u16(), retry_after });
        }
        let limit = self.max_body_bytes;
        let mut body = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(call_error)? {
            if body.len() + more.len() + chunk.len() > limit {
                return Err(CallError::TooLarge { limit });
            }
            // Most answers are one chunk, which is then not copied.
            if body.is_empty() {
                body = chunk;
            } else {
                more.extend_from_slice(&chunk);
            }
        }
        if more.is_empty() {
            return Ok(body);
        }
        let mut whole = BytesMut::with_capacity(body.len() + more.len());
        whole.extend_from_slice(&body);
        whole.extend_from_slice(&more);
        Ok(whole.freeze())
    }
}

fn builder(options: &ClientOptions) -> Result<reqwest::ClientBuilder, ClientBuildError> {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("kfwatch/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .connect_timeout(options.connect_timeout)
        .timeout(options.timeout)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT);
    let builder = match options.http_version {
        HttpVersion::Http1 => builder.http1_only(),
        HttpVersion::Http2 => builder.http2_prior_knowledge(),
        HttpVersion::Auto => builder,
    };
    let builder = match &options.proxy {
        Some(proxy) => builder.proxy(Proxy::all(proxy.clone())?),
        None => builder.no_proxy(),
    };
    Ok(match &options.ca_pem {
        Some(pem) => builder.tls_certs_only(Certificate::from_pem_bundle(pem)?),
        None => builder,
    })
}

fn built_in_roots() -> impl Iterator<Item = Certificate> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().filter_map(|root| Certificate::from_der(root).ok())
}

impl From<reqwest::Error> for ClientBuildError {
    fn from(error: reqwest::Error) -> Self {
        Self(reason(error))
    }
}

/// The innermost cause, which says most, without the URL.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn call_error(error: reqwest::Error) -> CallError {
    if error.is_timeout() {
        CallError::Timeout
    } else if error.is_body() || error.is_decode() {
        CallError::Malformed("the answer broke off".into())
    } else {
        CallError::Connect(reason(error).into())
    }
}

fn broke_before_answer(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_timeout() && !error.is_connect()
}

/// The longest errmsg that is kept, in characters: they go to logs.
const MAX_ERRMSG_CHARS: usize = 300;

/// `errmsg` comes from outside: should it hold what we sent, that is cut out before it is shortened.
pub(super) fn call_refused(error: WireError, secret: &str) -> CallError {
    match error {
        WireError::Refused { code, message } => {
            let message = message.replace(secret, "[REDACTED]");
            let message =
                message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ERRMSG_CHARS);
            CallError::Refused { code, message: message.collect::<String>().into() }
        }
        WireError::Malformed(reason) => CallError::Malformed(reason.into()),
    }
}

/// `Retry-After` as seconds or as a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: Moment) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Duration::try_from(date.duration_since(now.wall)).ok()
}
