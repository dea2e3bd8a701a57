//! The access token of one official account: how it is fetched, and what happens when WeChat rejects it.
//!
//! Three rules keep callers from competing for a token:
//! - Only the rejected token itself is dropped: not a newer one that another poll has fetched, and not the same token if
//!   it was fetched again after the rejected request.
//! - Two fetches are at least [`MIN_FETCH_INTERVAL`] apart, also across restarts, because each fetch is recorded before it
//!   starts. After a failed fetch the interval runs from its end, and all callers within it get its failure. Callers that may
//!   not replace a rejected token yet get the rejection.
//! - A valid token stays in use while it is renewed, so that a slow token call delays no poll. It is renewed before it expires, and
//!   after its source was replaced.
//!
//! The `cache` module implements these rules, for tokens of official accounts and of [`Component`]s.
//!
//! `GET /cgi-bin/token` makes the previous token invalid five minutes after it issues a new one; `POST
//! /cgi-bin/stable_token` returns the same token until five minutes before it expires, and then a new one
//! (developers.weixin.qq.com, "Get access token" and "Get stable access token").

mod access_token;
mod appsecret;
mod authorizer;
mod authorizer_list;
mod cache;
mod component;
mod early_expirations;
mod external;
mod journal;
mod min_fetch_interval;
mod observed_client;
mod shared;
mod source;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub(super) use self::access_token::AccessToken;
pub(crate) use self::component::seal_refresh_token;
pub use self::{
    authorizer::Authorization,
    cache::{FetchWait, TokenStatus},
    component::{Component, ComponentCredentials, TicketSource},
    external::{TokenServer, read_token_file},
    journal::TokenJournal,
    min_fetch_interval::MIN_FETCH_INTERVAL,
    shared::{ClaimTerms, SharedTokens},
    source::{ProviderSource, TokenSource},
};
use self::{
    cache::{FetchedToken, TokenCache, TokenFetcher},
    early_expirations::EarlyExpirations,
    min_fetch_interval::MinFetchInterval,
    observed_client::ObservedClient,
    source::Source,
};
use super::{
    error::{CallError, CallFailure},
    http::WechatClient,
    observer::CallObserver,
};
use crate::domain::{clock::Moment, endpoint::Endpoint, error_class::ErrorClass};

/// After every call has been rejected for its token for this long, the whole official account backs off.
const REJECTED_FOR_GOOD: Duration = Duration::from_secs(30);

/// Provides the access token of one official account.
pub struct TokenProvider {
    appid: Arc<str>,
    journal: Arc<dyn TokenJournal>,
    token: TokenCache<Source>,
    early_expirations: EarlyExpirations,
    rejected_since: Mutex<Option<Moment>>,
}

impl TokenProvider {
    /// `last_fetch_ago`: how long before `now` the last fetch was recorded, if ever.
    pub fn new(
        appid: Arc<str>,
        source: impl Into<ProviderSource>,
        journal: Arc<dyn TokenJournal>,
        last_fetch_ago: Option<Duration>,
        now: Moment,
    ) -> Self {
        let min_fetch_interval =
            MinFetchInterval::new(Arc::clone(&appid), Arc::clone(&journal), last_fetch_ago, now);
        let source = Source::new(source.into(), &appid, &journal);
        Self {
            appid,
            journal,
            token: TokenCache::new(Arc::new(source), min_fetch_interval),
            early_expirations: EarlyExpirations::default(),
            rejected_since: Mutex::new(None),
        }
    }

    /// Fetches tokens from another source from now on. The present token becomes due for renewal; it stays in use until then and
    /// while fetching fails. Failures of the earlier source are forgotten, and the minimum interval between fetches still applies.
    ///
    /// If only the component's credentials or the configured refresh token differ, and WeChat has given another refresh token
    /// since, then the present token stays as it is.
    pub fn set_source(&self, source: impl Into<ProviderSource>) {
        let next = match (source.into(), &*self.token.source()) {
            (ProviderSource::Component(authorization), Source::Component(tokens))
                if Arc::ptr_eq(&authorization.component, tokens.component()) =>
            {
                if !tokens.set_configured(authorization.configured_refresh_token) {
                    // It may have failed because of the component's earlier credentials.
                    return self.token.forget_failure();
                }
                Source::Component(Arc::clone(tokens))
            }
            (source, _) => Source::new(source, &self.appid, &self.journal),
        };
        self.token.set_source(Arc::new(next));
        self.early_expirations.forget_rejected();
        self.accepted();
    }

