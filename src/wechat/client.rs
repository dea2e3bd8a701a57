//! Calls to WeChat for one official account, each with a valid access token.
//!
//! This is the one place where a call is repeated with a new token: once, when the one used was refused.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    CallObserver, Endpoint,
    error::{CallError, CallFailure},
    http::{WechatClient, call_refused},
    pace::Pace,
    token::{AccessToken, TokenKeeper},
    wire::{self, SessionList},
};
use crate::domain::{clock::Moment, holds::ErrorClass};

/// When an answer was asked for and had.
#[derive(Clone, Copy, Debug)]
pub struct Exchanged {
    /// When the request was sent.
    pub sent_at: Moment,
    /// When the answer had been received whole.
    pub received_at: Moment,
}

/// Calls WeChat for one official account.
pub struct OfficialAccountClient {
    client: Arc<WechatClient>,
    tokens: TokenKeeper,
    observer: Arc<dyn CallObserver>,
    pace: Option<Pace>,
}

impl OfficialAccountClient {
    /// Puts together what a call needs.
    pub fn new(client: Arc<WechatClient>, tokens: TokenKeeper, observer: Arc<dyn CallObserver>) -> Self {
        Self { client, tokens, observer, pace: None }
    }

    /// The same, at this pace.
    pub fn paced(self, pace: Option<Pace>) -> Self {
        Self { pace, ..self }
    }

    /// The pace of its calls, if it has a limit.
    pub fn pace(&self) -> Option<&Pace> {
        self.pace.as_ref()
    }

    /// The present moment, by the clock that its calls are timed with.
    pub fn now(&self) -> Moment {
        self.client.now()
    }

    /// Waits until its limit lets another call through.
    pub async fn permit(&self) {
        if let Some(pace) = &self.pace {
            pace.permit().await;
        }
    }

    /// The open sessions of one kf account: what `read` makes of them, as they borrow from the answer.
    /// `GET /customservice/kfsession/getsessionlist`. The caller has a [permit](Self::permit); a repeat takes its own.
    pub async fn session_list<R>(
        &self,
        kf_account: &str,
        read: impl Fn(SessionList<'_>, Exchanged) -> R,
    ) -> Result<R, CallFailure> {
        let token = self.token().await?;
        let mut answer = self.ask_session_list(&token, kf_account, &read).await;
        if let Err(refused) = &answer
            && refused.error.rejects_token()
        {
            match self.tokens.replace(&token, &self.client, &*self.observer).await {
                Ok(Some(other)) => {
                    self.permit().await;
                    answer = self.ask_session_list(&other, kf_account, &read).await;
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
        let Some(pace) = &self.pace else { return current.await };
        let asked_at = self.client.now();
        let token = current.await?;
        if self.client.now().since(&asked_at) > pace.spacing() {
            pace.permit().await;
        }
        Ok(token)
    }

    /// Once every call has been refused for its token for a while, the refusal becomes a worse one.
    fn judge_token<R>(&self, answer: &mut Result<R, CallFailure>) {
        let now = self.client.now();
        match answer {
            Err(failure) if failure.error.rejects_token() => failure.class = self.tokens.rejected(now),
            // Failures without an errcode say nothing of the token.
            Err(failure) if failure.error.errcode().is_none() => {}
            _ => self.tokens.accepted(),
        }
    }

    async fn ask_session_list<R>(
        &self,
        token: &AccessToken,
        kf_account: &str,
        read: impl Fn(SessionList<'_>, Exchanged) -> R,
    ) -> Result<R, CallFailure> {
        let endpoint = Endpoint::SessionList;
        let sent_at = self.client.now();
        let body = self.exchange_session_list(token, kf_account, sent_at).await;
        let received_at = self.client.now();
        let answer = body.and_then(|body| {
            let list = wire::text(&body);
            let list = wire::session_list(&list).map_err(|error| call_refused(error, &[token.expose()]))?;
            Ok(read(list, Exchanged { sent_at, received_at }))
        });
        self.observer.called(endpoint, received_at.since(&sent_at), answer.as_ref().err());
        answer.map_err(|error| CallFailure { endpoint, class: error.class(endpoint), sent_at, error })
    }

    async fn exchange_session_list(
        &self,
        token: &AccessToken,
        kf_account: &str,
        sent_at: Moment,
    ) -> Result<Bytes, CallError> {
        let mut url = self.client.url(Endpoint::SessionList);
        url.query_pairs_mut().append_pair("access_token", token.expose());
        // A literal `@` is legal in a query, and calls of this family have refused `%40`.
        let query = format!("{}&kf_account={kf_account}", url.query().unwrap_or_default());
        url.set_query(Some(&query));
        self.client.get(url, sent_at, &*self.observer).await
    }
}
