//! Caches one token, fetched by one caller for all: of an official account or of a component.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
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
const RENEWAL_MARGIN: Duration = Duration::from_secs(240);

/// Fetches the tokens for a [`TokenCache`].
pub(super) trait TokenFetcher: Sync {
    /// The endpoint to name in a failure for which no call was made.
    fn endpoint(&self) -> Endpoint;

    /// Whether WeChat states the lifetime. Otherwise the lifetime only says when to fetch again, and the old token stays
    /// in use while fetching fails.
    fn states_lifetime(&self) -> bool;

    /// Fetches a token. Must record the fetch at the minimum interval before it calls a server.
    fn fetch(
        &self,
        min_fetch_interval: &mut MinFetchInterval,
        client: ObservedClient<'_>,
    ) -> impl Future<Output = Result<FetchedToken, CallFailure>> + Send;
}

/// A token as a [`TokenFetcher`] returns it.
pub(super) struct FetchedToken {
    pub(super) token: AccessToken,
    pub(super) lifetime: Duration,
}

impl From<IssuedToken> for FetchedToken {
    fn from(IssuedToken { token, lifetime }: IssuedToken) -> Self {
        Self { token: AccessToken::new(token), lifetime }
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

/// The current token, and the lock of whoever fetches the next one.
pub(super) struct TokenCache {
    current: Mutex<CurrentToken>,
    /// Locked during a fetch.
    fetching: tokio::sync::Mutex<FetchState>,
}

#[derive(Clone)]
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
}

struct FetchState {
    min_fetch_interval: MinFetchInterval,
    /// The failure of the last fetch and its time, for callers that waited for that fetch or may not fetch yet.
    last_failure: Option<(CallFailure, Moment)>,
}

impl TokenCache {
    pub(super) fn new(min_fetch_interval: MinFetchInterval) -> Self {
        let fetching = FetchState { min_fetch_interval, last_failure: None };
        Self { current: Mutex::new(CurrentToken::None), fetching: tokio::sync::Mutex::new(fetching) }
    }

    /// Returns the token to use now: fetches one if there is none, and renews one that expires soon.
    pub(super) async fn current(
        &self,
        fetcher: &impl TokenFetcher,
        client: ObservedClient<'_>,
    ) -> Result<AccessToken, CallFailure> {
        let now = client.now();
        let usable = |cached: &CachedToken| cached.is_usable(fetcher, client.now());
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
        let mut current = self.lock();
        match &*current {
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
        fetcher: &impl TokenFetcher,
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
    pub(super) fn fetch_wait(&self, fetcher: &impl TokenFetcher, now: Moment) -> Option<FetchWait> {
        let current = self.lock();
        if matches!(&*current, CurrentToken::Cached(cached) if cached.is_usable(fetcher, now)) {
            return None;
        }
        let Ok(fetching) = self.fetching.try_lock() else { return Some(FetchWait::default()) };
        let until_allowed = fetching.min_fetch_interval.left(now);
        let has_cause = fetching.last_failure.is_some() || matches!(&*current, CurrentToken::Rejected(_));
        let without_cause = if has_cause { Duration::ZERO } else { until_allowed };
        Some(FetchWait { until_allowed, without_cause })
    }

    /// The status of the current token, if there is one.
    pub(super) fn status(&self, fetcher: &impl TokenFetcher, now: Moment) -> Option<TokenStatus> {
        let cached = self.cached().filter(|cached| now.monotonic < cached.expires_at)?;
        Some(TokenStatus {
            age: now.monotonic.saturating_sub(cached.fetched_at),
            expires_in: fetcher.states_lifetime().then(|| cached.expires_at.saturating_sub(now.monotonic)),
        })
    }

    /// Fetches a token for a caller that has waited since `asked_at`. If a fetch failed in the meantime, returns that
    /// failure instead: otherwise all callers that waited for a hanging fetch would start another, one by one. If no fetch is
    /// allowed yet, returns why there is no token.
    async fn fetch(
        &self,
        FetchState { min_fetch_interval, last_failure }: &mut FetchState,
        asked_at: Moment,
        fetcher: &impl TokenFetcher,
        client: ObservedClient<'_>,
    ) -> Result<AccessToken, CallFailure> {
        let now = client.now();
        let may_fetch = min_fetch_interval.left(now).is_zero();
        match last_failure {
            Some((failure, at)) if !may_fetch || at.monotonic > asked_at.monotonic => {
                return Err(failure.clone());
            }
            None if !may_fetch => {
                return Err(match &*self.lock() {
                    CurrentToken::Rejected(rejection) => rejection.clone(),
                    _ => CallFailure::new(fetcher.endpoint(), CallError::TokenNotYet, now),
                });
            }
            _ => {}
        }
        // Boxed, because fetches are rare and would enlarge the future of every poll.
        match Box::pin(fetcher.fetch(min_fetch_interval, client)).await {
            Ok(FetchedToken { token, lifetime }) => {
                *last_failure = None;
                // A quarter of a short lifetime is enough, so that such a token is not renewed all the time.
                let margin = RENEWAL_MARGIN.min(lifetime / 4);
                *self.lock() = CurrentToken::Cached(CachedToken {
                    token: token.clone(),
                    fetched_at: client.now().monotonic,
                    renew_at: now.monotonic + lifetime - margin,
                    expires_at: now.monotonic + lifetime,
                });
                Ok(token)
            }
            Err(failure) => {
                let failed_at = client.now();
                min_fetch_interval.record_failure(now, failed_at);
                *last_failure = Some((failure.clone(), failed_at));
                Err(failure)
            }
        }
    }

    fn cached(&self) -> Option<CachedToken> {
        match &*self.lock() {
            CurrentToken::Cached(cached) => Some(cached.clone()),
            CurrentToken::None | CurrentToken::Rejected(_) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, CurrentToken> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CachedToken {
    /// Whether it may still be valid.
    fn is_usable(&self, fetcher: &impl TokenFetcher, now: Moment) -> bool {
        now.monotonic < self.expires_at || !fetcher.states_lifetime()
    }
}
