//! The HTTP client that all official accounts share: pooled connections, limits on time and size, no secrets in errors.
//!
//! It follows no redirects and sends no `Referer`, because both would send the token to another host. A request is
//! repeated only if its connection broke before the answer, and only at an endpoint where a repetition costs nothing.

mod options;
mod proxy_status;
mod rotating_client;

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Method, Request, Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};

pub use self::options::{ClientBuildError, ClientOptions, HttpVersion};
use self::rotating_client::{Peer, RotatingClient};
use super::{error::CallError, observer::CallObserver, skew::ClockSkew};
use crate::domain::{
    clock::{Clock, Moment},
    endpoint::Endpoint,
    retry_after::retry_after,
};

/// The HTTP client, shared by all official accounts.
pub struct WechatClient {
    wechat: RotatingClient,
    /// For the operator's own token and ticket servers, if any.
    servers: Option<RotatingClient>,
    /// Parsed once, because every poll needs one. In the order of [`Endpoint::ALL`].
    endpoints: Vec<Url>,
    max_body_bytes: usize,
    clock: Arc<dyn Clock>,
    skew: ClockSkew,
}

impl WechatClient {
    /// Builds the client without connecting.
    pub fn build(options: &ClientOptions, clock: Arc<dyn Clock>) -> Result<Self, ClientBuildError> {
        let wechat = RotatingClient::new(Peer::Wechat, options.clone(), clock.now())?;
        let mut base_url = options.base_url.clone();
        if !base_url.path().ends_with('/') {
            // Otherwise `join` replaces the last segment.
            let path = format!("{}/", base_url.path());
            base_url.set_path(&path);
        }
        // This only fails for a URL that cannot be a base, which the configuration rejects.
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
        })
    }

    /// Adds a client for the operator's own servers.
    pub fn with_servers(self, options: &ClientOptions) -> Result<Self, ClientBuildError> {
        let servers = RotatingClient::new(Peer::OwnServers, options.clone(), self.clock.now())?;
        Ok(Self { servers: Some(servers), ..self })
    }

    /// What it was built from.
    pub fn options(&self) -> &ClientOptions {
        self.wechat.options()
    }

    /// Whether it can call the operator's own servers.
    pub fn has_servers(&self) -> bool {
        self.servers.is_some()
    }

    /// The last measured clock skew in seconds, positive if this machine is ahead, and whether it is too large.
    pub(super) fn clock_skew(&self) -> Option<(f64, bool)> {
        self.skew.last()
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Asks the proxy for one connection to WeChat, and returns the status with which it refuses.
    pub(super) async fn proxy_status(&self) -> Option<u16> {
        let ClientOptions { base_url, proxy, connect_timeout, .. } = self.wechat.options();
        let status = proxy_status::fetch(proxy.as_ref()?, base_url);
        tokio::time::timeout(*connect_timeout, status).await.ok()?
    }

    pub(super) fn url(&self, endpoint: Endpoint) -> Url {
        self.endpoints[endpoint as usize].clone()
    }

    /// Builds a POST request with these fields as JSON.
    pub(super) fn post(&self, url: Url, fields: &BTreeMap<&str, serde_json::Value>) -> Request {
        let mut request = Request::new(Method::POST, url);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Serializing a map with string keys cannot fail.
        *request.body_mut() = Some(serde_json::to_vec(fields).unwrap_or_default().into());
        request
    }

    /// Sends a request and reads the whole answer. Repeats the request once if its connection broke before the answer and the
    /// endpoint allows that.
    pub(super) async fn exchange(&self, endpoint: Endpoint, request: Request) -> Result<Bytes, CallError> {
        let now = self.now();
        let response = match endpoint.may_be_repeated() {
            true => self.wechat.execute_repeatable(request, now).await,
            false => self.wechat.execute(request, now).await,
        };
        self.read(response.map_err(CallError::from_http)?).await
    }

    /// Sends a GET request to one of the operator's own servers and reads the whole answer.
    pub(super) async fn get_from_server(
        &self,
        url: Url,
        header: Option<&(HeaderName, HeaderValue)>,
    ) -> Result<Bytes, CallError> {
        let Some(servers) = &self.servers else {
            return Err(CallError::Connect("no client is set up for token servers".into()));
        };
        let now = self.now();
        // Unlike `Request::new`, this moves user name and password from the URL into a header.
        let mut request = servers.client(now).get(url);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.build().map_err(CallError::from_http)?;
        self.read(servers.execute_repeatable(request, now).await.map_err(CallError::from_http)?).await
    }

    /// Sends a GET request that changes nothing at WeChat, and reads the whole answer. Repeats it once if its connection broke
    /// before the answer. `sent_at` is the moment just before; it is compared with the answer's `Date`.
    pub(super) async fn get(
        &self,
        url: Url,
        sent_at: Moment,
        observer: &dyn CallObserver,
    ) -> Result<Bytes, CallError> {
        let response = self.wechat.execute_repeatable(Request::new(Method::GET, url), sent_at).await;
        let response = response.map_err(CallError::from_http)?;
        // Other answers may come from a proxy with its own clock.
        if response.status().is_success()
            && let Some(seconds) = self.skew.observe(response.headers(), sent_at, || self.now())
        {
            observer.clock_skew_known(seconds);
        }
        self.read(response).await
    }

    async fn read(&self, mut response: Response) -> Result<Bytes, CallError> {
        let status = response.status();
        if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            // Calls that are not encrypted get it as their answer.
            return Err(CallError::Proxy { status: Some(status.as_u16()) });
        }
        if !status.is_success() {
            let value = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let retry_after = value.and_then(|value| retry_after(value, self.now().wall));
            return Err(CallError::Http { status: status.as_u16(), retry_after });
        }
        let limit = self.max_body_bytes;
        let mut body = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(CallError::from_http)? {
            if body.len() + more.len() + chunk.len() > limit {
                return Err(CallError::TooLarge { limit });
            }
            // Most answers have one chunk, which is not copied.
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
