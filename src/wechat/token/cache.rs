//! Caches one token, fetched by one caller for all: of an official account or of a component.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    access_token::AccessToken, min_fetch_interval::MinFetchInterval, observed_client::ObservedClient,
};
use crate::{
    domain::{clock::Moment, endpoint::Endpoint},
    wechat::{
        error::{CallError, CallFailure},
        wire::tokens::IssuedToken,
    },
};

/// A token is renewed when its remaining lifetime is this short. Less than five minutes, because only then does
/// stable_token return a new one.
pub(super) const RENEWAL_MARGIN: Duration = Duration::from_secs(240);

/// Fetches the tokens for a [`TokenCache`].
pub(super) trait TokenFetcher: Sync {
    /// Where it fetches them.
    type Source: Send + Sync;

    /// The endpoint to name in a failure for which no call was made.
    fn endpoint(&self, source: &Self::Source) -> Endpoint;

    /// Fetches a token. Must record the fetch at the minimum interval before it calls a server.
    fn fetch(
        &self,
        source: &Self::Source,
        min_fetch_interval: &mut MinFetchInterval,
        client: ObservedClient<'_>,
    ) -> impl Future<Output = Result<FetchedToken, CallFailure>> + Send;
}

/// A token as a [`TokenFetcher`] returns it.
pub(super) struct FetchedToken {
    pub(super) token: AccessToken,
    pub(super) lifetime: Duration,
    /// Whether WeChat states the lifetime. Otherwise the lifetime only says when to fetch again, and the old token stays in use
    /// while fetching fails.
    pub(super) is_lifetime_stated: bool,
}

impl From<IssuedToken> for FetchedToken {
    fn from(IssuedToken { token, lifetime }: IssuedToken) -> Self {
        Self { token: AccessToken::new(token, None), lifetime, is_lifetime_stated: true }
    }
}

/// The age and the remaining lifetime of the current token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenStatus {
    /// The time since it was fetched or read.
    pub age: Duration,
    /// The remaining lifetime; `None` if its source does not state one.
    pub expires_in: Option<Duration>,
}

/// How long a token that is needed cannot be fetched, because the minimum interval has not passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchWait {
    /// Until the next fetch is allowed.
    pub until_allowed: Duration,
    /// The same, or zero if it is known why there is no token: then a poll reports that instead of waiting.
    pub without_cause: Duration,
}

impl FetchWait {
    /// The wait for two fetches.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            until_allowed: self.until_allowed.max(other.until_allowed),
            without_cause: self.without_cause.max(other.without_cause),
        }
    }
}

/// The current token, where the next one comes from, and the lock of whoever fetches it.
pub(super) struct TokenCache<S> {
    state: Mutex<CacheState<S>>,
    /// Locked during a fetch.
    fetching: tokio::sync::Mutex<MinFetchInterval>,
}

struct CacheState<S> {
    /// Replaced as a whole, so that a fetch notices at its end that its source is no longer the present one.
    source: Arc<S>,
    current: CurrentToken,
    /// The failure of the last fetch from this source and its time, for callers that waited for that fetch or may not fetch
    /// yet.
    last_failure: Option<(CallFailure, Moment)>,
}

enum CurrentToken {
    /// None was fetched since the start.
    None,
    Cached(CachedToken),
    /// WeChat rejected it in this call. Callers that may not fetch another one yet get this failure.
    Rejected(CallFailure),
}

/// Times are on the monotonic clock.
#[derive(Clone)]
struct CachedToken {
    token: AccessToken,
    fetched_at: Duration,
    renew_at: Duration,
    expires_at: Duration,
    is_lifetime_stated: bool,
}

impl<S> TokenCache<S> {
    pub(super) fn new(source: Arc<S>, min_fetch_interval: MinFetchInterval) -> Self {
        let state = CacheState { source, current: CurrentToken::None, last_failure: None };
        Self { state: Mutex::new(state), fetching: tokio::sync::Mutex::new(min_fetch_interval) }
    }

