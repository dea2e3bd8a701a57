//! The access token of one official account: how it is fetched, and what happens when WeChat rejects it.
//!
//! Three rules keep callers from competing for a token:
//! - Only the rejected token itself is dropped: not a newer one that another poll has fetched, and not the same token if
//!   it was fetched again after the rejected request.
//! - Two fetches are at least [`MIN_FETCH_INTERVAL`] apart, also across restarts, because each fetch is recorded before it
//!   starts. After a failed fetch the interval runs from its end, and all callers within it get its failure. Callers that may
//!   not replace a rejected token yet get the rejection.
//! - A valid token stays in use while it is renewed, so that a slow token call delays no poll.
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

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use secrecy::SecretString;

pub(super) use self::access_token::AccessToken;
pub use self::{
    authorizer::Authorization,
    cache::{FetchWait, TokenStatus},
    component::{Component, ComponentCredentials, TicketSource},
    external::{TokenServer, read_token_file},
    journal::TokenJournal,
    min_fetch_interval::MIN_FETCH_INTERVAL,
};
use self::{
    authorizer::AuthorizerTokens,
    cache::{FetchedToken, TokenCache, TokenFetcher},
    early_expirations::EarlyExpirations,
    min_fetch_interval::MinFetchInterval,
    observed_client::ObservedClient,
};
use super::{
    error::{CallError, CallFailure},
    http::WechatClient,
    observer::CallObserver,
    origin::TokenOrigin,
};
use crate::{
    domain::{clock::Moment, endpoint::Endpoint, error_class::ErrorClass},
    secrets::RotatableSecret,
};

/// How long a token from a file is used before the file is read again. Reading is cheap, and a file states no lifetime.
const FILE_LIFETIME: Duration = Duration::from_secs(10);

/// How long a token from a token server is used before the server is asked again. WeChat recommends about a minute.
const SERVER_LIFETIME: Duration = Duration::from_secs(60);

/// After every call has been rejected for its token for this long, the whole official account backs off.
const REJECTED_FOR_GOOD: Duration = Duration::from_secs(30);

/// The source of an official account's tokens, if it does not use a component.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the fields say what they are")]
pub enum TokenSource {
    /// `POST /cgi-bin/stable_token`, never with `force_refresh`.
    Stable { secret: RotatableSecret<SecretString> },
    /// `GET /cgi-bin/token`.
    Classic { secret: RotatableSecret<SecretString> },
    /// A file that another program rewrites. If it is JSON, the pointer says where the text is.
    File { path: PathBuf, json_pointer: Option<String> },
    /// The operator's central token server.
    Server(TokenServer),
}

/// Provides the access token of one official account.
pub struct TokenProvider {
    appid: Arc<str>,
    source: ProviderSource,
    token: TokenCache,
    early_expirations: EarlyExpirations,
    rejected_since: Mutex<Option<Moment>>,
}

enum ProviderSource {
    Own(TokenSource),
    Component(AuthorizerTokens),
}

impl TokenProvider {
    /// `last_fetch_ago`: how long before `now` the last fetch was recorded, if ever.
    pub fn new(
        appid: Arc<str>,
        source: TokenSource,
        journal: Arc<dyn TokenJournal>,
        last_fetch_ago: Option<Duration>,
        now: Moment,
    ) -> Self {
        let min_fetch_interval = MinFetchInterval::new(Arc::clone(&appid), journal, last_fetch_ago, now);
        Self::from_source(appid, ProviderSource::Own(source), min_fetch_interval)
    }

    /// The same for an official account that has authorized a component.
    pub fn with_component(
        appid: Arc<str>,
        authorization: Authorization,
        journal: Arc<dyn TokenJournal>,
        last_fetch_ago: Option<Duration>,
        now: Moment,
    ) -> Self {
        let min_fetch_interval =
            MinFetchInterval::new(Arc::clone(&appid), Arc::clone(&journal), last_fetch_ago, now);
        let tokens = AuthorizerTokens::new(Arc::clone(&appid), authorization, journal);
        Self::from_source(appid, ProviderSource::Component(tokens), min_fetch_interval)
    }

    fn from_source(appid: Arc<str>, source: ProviderSource, min_fetch_interval: MinFetchInterval) -> Self {
        Self {
            appid,
            source,
            token: TokenCache::new(min_fetch_interval),
            early_expirations: EarlyExpirations::default(),
            rejected_since: Mutex::new(None),
        }
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
        self.token.status(self, now)
    }

