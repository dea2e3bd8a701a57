//! Calls WeChat for one official account, with a valid access token.
//!
//! Only this module repeats a call with a new token: once, when WeChat has refused the token.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    CallObserver, Endpoint,
    error::{CallError, CallFailure},
    http::WechatClient,
    rate_limit::RateLimiter,
    token::{AccessToken, FetchWait, TokenProvider, TokenStatus},
    wire::{self, WireError, collectors},
};
use crate::domain::{
    agents::{KfList, OnlineAccount, Quota, WaitingQueue},
    clock::Moment,
    endpoint::CallKind,
    error_class::ErrorClass,
};

/// A successful response of WeChat: its errcode is 0 or missing.
#[derive(Debug)]
pub struct Response {
    endpoint: Endpoint,
    /// The body as received.
    pub body: Bytes,
    /// When the request was sent.
    pub sent_at: Moment,
    /// When the whole body had been received.
    pub received_at: Moment,
}

/// Calls WeChat for one official account. Callers take a [permit](OfficialAccountClient::permit) before each call; a repeated
/// call takes another permit itself. Clones share all parts.
#[derive(Clone)]
pub struct OfficialAccountClient {
    client: Arc<WechatClient>,
    tokens: Arc<TokenProvider>,
    observer: Arc<dyn CallObserver>,
    rate_limiter: Option<Arc<RateLimiter>>,
}

impl OfficialAccountClient {
    /// A client without a rate limit.
    pub fn new(
        client: Arc<WechatClient>,
        tokens: Arc<TokenProvider>,
        observer: Arc<dyn CallObserver>,
    ) -> Self {
        Self { client, tokens, observer, rate_limiter: None }
    }

    /// The same with this rate limit, or without any.
    pub fn with_rate_limiter(self, rate_limiter: Option<Arc<RateLimiter>>) -> Self {
        Self { rate_limiter, ..self }
    }

    /// The same with another HTTP client.
    pub fn with_http_client(self, client: Arc<WechatClient>) -> Self {
        Self { client, ..self }
    }

    /// The same with other tokens.
    pub fn with_tokens(self, tokens: Arc<TokenProvider>) -> Self {
        Self { tokens, ..self }
    }

    /// The HTTP client.
    pub fn http_client(&self) -> &Arc<WechatClient> {
        &self.client
    }

    /// The provider of its access token.
    pub fn tokens(&self) -> &Arc<TokenProvider> {
        &self.tokens
    }

    /// The rate limit, if there is one.
    pub fn rate_limiter(&self) -> Option<&Arc<RateLimiter>> {
        self.rate_limiter.as_ref()
    }

    /// How many seconds this machine's clock was ahead of WeChat's at the last measurement, and whether that is too much.
    pub fn clock_skew(&self) -> Option<(f64, bool)> {
        self.client.clock_skew()
    }

    /// The current moment, by the clock that measures the calls.
    pub fn now(&self) -> Moment {
        self.client.now()
    }

    /// Waits until the rate limit allows another call.
    pub async fn permit(&self) {
        if let Some(rate_limiter) = &self.rate_limiter {
            rate_limiter.permit().await;
        }
    }

    /// The status of the current access token, if there is one. Never fetches a token.
    pub fn token_status(&self) -> Option<TokenStatus> {
        self.tokens.status(self.client.now())
    }

    /// How long the token fetch that the next call needs has to wait; zero if there is a usable token.
    pub fn token_wait(&self, now: Moment) -> FetchWait {
        self.tokens.fetch_wait(now)
    }

    /// Fetches the open sessions of one kf account. The caller parses the body.
    /// `GET /customservice/kfsession/getsessionlist`.
    pub async fn session_list(&self, kf_account: &str) -> Result<Response, CallFailure> {
        // A literal `@` is legal in a query, and some of these calls have refused `%40`.
        self.call(Endpoint::SessionList, &format!("&kf_account={kf_account}")).await
    }

    /// All kf accounts of the official account. `GET /cgi-bin/customservice/getkflist`.
    pub async fn kf_list(&self) -> Result<KfList, CallFailure> {
        self.call_and_parse(Endpoint::KfList, collectors::kf_list).await
    }

    /// The kf accounts that are online. `GET /cgi-bin/customservice/getonlinekflist`.
    pub async fn online_kf_list(&self) -> Result<Vec<OnlineAccount>, CallFailure> {
        self.call_and_parse(Endpoint::OnlineKfList, collectors::online_kf_list).await
    }

    /// The customers who wait for an agent. `GET /customservice/kfsession/getwaitcase`.
    pub async fn wait_case(&self) -> Result<WaitingQueue, CallFailure> {
        self.call_and_parse(Endpoint::WaitCase, collectors::wait_case).await
    }

    /// The quota of getsessionlist. `POST /cgi-bin/openapi/quota/get`.
    pub async fn quota(&self) -> Result<Quota, CallFailure> {
        self.call_and_parse(Endpoint::Quota, collectors::quota).await
    }