    pub(super) fn source(&self) -> Arc<S> {
        Arc::clone(&self.lock().source)
    }

    /// Fetches from another source from now on. The present token is due for renewal, and stays in use until then and while
    /// fetching fails. What failed with the earlier source is forgotten.
    pub(super) fn set_source(&self, source: Arc<S>) {
        let mut state = self.lock();
        state.source = source;
        state.last_failure = None;
        match &mut state.current {
            CurrentToken::Cached(cached) => cached.renew_at = Duration::ZERO,
            rejected @ CurrentToken::Rejected(_) => *rejected = CurrentToken::None,
            CurrentToken::None => {}
        }
    }

    /// Forgets why the last fetch failed, because the cause may be gone.
    pub(super) fn forget_failure(&self) {
        self.lock().last_failure = None;
    }

    /// Returns the token to use now: fetches one if there is none, and renews one that expires soon.
    pub(super) async fn current(
        &self,
        fetcher: &impl TokenFetcher<Source = S>,
        client: ObservedClient<'_>,
    ) -> Result<AccessToken, CallFailure> {
        let now = client.now();
        let usable = |cached: &CachedToken| cached.is_usable(client.now());
        match self.cached() {
            Some(cached) if now.monotonic < cached.renew_at => Ok(cached.token),
            // The old token stays in use while another caller renews it, or if renewing fails: a file may just be
            // rewritten, a server may be slow or down.
            Some(cached) if usable(&cached) => {
                let Ok(mut fetching) = self.fetching.try_lock() else { return Ok(cached.token) };
                let renewed = self.fetch(&mut fetching, now, fetcher, client).await;
                Ok(renewed.unwrap_or(cached.token))
            }
            _ => {
                let mut fetching = self.fetching.lock().await;
                match self.cached() {
                    Some(cached) if usable(&cached) => Ok(cached.token),
                    _ => self.fetch(&mut fetching, now, fetcher, client).await,
                }
            }
        }
    }

    /// Drops `used`, which WeChat rejected in this call, if it is still the current token. Returns when it was to be
    /// renewed. A token that was fetched again after that request stays: the rejection is older.
    pub(super) fn discard(&self, used: &AccessToken, rejection: &CallFailure) -> Option<Duration> {
        let current = &mut self.lock().current;
        match current {
            CurrentToken::Cached(cached)
                if cached.token == *used && cached.fetched_at <= rejection.sent_at.monotonic =>
            {
                let renew_at = cached.renew_at;
                *current = CurrentToken::Rejected(rejection.clone());
                Some(renew_at)
            }
            _ => None,
        }
    }

    /// Returns the token that replaces the discarded `used`, and fetches one if there is none. `None` if it is the same
    /// token again.
    pub(super) async fn other_than(
        &self,
        used: &AccessToken,
        fetcher: &impl TokenFetcher<Source = S>,
        client: ObservedClient<'_>,
    ) -> Result<Option<AccessToken>, CallFailure> {
        let asked_at = client.now();
        let mut fetching = self.fetching.lock().await;
        let token = match self.cached() {
            Some(cached) => cached.token,
            None => self.fetch(&mut fetching, asked_at, fetcher, client).await?,
        };
        Ok((token != *used).then_some(token))
    }

    /// How long the fetch of a token has to wait; `None` if there is a usable token. Not at all while a caller fetches one,
    /// because others get its result.
    pub(super) fn fetch_wait(&self, now: Moment) -> Option<FetchWait> {
        let state = self.lock();
        if matches!(&state.current, CurrentToken::Cached(cached) if cached.is_usable(now)) {
            return None;
        }
        let Ok(min_fetch_interval) = self.fetching.try_lock() else { return Some(FetchWait::default()) };
        let until_allowed = min_fetch_interval.left(now);
        let has_cause = state.last_failure.is_some() || matches!(state.current, CurrentToken::Rejected(_));
        let without_cause = if has_cause { Duration::ZERO } else { until_allowed };
        Some(FetchWait { until_allowed, without_cause })
    }

