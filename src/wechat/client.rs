//! Calls to WeChat for one official account, each with a valid access token.
//!
//! This is the one place where a call is repeated with a new token: once, when the one used was refused.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    CallObserver, Endpoint,
    error::{CallError, CallFailure},
    http::WechatClient,
    rate_limit::RateLimiter,
    token::{AccessToken, TokenProvider, TokenStatus},
    wire::{self, SessionList, WireError, collectors},
};
use crate::domain::{
    agents::{KfList, OnlineAccount, Quota, WaitingQueue},
    clock::Moment,
    error_class::ErrorClass,
    tracker::Fingerprint,
};

/// When an answer was asked for and had.
#[derive(Clone, Copy, Debug)]
pub struct Exchanged {
    /// When the request was sent.
    pub sent_at: Moment,
    /// When the answer had been received whole.
    pub received_at: Moment,
}

/// A well-formed answer of getsessionlist, compared with one before.
#[derive(Debug, PartialEq, Eq)]
pub enum Answered<'a> {
    /// The same text as the one that is known.
    AsKnown,
    /// Another text, what it says, and by what it is known again.
    Anew(SessionList<'a>, Fingerprint),
}

/// Calls WeChat for one official account. Whoever calls has a [permit](OfficialAccountClient::permit); a repeat takes its own.
pub struct OfficialAccountClient {
    client: Arc<WechatClient>,
    tokens: TokenProvider,
    observer: Arc<dyn CallObserver>,
    rate_limiter: Option<RateLimiter>,
}

impl OfficialAccountClient {
    /// Puts together what a call needs.
    pub fn new(client: Arc<WechatClient>, tokens: TokenProvider, observer: Arc<dyn CallObserver>) -> Self {
        Self { client, tokens, observer, rate_limiter: None }
    }

    /// Adds a rate limit.
    pub fn with_rate_limiter(self, rate_limiter: Option<RateLimiter>) -> Self {
        Self { rate_limiter, ..self }
    }

    /// The rate limiter of its calls, if it has a limit.
    pub fn rate_limiter(&self) -> Option<&RateLimiter> {
        self.rate_limiter.as_ref()
    }

    /// How many seconds this machine's clock was ahead of WeChat's when that was last seen, and whether that is too many.
    pub fn clock_skew(&self) -> Option<(f64, bool)> {
        self.client.clock_skew()
    }

    /// The present moment, by the clock that its calls are timed with.
    pub fn now(&self) -> Moment {
        self.client.now()
    }

    /// Waits until its limit lets another call through.
    pub async fn permit(&self) {
        if let Some(rate_limiter) = &self.rate_limiter {
            rate_limiter.permit().await;
        }
    }

    /// The status of the current access token, if there is one. Fetches none.
    pub fn token_status(&self) -> Option<TokenStatus> {
        self.tokens.status(self.client.now())
    }

