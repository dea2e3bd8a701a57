//! A token that many use and one fetches: the cache, the single flight and the floor, whatever the token is for.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use secrecy::SecretString;

use super::{AccessToken, FETCH_FLOOR, TokenJournal, TokenStatus, caller::Caller};
use crate::{
    domain::clock::Moment,
    wechat::{
        Endpoint,
        error::{CallError, CallFailure},
    },
};

/// A token is renewed when it has so long to live. Below five minutes, from which on stable_token gives a new one.
const RENEWAL_MARGIN: Duration = Duration::from_secs(240);

/// Where a kept token comes from.
pub(super) trait Source: Send + Sync {
    /// The call that gives tokens, for failures without any call.
    fn endpoint(&self) -> Endpoint;

    /// Whether the lifetime is WeChat's word. Otherwise it only says when to ask again, and a token that was not
    /// refused is used on where asking fails.
    fn tells_expiry(&self) -> bool;

    /// Fetches a token, after it has recorded that at the floor; what calls nobody need not be recorded.
    fn fetch<'a>(
        &'a self,
        min_fetch_interval: &'a mut MinFetchInterval,
        caller: Caller<'a>,
    ) -> BoxFuture<'a, Result<Fetched, CallFailure>>;
}

/// What a source gave.
pub(super) struct Fetched {
    pub(super) token: AccessToken,
    pub(super) lifetime: Duration,
}

impl Fetched {
    pub(super) fn new(token: SecretString, lifetime: Duration) -> Self {
        Self { token: AccessToken::new(token), lifetime }
    }
}

/// Keeps fetches apart.
pub(super) struct MinFetchInterval {
    appid: Arc<str>,
    journal: Arc<dyn TokenJournal>,
    /// The earliest next fetch, on the monotonic clock.
    not_before: Duration,
}

impl MinFetchInterval {
    /// `last_fetch_ago`: how long ago a fetch was last recorded, if ever; `now` is the moment of that reckoning.
    pub(super) fn new(
        appid: Arc<str>,
        journal: Arc<dyn TokenJournal>,
        last_fetch_ago: Option<Duration>,
        now: Moment,
    ) -> Self {
        let left = last_fetch_ago.map_or(Duration::ZERO, |ago| FETCH_FLOOR.saturating_sub(ago));
        Self { appid, journal, not_before: now.monotonic + left }
    }

    /// Records that a fetch is about to be made.
    pub(super) async fn record(&mut self, now: Moment) {
        self.not_before = now.monotonic + FETCH_FLOOR;
        self.journal.record_fetch(&self.appid, now).await;
    }

    /// The fetch that began then has failed: one that took long does not let the next follow at once.
    fn failed(&mut self, begun_at: Moment, now: Moment) {
        if self.not_before > begun_at.monotonic {
            self.not_before = now.monotonic + FETCH_FLOOR;
        }
    }
}

/// The token and whoever fetches it.
pub(super) struct TokenCache {
    cached: Mutex<Option<Cached>>,
    /// Held by whoever fetches.
    fetching: tokio::sync::Mutex<Fetching>,
}

#[derive(Clone)]
struct Cached {
    token: AccessToken,
    /// When its source had given it.
    fetched_at: Duration,
    renew_at: Duration,
    expires_at: Duration,
}

struct Fetching {
    min_fetch_interval: MinFetchInterval,
    /// What the last fetch failed with and when, for those who waited for it or may not fetch yet.
    last_failure: Option<(CallFailure, Moment)>,
}

impl TokenCache {
    pub(super) fn new(min_fetch_interval: MinFetchInterval) -> Self {
        let fetching = Fetching { min_fetch_interval, last_failure: None };
        Self { cached: Mutex::new(None), fetching: tokio::sync::Mutex::new(fetching) }
    }

