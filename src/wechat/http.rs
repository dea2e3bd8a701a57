//! The HTTP client: connections that are kept and replaced, bounded in time and size, silent about secrets.
//!
//! Redirects are not followed and no `Referer` is sent, because both would carry the token to another host; every
//! error of the HTTP library loses its URL here. A request is repeated only when a kept-alive connection broke before
//! any answer.

mod connections;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Method, Request, Response, Url,
    header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};

use self::connections::{Connections, Peer};
use super::{CallObserver, Endpoint, error::CallError, skew::ClockSkew, wire::WireError};
use crate::{
    domain::{
        clock::{Clock, Moment},
        retry_after::retry_after,
        tracker::Fingerprint,
    },
    tls::TlsRoots,
};

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
    /// Whom to trust instead of those that the system does.
    pub ca: Option<TlsRoots>,
    /// A proxy for all calls.
    pub proxy: Option<Url>,
}

/// The HTTP client could not be built from its options.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client: {0}")]
pub struct ClientBuildError(String);

/// The connections, shared by all official accounts.
pub struct WechatClient {
    wechat: Connections,
    /// For the operator's own servers, where there are any.
    servers: Option<Connections>,
    /// Parsed once: one is needed for every poll. In the order of [`Endpoint::ALL`].
    endpoints: Vec<Url>,
    max_body_bytes: usize,
    clock: Arc<dyn Clock>,
    skew: ClockSkew,
    /// The key of fingerprints.
    fingerprints: RandomState,
}

impl WechatClient {
    /// Sets it up; connects to nothing yet.
    pub fn build(options: &ClientOptions, clock: Arc<dyn Clock>) -> Result<Self, ClientBuildError> {
        let wechat = Connections::new(Peer::Wechat, options.clone(), clock.now())?;
        let mut base_url = options.base_url.clone();
        if !base_url.path().ends_with('/') {
            // Otherwise `join` would replace the last segment.
            let path = format!("{}/", base_url.path());
            base_url.set_path(&path);
        }
        // Only a base URL that cannot be a base fails here, and the configuration refuses those.
        let url = |endpoint: Endpoint| {
            base_url.join(path(endpoint)).map_err(|error| ClientBuildError(error.to_string()))
        };
        let endpoints = Endpoint::ALL.into_iter().map(url).collect::<Result<_, _>>()?;
        Ok(Self {
            wechat,
            servers: None,
            endpoints,
            max_body_bytes: options.max_body_bytes,
            clock,
            skew: ClockSkew::default(),
            fingerprints: RandomState::new(),
        })
    }

    /// Makes it able to ask the operator's own servers, too.
    pub fn with_servers(self, options: &ClientOptions) -> Result<Self, ClientBuildError> {
        let servers = Connections::new(Peer::OwnServers, options.clone(), self.clock.now())?;
        Ok(Self { servers: Some(servers), ..self })
    }

    /// How many seconds this machine's clock was ahead of WeChat's when that was last seen, and whether that is too many.
    pub(super) fn clock_skew(&self) -> Option<(f64, bool)> {
        self.skew.last()
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// By what an answer is known again.
    pub(super) fn fingerprint(&self, text: &str) -> Fingerprint {
        Fingerprint::new(self.fingerprints.hash_one(text))
    }

    pub(super) fn url(&self, endpoint: Endpoint) -> Url {
        self.endpoints[endpoint as usize].clone()
    }

    /// A POST with these fields as JSON.
    pub(super) fn post(&self, url: Url, fields: &BTreeMap<&str, serde_json::Value>) -> Request {
        let mut request = Request::new(Method::POST, url);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Maps of texts to values can always be written.
        *request.body_mut() = Some(serde_json::to_vec(fields).unwrap_or_default().into());
        request
    }

    /// One request and its whole answer.
    pub(super) async fn exchange(&self, request: Request) -> Result<Bytes, CallError> {
        let response = self.wechat.execute(request, self.now()).await;
        self.read(response.map_err(call_error)?).await
    }

    /// One GET to a server of the operator's, and its whole answer.
    pub(super) async fn ask_server(
        &self,
        url: Url,
        header: Option<&(HeaderName, HeaderValue)>,
    ) -> Result<Bytes, CallError> {
        let Some(servers) = &self.servers else {
            return Err(CallError::Connect("kfwatch is not set up to ask token servers".into()));
        };
        let now = self.now();
        // Other than `Request::new`, this takes user name and password out of the URL, and sends them as they should be.
        let mut request = servers.client(now).get(url);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.build().map_err(call_error)?;
        self.read(servers.execute(request, now).await.map_err(call_error)?).await
    }

    /// One GET that changes nothing at WeChat, and its whole answer: repeated once at once when its connection broke
    /// before any answer. The caller notes the time just before, for the answer tells WeChat's.
    pub(super) async fn get(
        &self,
        url: Url,
        sent_at: Moment,
        observer: &dyn CallObserver,
    ) -> Result<Bytes, CallError> {
        let request = || Request::new(Method::GET, url.clone());
        let response = match self.wechat.execute(request(), sent_at).await {
            Err(error) if broke_before_answer(&error) => self.wechat.execute(request(), sent_at).await,
            first => first,
        };
        let response = response.map_err(call_error)?;
        // What is no success may come from a machine between, with a clock of its own.
        if response.status().is_success()
            && let Some(seconds) = self.skew.observe(response.headers(), sent_at, || self.now())
        {
            observer.clock_skew_known(seconds);
        }
        self.read(response).await
    }

    async fn read(&self, mut response: Response) -> Result<Bytes, CallError> {
        let status = response.status();
        if !status.is_success() {
            let asked_for = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let retry_after = asked_for.and_then(|value| retry_after(value, self.now().wall));
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

/// The path of a call under the base URL. The token server has its own URL.
fn path(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Token => "cgi-bin/token",
        Endpoint::StableToken => "cgi-bin/stable_token",
        Endpoint::TokenServer => "",
        Endpoint::ComponentToken => "cgi-bin/component/api_component_token",
        Endpoint::AuthorizerToken => "cgi-bin/component/api_authorizer_token",
        Endpoint::AuthorizerList => "cgi-bin/component/api_get_authorizer_list",
        Endpoint::SessionList => "customservice/kfsession/getsessionlist",
        Endpoint::KfList => "cgi-bin/customservice/getkflist",
        Endpoint::OnlineKfList => "cgi-bin/customservice/getonlinekflist",
        Endpoint::WaitCase => "customservice/kfsession/getwaitcase",
        Endpoint::Quota => "cgi-bin/openapi/quota/get",
    }
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
pub(super) fn call_refused(error: WireError, secrets: &[&str]) -> CallError {
    match error {
        WireError::Refused { code, message } => {
            let secrets = secrets.iter().filter(|secret| !secret.is_empty());
            let message = secrets.fold(message, |message, secret| message.replace(*secret, "[REDACTED]"));
            let message =
                message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ERRMSG_CHARS);
            CallError::Refused { code, message: message.collect::<String>().into() }
        }
        WireError::Malformed(reason) => CallError::Malformed(reason.into()),
    }
}