    /// Returns the token to use now: fetches one if there is none, and renews one that expires soon.
    pub(super) async fn current(
        &self,
        client: &WechatClient,
        observer: &dyn CallObserver,
    ) -> Result<AccessToken, CallFailure> {
        self.token.current(self, ObservedClient { client, observer }).await
    }

    /// The status of the current token, if there is one.
    pub(super) fn status(&self, now: Moment) -> Option<TokenStatus> {
        self.token.status(now)
    }

    /// How long a token fetch that a call needs has to wait; zero if none is needed.
    pub(super) fn fetch_wait(&self, now: Moment) -> FetchWait {
        let Some(own) = self.token.fetch_wait(now) else { return FetchWait::default() };
        match &*self.token.source() {
            Source::Component(tokens) => own.max(tokens.component_wait(now)),
            Source::Own(_) => own,
        }
    }

    /// Drops `used`, which was rejected in this call, if it is still the current token and was not fetched again since.
    /// Returns the token to try instead; `None` if there is no other one.
    pub(super) async fn replace(
        &self,
        used: &AccessToken,
        rejection: &CallFailure,
        client: &WechatClient,
        observer: &dyn CallObserver,
    ) -> Result<Option<AccessToken>, CallFailure> {
        let client = ObservedClient { client, observer };
        if let Some(renew_at) = self.token.discard(used, rejection) {
            observer.token_dropped();
            if client.now().monotonic < renew_at {
                self.early_expirations.note_rejected(used.clone());
            }
        }
        let other = self.token.other_than(used, self, client).await?;
        // Another poll may have fetched it before this poll noted the rejection.
        self.note_successor(other.as_ref().unwrap_or(used), &self.token.source(), client);
        Ok(other)
    }

    fn note_successor(&self, token: &AccessToken, source: &Source, client: ObservedClient<'_>) {
        self.early_expirations.note_successor(token, &self.appid, source.replacement_cause(), client);
    }

    /// Notes that a call was rejected for its token, in spite of the retry, and returns the class of that failure. After
    /// every call has been rejected for a while, more calls do not help.
    pub(super) fn rejected(&self, now: Moment) -> ErrorClass {
        let since = *self.rejected_since.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(now);
        if now.since(&since) < REJECTED_FOR_GOOD { ErrorClass::Busy } else { ErrorClass::TokenRejected }
    }

    /// Notes that a call was not rejected for its token.
    pub(super) fn accepted(&self) {
        *self.rejected_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl TokenFetcher for TokenProvider {
    type Source = Source;

    fn endpoint(&self, source: &Source) -> Endpoint {
        source.endpoint()
    }

    async fn fetch(
        &self,
        source: &Source,
        min_fetch_interval: &mut MinFetchInterval,
        client: ObservedClient<'_>,
    ) -> Result<FetchedToken, CallFailure> {
        let now = client.now();
        let fetched = source.fetch(&self.appid, min_fetch_interval, client).await;
        match &fetched {
            Ok(FetchedToken { token, lifetime, is_lifetime_stated }) => {
                self.note_successor(token, source, client);
                let expires_at = now.wall.as_second().saturating_add_unsigned(lifetime.as_secs());
                client.observer.token_refreshed(is_lifetime_stated.then_some(expires_at));
            }
            // A component that may not fetch yet, or an earlier failure of the component, is not a failure of this fetch.
            Err(failure)
                if failure.error == CallError::TokenNotYet || failure.sent_at.monotonic < now.monotonic => {}
            Err(_) => client.observer.token_refresh_failed(),
        }
        fetched
    }
}