    /// The open sessions of one kf account: what `read` makes of them, as they borrow from the answer. One of the `known`
    /// fingerprint is not parsed: at 100,000 accounts that also leaves the memory of their sessions alone.
    /// `GET /customservice/kfsession/getsessionlist`.
    pub async fn session_list<R>(
        &self,
        kf_account: &str,
        known: Option<Fingerprint>,
        read: impl Fn(Answered<'_>, Exchanged) -> R,
    ) -> Result<R, CallFailure> {
        self.call(Question::SessionsOf(kf_account), |text, exchanged| {
            let fingerprint = self.client.fingerprint(text);
            let answered = match known == Some(fingerprint) {
                true => Answered::AsKnown,
                false => Answered::Anew(wire::session_list(text)?, fingerprint),
            };
            Ok(read(answered, exchanged))
        })
        .await
    }

    /// All kf accounts of the official account. `GET /cgi-bin/customservice/getkflist`.
    pub async fn kf_list(&self) -> Result<KfList, CallFailure> {
        self.call(Question::Plain(Endpoint::KfList), |text, _| collectors::kf_list(text)).await
    }

    /// The kf accounts that are online. `GET /cgi-bin/customservice/getonlinekflist`.
    pub async fn online_kf_list(&self) -> Result<Vec<OnlineAccount>, CallFailure> {
        self.call(Question::Plain(Endpoint::OnlineKfList), |text, _| collectors::online_kf_list(text)).await
    }

    /// The customers who wait for an agent. `GET /customservice/kfsession/getwaitcase`.
    pub async fn wait_case(&self) -> Result<WaitingQueue, CallFailure> {
        self.call(Question::Plain(Endpoint::WaitCase), |text, _| collectors::wait_case(text)).await
    }

    /// The quota of getsessionlist. `POST /cgi-bin/openapi/quota/get`.
    pub async fn quota(&self) -> Result<Quota, CallFailure> {
        self.call(Question::SessionListQuota, |text, _| collectors::quota(text)).await
    }

    /// Asks with a valid token, and once more with another one when that one is refused.
    async fn call<R>(
        &self,
        question: Question<'_>,
        read: impl Fn(&str, Exchanged) -> Result<R, WireError>,
    ) -> Result<R, CallFailure> {
        let token = self.token().await?;
        let mut answer = self.ask(&token, question, &read).await;
        if let Err(refused) = &answer
            && refused.error.rejects_token()
        {
            match self.tokens.replace(&token, refused.sent_at, &self.client, &*self.observer).await {
                Ok(Some(other)) => {
                    self.permit().await;
                    answer = self.ask(&other, question, &read).await;
                }
                // Why no token is to be had may be worse than that the old one was refused.
                Err(fetch) if fetch.class != ErrorClass::Busy => return Err(fetch),
                Ok(None) | Err(_) => {}
            }
        }
        self.judge_token(&mut answer);
        answer
    }

    /// A token to call with. The permit was for the moment before: whoever had to wait for the token takes another, or
    /// all who waited for it would call at once.
    async fn token(&self) -> Result<AccessToken, CallFailure> {
        let current = self.tokens.current(&self.client, &*self.observer);
        let Some(rate_limiter) = &self.rate_limiter else { return current.await };
        let asked_at = self.client.now();
        let token = current.await?;
        if self.client.now().since(&asked_at) > rate_limiter.spacing() {
            rate_limiter.permit().await;
        }
        Ok(token)
    }

    /// Once every call has been refused for its token for a while, the refusal becomes a worse one.
    fn judge_token<R>(&self, answer: &mut Result<R, CallFailure>) {
        match answer {
            Err(failure) if failure.error.rejects_token() => {
                failure.class = self.tokens.rejected(self.client.now());
            }
            // Failures without an errcode say nothing of the token.
            Err(failure) if failure.error.errcode().is_none() => {}
            _ => self.tokens.accepted(),
        }
    }

    async fn ask<R>(
        &self,
        token: &AccessToken,
        question: Question<'_>,
        read: impl Fn(&str, Exchanged) -> Result<R, WireError>,
    ) -> Result<R, CallFailure> {
        let endpoint = question.endpoint();
        let sent_at = self.client.now();
        let body = self.exchange(token, question, sent_at).await;
        let received_at = self.client.now();
        let answer = body.and_then(|body| {
            read(&wire::text(&body), Exchanged { sent_at, received_at })
                .map_err(|error| CallError::from_wire(error, &[token.expose()]))
        });
        self.observer.called(endpoint, received_at.since(&sent_at), answer.as_ref().err());
        answer.map_err(|error| CallFailure { endpoint, class: error.class(endpoint), sent_at, error })
    }

    async fn exchange(
        &self,
        token: &AccessToken,
        question: Question<'_>,
        sent_at: Moment,
    ) -> Result<Bytes, CallError> {
        let mut url = self.client.url(question.endpoint());
        match question {
            Question::SessionsOf(kf_account) => {
                // A literal `@` is legal in a query, and calls of this family have refused `%40`.
                url.set_query(Some(&format!("{}&kf_account={kf_account}", token.query_parameter())));
            }
            Question::Plain(_) | Question::SessionListQuota => url.set_query(Some(token.query_parameter())),
        }
        match question {
            Question::SessionsOf(_) | Question::Plain(_) => {
                self.client.get(url, sent_at, &*self.observer).await
            }
            Question::SessionListQuota => {
                let fields = BTreeMap::from([("cgi_path", QUOTED_PATH.into())]);
                self.client.exchange(self.client.post(url, &fields)).await
            }
        }
    }
}

/// The call whose quota is asked for.
const QUOTED_PATH: &str = "/customservice/kfsession/getsessionlist";

/// What is asked, beside the token that it is asked with.
#[derive(Clone, Copy)]
enum Question<'a> {
    /// getsessionlist for this kf account.
    SessionsOf(&'a str),
    /// A call that takes nothing but the token.
    Plain(Endpoint),
    /// openapi/quota/get for getsessionlist.
    SessionListQuota,
}

impl Question<'_> {
    fn endpoint(self) -> Endpoint {
        match self {
            Self::SessionsOf(_) => Endpoint::SessionList,
            Self::Plain(endpoint) => endpoint,
            Self::SessionListQuota => Endpoint::Quota,
        }
    }
}