    /// Adds the status of the proxy to failures that lack it. Asks the proxy once, if at all.
    pub async fn explain_proxy_refusals(&self, failures: Vec<&mut CallFailure>) {
        if failures.iter().any(|failure| failure.lacks_proxy_status())
            && let Some(status) = self.client.proxy_status().await
        {
            failures.into_iter().for_each(|failure| failure.add_proxy_status(status));
        }
    }

    /// Counts a response that could not be parsed as a failed call, and returns the failure.
    pub fn reject(&self, response: &Response, error: WireError) -> CallFailure {
        let error = CallError::from_wire(error, &[]);
        self.observer.rejected(response.endpoint, &error);
        CallFailure::new(response.endpoint, error, response.sent_at)
    }

    async fn call_and_parse<T>(
        &self,
        endpoint: Endpoint,
        parse: fn(&str) -> Result<T, WireError>,
    ) -> Result<T, CallFailure> {
        let response = self.call(endpoint, "").await?;
        parse(&wire::text(&response.body)).map_err(|error| self.reject(&response, error))
    }

    /// Calls with a valid token. `query` follows the token in the URL.
    async fn call(&self, endpoint: Endpoint, query: &str) -> Result<Response, CallFailure> {
        let mut result = self.call_with_current_token(endpoint, query).await;
        self.record_token_result(&mut result);
        result
    }

    /// If WeChat refuses the token, repeats the call once with another.
    async fn call_with_current_token(
        &self,
        endpoint: Endpoint,
        query: &str,
    ) -> Result<Response, CallFailure> {
        let token = self.token().await.map_err(|failure| match failure.endpoint.kind() {
            CallKind::Token => failure,
            // Another call met the rejection of this token.
            _ => CallFailure { endpoint, ..failure },
        })?;
        let result = self.call_with(&token, endpoint, query).await;
        let Err(refused) = &result else { return result };
        if !refused.error.rejects_token() {
            return result;
        }
        match self.tokens.replace(&token, refused, &self.client, &*self.observer).await {
            Ok(Some(other)) => {
                self.permit().await;
                self.call_with(&other, endpoint, query).await
            }
            // The failed fetch may be more serious than the refused token, so it is the one that is returned.
            Err(fetch) if fetch.endpoint.kind() == CallKind::Token && fetch.class != ErrorClass::Busy => {
                Err(fetch)
            }
            Ok(None) | Err(_) => result,
        }
    }

    /// Returns a token, and fetches it if necessary. The caller's permit was for the time before the fetch. After a wait for
    /// the token this takes another permit, because otherwise all waiting calls would start at once.
    async fn token(&self) -> Result<AccessToken, CallFailure> {
        let current = self.tokens.current(&self.client, &*self.observer);
        let Some(rate_limiter) = &self.rate_limiter else { return current.await };
        let started_at = self.client.now();
        let token = current.await?;
        if self.client.now().since(&started_at) > rate_limiter.spacing() {
            rate_limiter.permit().await;
        }
        Ok(token)
    }

    /// Records whether WeChat accepted the token. When all calls have been refused for some time because of their tokens, the
    /// failure gets a more serious class.
    fn record_token_result(&self, result: &mut Result<Response, CallFailure>) {
        match result {
            // No token was used.
            Err(failure) if failure.endpoint.kind() == CallKind::Token => {}
            Err(failure) if failure.error.rejects_token() => {
                failure.class = self.tokens.rejected(self.client.now());
            }
            // Without an errcode the failure has nothing to do with the token.
            Err(failure) if failure.error.errcode().is_none() => {}
            _ => self.tokens.accepted(),
        }
    }

    async fn call_with(
        &self,
        token: &AccessToken,
        endpoint: Endpoint,
        query: &str,
    ) -> Result<Response, CallFailure> {
        let sent_at = self.client.now();
        let body = self.send(token, endpoint, query, sent_at).await;
        let received_at = self.client.now();
        let checked = body.and_then(|body| match wire::check_errcode(&wire::text(&body)) {
            Ok(()) => Ok(body),
            Err(error) => Err(CallError::from_wire(error, &[token.expose()]).of_token_from(token.origin())),
        });
        self.observer.called(endpoint, received_at.since(&sent_at), checked.as_ref().err());
        match checked {
            Ok(body) => Ok(Response { endpoint, body, sent_at, received_at }),
            Err(error) => Err(CallFailure::new(endpoint, error, sent_at)),
        }
    }

    async fn send(
        &self,
        token: &AccessToken,
        endpoint: Endpoint,
        query: &str,
        sent_at: Moment,
    ) -> Result<Bytes, CallError> {
        let mut url = self.client.url(endpoint);
        url.set_query(Some(&[token.query_parameter(), query].concat()));
        match endpoint {
            Endpoint::Quota => {
                let fields = BTreeMap::from([("cgi_path", QUOTED_PATH.into())]);
                self.client.exchange(endpoint, self.client.post(url, &fields)).await
            }
            _ => self.client.get(url, sent_at, &*self.observer).await,
        }
    }
}

/// The call whose quota is read.
const QUOTED_PATH: &str = "/customservice/kfsession/getsessionlist";
