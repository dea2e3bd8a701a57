//! The access token of one official account: where it comes from, and what is done when WeChat refuses it.
//!
//! Three rules keep a token from being fought over. Only the token that was actually used is dropped, never a newer
//! one that another poll has fetched meanwhile, nor the same one when it was given again since. Two fetches are never
//! less than [`FETCH_FLOOR`] apart, counted from the end of one that failed, also across restarts (the time of a fetch
//! is recorded before it is made); who waited for one that failed shares its failure. A token that is still valid is used on while
//! somebody else renews it, so that a slow token call delays nobody. [`kept`] holds them, for the tokens of official
//! accounts and for those of the [`component`]s that they have authorized.
//!
//! `GET /cgi-bin/token` voids the former token five minutes after issuing a new one; `POST /cgi-bin/stable_token`
//! gives the same token until five minutes before its end, and a new one from then on (developers.weixin.qq.com,
//! "Get access token" and "Get stable access token").

mod access_token;
mod appsecret;
mod authorizer;
mod cache;
mod caller;
mod component;
mod early_expirations;
mod list;
mod text;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use secrecy::SecretString;

pub use self::{
    access_token::AccessToken,
    component::{Component, ComponentCredentials, TicketSource},
    text::TextServer,
};
use self::{
    authorizer::Authorizer,
    cache::{Fetched, MinFetchInterval, Source, TokenCache},
    caller::Caller,
    early_expirations::EarlyExpirations,
};
use super::{
    CallObserver, Endpoint,
    error::{CallError, CallFailure},
    http::WechatClient,
};
use crate::domain::{clock::Moment, error_class::ErrorClass};

/// The least time between two token fetches of one official account, or of one component.
pub const FETCH_FLOOR: Duration = Duration::from_secs(10);

/// How long a token read from a file is believed: reading is cheap, and the file says nothing of its expiry.
const FILE_LIFETIME: Duration = Duration::from_secs(10);

/// How long a token from a token server is believed: WeChat advises those who ask one to keep it for about a minute.
const SERVER_LIFETIME: Duration = Duration::from_secs(60);

/// When every call has been refused for its token for so long, the official account is held back.
const REJECTED_FOR_GOOD: Duration = Duration::from_secs(30);

/// Where tokens come from, for an official account that needs nobody else for them.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// `POST /cgi-bin/stable_token`, never forced.
    Stable {
        /// The official account's AppSecret.
        secret: SecretString,
    },
    /// `GET /cgi-bin/token`.
    Classic {
        /// The official account's AppSecret.
        secret: SecretString,
    },
    /// A file that another program rewrites.
    File {
        /// Its path.
        path: PathBuf,
        /// Where in the file, if it is JSON.
        json_pointer: Option<String>,
    },
    /// The operator's own central token server.
    Server(TextServer),
}

/// That an official account has authorized a component to act for it.
pub struct Authorization {
    /// The component, shared by all official accounts that have authorized it.
    pub component: Arc<Component>,
    /// The refresh token last stored, else the configured one; without any it is looked up in WeChat's list.
    pub refresh_token: Option<SecretString>,
}

/// Remembers when tokens were fetched, so that the floor holds across restarts, and refresh tokens that WeChat changed.
pub trait TokenJournal: Send + Sync + 'static {
    /// Called before a fetch, with the appid of the official account or of the component; a journal that fails does
    /// not keep the fetch from being made.
    fn record_fetch<'a>(&'a self, appid: &'a str, at: Moment) -> BoxFuture<'a, ()>;

    /// Stores the refresh token of an official account for good, in place of the former one. It is not used before
    /// that; the error says in one line why it is not stored.
    fn store_refresh_token<'a>(
        &'a self,
        appid: &'a str,
        token: &'a SecretString,
        at: Moment,
    ) -> BoxFuture<'a, Result<(), String>>;
}

/// How the present token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenStatus {
    /// How long ago it was fetched or read.
    pub age: Duration,
    /// How long it is still valid; `None` where its source does not say.
    pub expires_in: Option<Duration>,
}

/// Keeps the token of one official account.
pub struct TokenProvider {
    appid: Arc<str>,
    supply: Supply,
    token: TokenCache,
    early_expirations: EarlyExpirations,
    rejected_since: Mutex<Option<Moment>>,
}

enum Supply {
    Own(TokenSource),
    Component(Authorizer),
}

impl TokenProvider {
    /// `last_fetch_ago`: how long ago a fetch was last recorded, if ever; `now` is the moment of that reckoning.
    pub fn new(
        appid: Arc<str>,
        source: TokenSource,
        journal: Arc<dyn TokenJournal>,
        last_fetch_ago: Option<Duration>,
        now: Moment,
    ) -> Self {
        let min_fetch_interval = MinFetchInterval::new(Arc::clone(&appid), journal, last_fetch_ago, now);
        Self::supplied(appid, Supply::Own(source), min_fetch_interval)
    }

    /// The same for an official account that has authorized a component.
    pub fn of_component(
        appid: Arc<str>,
        authorization: Authorization,
        journal: Arc<dyn TokenJournal>,
        last_fetch_ago: Option<Duration>,
        now: Moment,
    ) -> Self {
        let min_fetch_interval =
            MinFetchInterval::new(Arc::clone(&appid), Arc::clone(&journal), last_fetch_ago, now);
        let authorizer = Authorizer::new(Arc::clone(&appid), authorization, journal);
        Self::supplied(appid, Supply::Component(authorizer), min_fetch_interval)
    }

