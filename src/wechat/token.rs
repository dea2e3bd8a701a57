//! The access token of one official account: fetched by one caller at a time, kept, and dropped when refused.
//!
//! Three rules keep a token from being fought over. Only the token that was actually used is dropped, never a newer
//! one that another poll has fetched meanwhile. Two fetches are never less than [`FETCH_FLOOR`] apart, also across
//! restarts (the time of a fetch is recorded before it is made). A token that is still valid is used on while
//! somebody else renews it, so that a slow token call delays nobody.
//!
//! `GET /cgi-bin/token` voids the former token five minutes after issuing a new one; `POST /cgi-bin/stable_token`
//! gives the same token until five minutes before its end, and a new one from then on (developers.weixin.qq.com,
//! "Get access token" and "Get stable access token").

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};

use super::{
    CallObserver, Endpoint,
    error::{CallError, CallFailure},
    http::WechatClient,
};
use crate::domain::{clock::Moment, holds::ErrorClass};

/// The least time between two token fetches of one official account.
pub const FETCH_FLOOR: Duration = Duration::from_secs(10);

/// A token is renewed when it has so long to live. Below five minutes, from which on stable_token gives a new one.
const RENEWAL_MARGIN: Duration = Duration::from_secs(240);

/// How long a token read from a file is believed: reading is cheap, and the file says nothing of its expiry.
const FILE_LIFETIME: Duration = Duration::from_secs(10);

/// The largest file that is read for a token.
const MAX_TOKEN_FILE_BYTES: u64 = 64 * 1024;

/// When every call has been refused for its token for so long, the official account is held back.
const REJECTED_FOR_GOOD: Duration = Duration::from_secs(30);

/// Where tokens come from.
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
}

/// Remembers when tokens were fetched, so that the floor holds across restarts.
pub trait TokenJournal: Send + Sync + 'static {
    /// Called before a fetch; a journal that fails does not keep the fetch from being made.
    fn record_fetch<'a>(&'a self, appid: &'a str, at: Moment) -> BoxFuture<'a, ()>;
}

/// A token as it goes into a request.
#[derive(Clone)]
pub struct AccessToken(Arc<SecretString>);

impl AccessToken {
    fn new(token: &str) -> Self {
        Self(Arc::new(SecretString::from(token)))
    }

    pub(super) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for AccessToken {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

/// What a token call or a token file gave.
pub(super) struct Fetched {
    pub(super) token: AccessToken,
    pub(super) lifetime: Duration,
}

impl Fetched {
    pub(super) fn new(token: &str, lifetime: Duration) -> Self {
        Self { token: AccessToken::new(token), lifetime }
    }
}

/// How the present token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenStanding {
    /// How long ago it was fetched or read.
    pub age: Duration,
    /// How long it is still valid; `None` where its source does not say.
    pub expires_in: Option<Duration>,
}

/// Keeps the token of one official account.
pub struct TokenKeeper {
    appid: Arc<str>,
    source: TokenSource,
    journal: Arc<dyn TokenJournal>,
    cached: Mutex<Option<Cached>>,
    /// Held by whoever fetches.
    fetching: tokio::sync::Mutex<Fetching>,
    rejected_since: Mutex<Option<Moment>>,
}

#[derive(Clone)]
struct Cached {
    token: AccessToken,
    fetched_at: Duration,
    renew_at: Duration,
    expires_at: Duration,
}

struct Fetching {
    /// The earliest next fetch, on the monotonic clock.
    not_before: Duration,
    /// What the last fetch failed with, for those who may not fetch yet.
    last_failure: Option<CallFailure>,
}

impl TokenKeeper {
    /// `last_fetch_ago`: how long ago a fetch was last recorded, if ever; `now` is the moment of that reckoning.
    pub fn new(
        appid: Arc<str>,
        source: TokenSource,
        journal: Arc<dyn TokenJournal>,
        last_fetch_ago: Option<Duration>,
        now: Moment,
    ) -> Self {
        let left = last_fetch_ago.map_or(Duration::ZERO, |ago| FETCH_FLOOR.saturating_sub(ago));
        let fetching = Fetching { not_before: now.monotonic + left, last_failure: None };
        Self {
            appid,
            source,
            journal,
            cached: Mutex::new(None),
            fetching: tokio::sync::Mutex::new(fetching),
            rejected_since: Mutex::new(None),
        }
    }

    /// The token to use now; fetched if there is none, renewed if it is about to expire.
    pub(super) async fn current(
        &self,
        client: &WechatClient,
        observer: &dyn CallObserver,
    ) -> Result<AccessToken, CallFailure> {
        let now = client.now();
        match self.cached() {
            Some(cached) if now.monotonic < cached.renew_at => Ok(cached.token),
            Some(cached) if now.monotonic < cached.expires_at => {
                let Ok(mut fetching) = self.fetching.try_lock() else { return Ok(cached.token) };
                match self.fetch(&mut fetching, client, observer).await {
                    Ok(token) => Ok(token),
                    Err(_) => Ok(cached.token),
                }
            }
            _ => {
                let mut fetching = self.fetching.lock().await;
                match self.cached() {
                    Some(cached) if client.now().monotonic < cached.expires_at => Ok(cached.token),
                    known => match (self.fetch(&mut fetching, client, observer).await, known, &self.source) {
                        // The file may be just being rewritten; its last token was not refused.
                        (Err(_), Some(last), TokenSource::File { .. }) => Ok(last.token),
                        (fetched, _, _) => fetched,
                    },
                }
            }
        }
    }