    /// The token to use now; fetched if there is none, renewed if it is about to expire.
    pub(super) async fn current(
        &self,
        source: &dyn Source,
        caller: Caller<'_>,
    ) -> Result<AccessToken, CallFailure> {
        let now = caller.client.now();
        match self.cached() {
            Some(cached) if now.monotonic < cached.renew_at => Ok(cached.token),
            // A file may be just being rewritten, a server be down or slow; the last token was not refused.
            Some(cached) if now.monotonic < cached.expires_at || !source.tells_expiry() => {
                let Ok(mut fetching) = self.fetching.try_lock() else { return Ok(cached.token) };
                match self.fetch(&mut fetching, now, source, caller).await {
                    Ok(token) => Ok(token),
                    Err(_) => Ok(cached.token),
                }
            }
            _ => {
                let mut fetching = self.fetching.lock().await;
                match self.cached() {
                    Some(cached)
                        if caller.client.now().monotonic < cached.expires_at || !source.tells_expiry() =>
                    {
                        Ok(cached.token)
                    }
                    _ => self.fetch(&mut fetching, now, source, caller).await,
                }
            }
        }
    }

    /// Drops `used`, refused to a request sent then, if it is still the current token, and then says when it was to be
    /// renewed. A token that its source gave again since is kept: the refusal is older than that.
    pub(super) fn discard(&self, used: &AccessToken, sent_at: Moment) -> Option<Duration> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = |cached: &mut Cached| cached.token == *used && cached.fetched_at <= sent_at.monotonic;
        cached.take_if(refused).map(|dropped| dropped.renew_at)
    }

    /// The token that there is after `used` was discarded, fetched if there is none; `None` if it is `used` again.
    pub(super) async fn other_than(
        &self,
        used: &AccessToken,
        source: &dyn Source,
        caller: Caller<'_>,
    ) -> Result<Option<AccessToken>, CallFailure> {
        let asked_at = caller.client.now();
        let mut fetching = self.fetching.lock().await;
        let token = match self.cached() {
            Some(cached) => cached.token,
            None => self.fetch(&mut fetching, asked_at, source, caller).await?,
        };
        Ok((token != *used).then_some(token))
    }

    /// How the present token stands, if there is one.
    pub(super) fn standing(&self, source: &dyn Source, now: Moment) -> Option<TokenStatus> {
        let cached = self.cached().filter(|cached| now.monotonic < cached.expires_at)?;
        Some(TokenStatus {
            age: now.monotonic.saturating_sub(cached.fetched_at),
            expires_in: source.tells_expiry().then(|| cached.expires_at.saturating_sub(now.monotonic)),
        })
    }

    /// Fetches a token for whoever began to wait at `asked_at`, unless a fetch has failed since: were each who waited
    /// for one that hung to make another, they would do so one after the other.
    async fn fetch(
        &self,
        Fetching { min_fetch_interval, last_failure }: &mut Fetching,
        asked_at: Moment,
        source: &dyn Source,
        caller: Caller<'_>,
    ) -> Result<AccessToken, CallFailure> {
        let now = caller.client.now();
        match last_failure {
            Some((failure, at))
                if at.monotonic > asked_at.monotonic || now.monotonic < min_fetch_interval.not_before =>
            {
                return Err(failure.clone());
            }
            None if now.monotonic < min_fetch_interval.not_before => {
                return Err(CallFailure::new(source.endpoint(), CallError::TokenNotYet, now));
            }
            _ => {}
        }
        match source.fetch(min_fetch_interval, caller).await {
            Ok(Fetched { token, lifetime }) => {
                *last_failure = None;
                // A short-lived token is not renewed all the time: a quarter of its life is margin enough.
                let margin = RENEWAL_MARGIN.min(lifetime / 4);
                *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = Some(Cached {
                    token: token.clone(),
                    fetched_at: caller.client.now().monotonic,
                    renew_at: now.monotonic + lifetime - margin,
                    expires_at: now.monotonic + lifetime,
                });
                Ok(token)
            }
            Err(failure) => {
                let failed_at = caller.client.now();
                min_fetch_interval.failed(now, failed_at);
                *last_failure = Some((failure.clone(), failed_at));
                Err(failure)
            }
        }
    }

    fn cached(&self) -> Option<Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