    /// The status of the current token, if there is one.
    pub(super) fn status(&self, now: Moment) -> Option<TokenStatus> {
        let cached = self.cached().filter(|cached| now.monotonic < cached.expires_at)?;
        let expires_in = cached.expires_at.saturating_sub(now.monotonic);
        Some(TokenStatus {
            age: now.monotonic.saturating_sub(cached.fetched_at),
            expires_in: cached.is_lifetime_stated.then_some(expires_in),
        })
    }

    /// Fetches a token for a caller that has waited since `asked_at`. If a fetch failed in the meantime, returns that
    /// failure instead: otherwise all callers that waited for a hanging fetch would start another, one by one. If no fetch is
    /// allowed yet, returns why there is no token.
    async fn fetch(
        &self,
        min_fetch_interval: &mut MinFetchInterval,
        asked_at: Moment,
        fetcher: &impl TokenFetcher<Source = S>,
        client: ObservedClient<'_>,
    ) -> Result<AccessToken, CallFailure> {
        let now = client.now();
        let may_fetch = min_fetch_interval.left(now).is_zero();
        let source = self.lock().source_to_fetch_from(fetcher, may_fetch, (asked_at, now))?;
        // Boxed, because fetches are rare and would enlarge the future of every poll.
        let fetched = Box::pin(fetcher.fetch(&source, min_fetch_interval, client)).await;
        let ended_at = client.now();
        let mut state = self.lock();
        let source_is_present = Arc::ptr_eq(&state.source, &source);
        match fetched {
            Ok(FetchedToken { token, lifetime, is_lifetime_stated }) => {
                // A quarter of a short lifetime is enough, so that such a token is not renewed all the time.
                let margin = RENEWAL_MARGIN.min(lifetime / 4);
                let expires_at = now.monotonic + lifetime;
                state.last_failure = None;
                state.current = CurrentToken::Cached(CachedToken {
                    token: token.clone(),
                    fetched_at: ended_at.monotonic,
                    renew_at: if source_is_present { expires_at - margin } else { Duration::ZERO },
                    expires_at,
                    is_lifetime_stated,
                });
                Ok(token)
            }
            Err(failure) => {
                min_fetch_interval.record_failure(now, ended_at);
                if source_is_present {
                    state.last_failure = Some((failure.clone(), ended_at));
                }
                Err(failure)
            }
        }
    }

    fn cached(&self) -> Option<CachedToken> {
        match &self.lock().current {
            CurrentToken::Cached(cached) => Some(cached.clone()),
            CurrentToken::None | CurrentToken::Rejected(_) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, CacheState<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> CacheState<S> {
    /// The source for a caller that has waited since `asked_at`, or why it does not fetch.
    fn source_to_fetch_from(
        &self,
        fetcher: &impl TokenFetcher<Source = S>,
        may_fetch: bool,
        (asked_at, now): (Moment, Moment),
    ) -> Result<Arc<S>, CallFailure> {
        match (&self.last_failure, &self.current) {
            (Some((failure, at)), _) if !may_fetch || at.monotonic > asked_at.monotonic => {
                Err(failure.clone())
            }
            (None, CurrentToken::Rejected(rejection)) if !may_fetch => Err(rejection.clone()),
            (None, _) if !may_fetch => {
                Err(CallFailure::new(fetcher.endpoint(&self.source), CallError::TokenNotYet, now))
            }
            _ => Ok(Arc::clone(&self.source)),
        }
    }
}

impl CachedToken {
    /// Whether it may still be valid.
    fn is_usable(&self, now: Moment) -> bool {
        now.monotonic < self.expires_at || !self.is_lifetime_stated
    }
}