    fn supplied(appid: Arc<str>, supply: Supply, min_fetch_interval: MinFetchInterval) -> Self {
        Self {
            appid,
            supply,
            token: TokenCache::new(min_fetch_interval),
            early_expirations: EarlyExpirations::default(),
            rejected_since: Mutex::new(None),
        }
    }

    /// The token to use now; fetched if there is none, renewed if it is about to expire.
    pub(super) async fn current(
        &self,
        client: &WechatClient,
        observer: &dyn CallObserver,
    ) -> Result<AccessToken, CallFailure> {
        let caller = Caller { client, observer };
        self.token.current(self, caller).await
    }

    /// How the present token stands, if there is one.
    pub(super) fn standing(&self, now: Moment) -> Option<TokenStatus> {
        self.token.standing(self, now)
    }

    /// Drops `used`, refused to a request sent at `sent_at`, if it is still the current token and was not given again
    /// since, and gives the token to try instead: `None` if there is no other one than `used`.
    pub(super) async fn replace(
        &self,
        used: &AccessToken,
        sent_at: Moment,
        client: &WechatClient,
        observer: &dyn CallObserver,
    ) -> Result<Option<AccessToken>, CallFailure> {
        let had_long_to_live =
            self.token.discard(used, sent_at).map(|renew_at| client.now().monotonic < renew_at);
        if had_long_to_live.is_some() {
            observer.token_dropped();
        }
        if had_long_to_live == Some(true) {
            self.early_expirations.note_refused(used.clone());
        }
        let other = self.token.other_than(used, self, Caller { client, observer }).await?;
        // Another poll may have fetched it before this one had noted what was refused.
        self.note_successor(other.as_ref().unwrap_or(used), Caller { client, observer });
        Ok(other)
    }

    fn note_successor(&self, token: &AccessToken, caller: Caller<'_>) {
        self.early_expirations.note_successor(token, &self.appid, self.early_end(), caller);
    }

    /// Notes that a call was refused for its token in spite of everything, and says how to react: once every call
    /// has been refused for half a minute, something is wrong that more calls will not mend.
    pub(super) fn rejected(&self, now: Moment) -> ErrorClass {
        let since = *self.rejected_since.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(now);
        if now.since(&since) < REJECTED_FOR_GOOD { ErrorClass::Busy } else { ErrorClass::TokenRejected }
    }

    /// Notes that a call was not refused for its token.
    pub(super) fn accepted(&self) {
        *self.rejected_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What ends a token early; nothing worth telling where other programs are meant to fetch it.
    fn early_end(&self) -> Option<&'static str> {
        match self.supply {
            Supply::Own(TokenSource::Stable { .. } | TokenSource::Classic { .. }) => Some(
                "some other program fetches tokens for it; let it use stable_token, or share one token with it",
            ),
            Supply::Component(_) => {
                Some("some other program fetches tokens for it, or it was authorized again")
            }
            Supply::Own(TokenSource::File { .. } | TokenSource::Server(_)) => None,
        }
    }

    async fn ask(
        &self,
        min_fetch_interval: &mut MinFetchInterval,
        caller: Caller<'_>,
    ) -> Result<Fetched, CallFailure> {
        let now = caller.client.now();
        match &self.supply {
            Supply::Own(TokenSource::File { path, json_pointer }) => {
                match text::from_file(path, json_pointer.as_deref()) {
                    Ok(token) => Ok(Fetched::new(token, FILE_LIFETIME)),
                    Err(problem) => {
                        Err(CallFailure::new(self.endpoint(), CallError::TokenFile(problem.into()), now))
                    }
                }
            }
            Supply::Own(TokenSource::Server(server)) => {
                min_fetch_interval.record(now).await;
                Ok(Fetched::new(server.ask(caller).await?, SERVER_LIFETIME))
            }
            Supply::Own(TokenSource::Stable { secret } | TokenSource::Classic { secret }) => {
                min_fetch_interval.record(now).await;
                appsecret::fetch(self.endpoint(), &self.appid, secret, caller).await
            }
            Supply::Component(authorizer) => authorizer.fetch(min_fetch_interval, caller).await,
        }
    }
}

impl Source for TokenProvider {
    fn endpoint(&self) -> Endpoint {
        match self.supply {
            Supply::Own(TokenSource::Stable { .. }) => Endpoint::StableToken,
            Supply::Own(TokenSource::Classic { .. } | TokenSource::File { .. }) => Endpoint::Token,
            Supply::Own(TokenSource::Server(_)) => Endpoint::TokenServer,
            Supply::Component(_) => Endpoint::AuthorizerToken,
        }
    }

    fn tells_expiry(&self) -> bool {
        !matches!(self.supply, Supply::Own(TokenSource::File { .. } | TokenSource::Server(_)))
    }

    fn fetch<'a>(
        &'a self,
        min_fetch_interval: &'a mut MinFetchInterval,
        caller: Caller<'a>,
    ) -> BoxFuture<'a, Result<Fetched, CallFailure>> {
        Box::pin(async move {
            let now = caller.client.now();
            let fetched = self.ask(min_fetch_interval, caller).await;
            match &fetched {
                Ok(Fetched { token, lifetime }) => {
                    self.note_successor(token, caller);
                    let expires_at = now.wall.as_second().saturating_add_unsigned(lifetime.as_secs());
                    caller.observer.token_refreshed(self.tells_expiry().then_some(expires_at));
                }
                // That the component may not fetch yet, or what it failed with before, is no failure of this attempt.
                Err(failure)
                    if failure.error == CallError::TokenNotYet
                        || failure.sent_at.monotonic < now.monotonic => {}
                Err(_) => caller.observer.token_refresh_failed(),
            }
            fetched
        })
    }
}