    /// How long a token fetch that a call needs has to wait; zero if none is needed.
    pub(super) fn fetch_wait(&self, now: Moment) -> FetchWait {
        let Some(own) = self.token.fetch_wait(self, now) else { return FetchWait::default() };
        match &self.source {
            ProviderSource::Component(tokens) => own.max(tokens.component_wait(now)),
            ProviderSource::Own(_) => own,
        }
    }

    /// Who gives the tokens, if it is not WeChat.
    pub(super) fn origin(&self) -> Option<TokenOrigin> {
        match &self.source {
            ProviderSource::Own(TokenSource::File { path, .. }) => Some(TokenOrigin::File(path.clone())),
            ProviderSource::Own(TokenSource::Server(server)) => Some(TokenOrigin::Server(server.name())),
            ProviderSource::Own(_) | ProviderSource::Component(_) => None,
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
        self.note_successor(other.as_ref().unwrap_or(used), client);
        Ok(other)
    }

    fn note_successor(&self, token: &AccessToken, client: ObservedClient<'_>) {
        self.early_expirations.note_successor(token, &self.appid, self.replacement_cause(), client);
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

    /// Why a token may be replaced before it expires; `None` if other programs are meant to fetch the tokens.
    fn replacement_cause(&self) -> Option<&'static str> {
        match self.source {
            ProviderSource::Own(TokenSource::Stable { .. } | TokenSource::Classic { .. }) => Some(
                "another program fetches tokens for it; let that program use stable_token, or share one token with it",
            ),
            ProviderSource::Component(_) => {
                Some("another program fetches tokens for it, or it was authorized again")
            }
            ProviderSource::Own(TokenSource::File { .. } | TokenSource::Server(_)) => None,
        }
    }

    async fn fetch_from_source(
        &self,
        min_fetch_interval: &mut MinFetchInterval,
        client: ObservedClient<'_>,
    ) -> Result<FetchedToken, CallFailure> {
        let now = client.now();
        let with_lifetime = |token, lifetime| FetchedToken { token: AccessToken::new(token), lifetime };
        match &self.source {
            ProviderSource::Own(TokenSource::File { path, json_pointer }) => {
                match external::read_token_file(path, json_pointer.as_deref()) {
                    Ok(token) => Ok(with_lifetime(token, FILE_LIFETIME)),
                    Err(problem) => {
                        Err(CallFailure::new(self.endpoint(), CallError::TokenFile(problem.into()), now))
                    }
                }
            }
            ProviderSource::Own(TokenSource::Server(server)) => {
                min_fetch_interval.record(now).await;
                Ok(with_lifetime(server.fetch(client).await?, SERVER_LIFETIME))
            }
            ProviderSource::Own(TokenSource::Stable { secret } | TokenSource::Classic { secret }) => {
                min_fetch_interval.record(now).await;
                appsecret::fetch(self.endpoint(), &self.appid, secret, client).await
            }
            ProviderSource::Component(tokens) => tokens.fetch(min_fetch_interval, client).await,
        }
    }
}

impl TokenFetcher for TokenProvider {
    fn endpoint(&self) -> Endpoint {
        match self.source {
            ProviderSource::Own(TokenSource::Stable { .. }) => Endpoint::StableToken,
            ProviderSource::Own(TokenSource::Classic { .. } | TokenSource::File { .. }) => Endpoint::Token,
            ProviderSource::Own(TokenSource::Server(_)) => Endpoint::TokenServer,
            ProviderSource::Component(_) => Endpoint::AuthorizerToken,
        }
    }

    fn states_lifetime(&self) -> bool {
        !matches!(self.source, ProviderSource::Own(TokenSource::File { .. } | TokenSource::Server(_)))
    }

    async fn fetch(
        &self,
        min_fetch_interval: &mut MinFetchInterval,
        client: ObservedClient<'_>,
    ) -> Result<FetchedToken, CallFailure> {
        let now = client.now();
        let fetched = self.fetch_from_source(min_fetch_interval, client).await;
        match &fetched {
            Ok(FetchedToken { token, lifetime }) => {
                self.note_successor(token, client);
                let expires_at = now.wall.as_second().saturating_add_unsigned(lifetime.as_secs());
                client.observer.token_refreshed(self.states_lifetime().then_some(expires_at));
            }
            // A component that may not fetch yet, or an earlier failure of the component, is not a failure of this fetch.
            Err(failure)
                if failure.error == CallError::TokenNotYet || failure.sent_at.monotonic < now.monotonic => {}
            Err(_) => client.observer.token_refresh_failed(),
        }
        fetched
    }
}