    /// How the present token stands, if there is one.
    pub(super) fn standing(&self, now: Moment) -> Option<TokenStanding> {
        let cached = self.cached().filter(|cached| now.monotonic < cached.expires_at)?;
        let says_expiry = !matches!(self.source, TokenSource::File { .. });
        Some(TokenStanding {
            age: now.monotonic.saturating_sub(cached.fetched_at),
            expires_in: says_expiry.then(|| cached.expires_at.saturating_sub(now.monotonic)),
        })
    }

    /// Drops `used` if it is still the current token, and gives the token to try instead: `None` if there is no
    /// other one than `used`.
    pub(super) async fn replace(
        &self,
        used: &AccessToken,
        client: &WechatClient,
        observer: &dyn CallObserver,
    ) -> Result<Option<AccessToken>, CallFailure> {
        let mut fetching = self.fetching.lock().await;
        let dropped = match self.cached() {
            Some(cached) if cached.token != *used => return Ok(Some(cached.token)),
            cached => cached,
        };
        self.set_cached(None);
        observer.token_dropped();
        let token = self.fetch(&mut fetching, client, observer).await?;
        if token == *used {
            return Ok(None);
        }
        let had_long_to_live = dropped.is_some_and(|cached| client.now().monotonic < cached.renew_at);
        if had_long_to_live && !matches!(self.source, TokenSource::File { .. }) {
            observer.token_replaced();
            tracing::warn!(
                appid = %self.appid,
                "WeChat refused the access token long before it expired and gave out another: some other program \
                 fetches tokens for {}; let it use stable_token, or share one token with it", self.appid
            );
        }
        Ok(Some(token))
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

    async fn fetch(
        &self,
        fetching: &mut Fetching,
        client: &WechatClient,
        observer: &dyn CallObserver,
    ) -> Result<AccessToken, CallFailure> {
        let now = client.now();
        if now.monotonic < fetching.not_before {
            return Err(fetching
                .last_failure
                .clone()
                .unwrap_or_else(|| self.failure(CallError::TokenNotYet, now)));
        }
        let fetched = match &self.source {
            TokenSource::File { path, json_pointer } => read_file(path, json_pointer.as_deref()),
            TokenSource::Stable { secret } | TokenSource::Classic { secret } => {
                fetching.not_before = now.monotonic + FETCH_FLOOR;
                self.journal.record_fetch(&self.appid, now).await;
                client.fetch_token(self.endpoint(), &self.appid, secret, observer).await
            }
        };
        match fetched {
            Ok(Fetched { token, lifetime }) => {
                fetching.last_failure = None;
                self.keep(&token, lifetime, now);
                // A file is read again and again, and does not say when its token expires.
                if !matches!(self.source, TokenSource::File { .. }) {
                    observer
                        .token_refreshed(now.wall.as_second().saturating_add_unsigned(lifetime.as_secs()));
                }
                Ok(token)
            }
            Err(error) => {
                observer.token_refresh_failed();
                let failure = self.failure(error, now);
                fetching.last_failure = Some(failure.clone());
                Err(failure)
            }
        }
    }

    fn keep(&self, token: &AccessToken, lifetime: Duration, now: Moment) {
        // A short-lived token is not renewed all the time: a quarter of its life is margin enough.
        let margin = RENEWAL_MARGIN.min(lifetime / 4);
        self.set_cached(Some(Cached {
            token: token.clone(),
            fetched_at: now.monotonic,
            renew_at: now.monotonic + lifetime - margin,
            expires_at: now.monotonic + lifetime,
        }));
    }

    fn failure(&self, error: CallError, sent_at: Moment) -> CallFailure {
        let endpoint = self.endpoint();
        CallFailure { endpoint, class: error.class(endpoint), sent_at, error }
    }

    fn endpoint(&self) -> Endpoint {
        match self.source {
            TokenSource::Stable { .. } => Endpoint::StableToken,
            TokenSource::Classic { .. } | TokenSource::File { .. } => Endpoint::Token,
        }
    }

    fn cached(&self) -> Option<Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_cached(&self, cached: Option<Cached>) {
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = cached;
    }
}

fn read_file(path: &std::path::Path, json_pointer: Option<&str>) -> Result<Fetched, CallError> {
    let refuse = |what: String| CallError::TokenFile(format!("{}: {what}", path.display()).into());
    // A file of a few hundred bytes: not worth a thread of its own. Anything else could keep us waiting.
    let metadata = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
    if !metadata.is_file() || metadata.len() > MAX_TOKEN_FILE_BYTES {
        return Err(refuse("not a small regular file".to_owned()));
    }
    let content = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let token = match json_pointer {
        None => content.trim().to_owned(),
        Some(pointer) => {
            let value: serde_json::Value =
                serde_json::from_str(&content).map_err(|_| refuse("not JSON".to_owned()))?;
            let found = value.pointer(pointer).and_then(|token| token.as_str());
            found.ok_or_else(|| refuse(format!("no string at {pointer}")))?.to_owned()
        }
    };
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(refuse("does not hold one token".to_owned()));
    }
    Ok(Fetched::new(&token, FILE_LIFETIME))
}
