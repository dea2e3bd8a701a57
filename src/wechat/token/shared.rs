//! The token of a component that several replicas share: one of them fetches it, and all use it.
//!
//! A new token of a component replaces the one before, so replicas that each fetched their own would invalidate those of the others.
//! Every token has a generation. A replica that needs a newer one than all have claims the fetch of the next generation where they
//! share it ([`SharedTokens`]); the others look there until it has arrived. The minimum interval between fetches is one for all.
//!
//! What is shared is sealed with the component's secret, and so are the refresh tokens of its official accounts. A replica with another
//! secret, because that was changed just now, cannot open it, and takes it for absent.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use secrecy::SecretString;

use super::{
    access_token::AccessToken,
    cache::{FetchedToken, RENEWAL_MARGIN},
    min_fetch_interval::{MIN_FETCH_INTERVAL, MinFetchInterval},
    observed_client::ObservedClient,
};
use crate::{
    domain::{
        endpoint::Endpoint,
        shared_token::{SealedToken, SharedToken},
    },
    secrets::{
        RotatableSecret,
        sealed::{SealError, SealingKey},
    },
    wechat::error::{CallError, CallFailure},
};

/// How often to look for a token that another replica is fetching.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Where replicas share the tokens of components. Errors explain in one line what failed.
pub trait SharedTokens: Send + Sync + 'static {
    /// What they share about the token of a component.
    fn read<'a>(&'a self, component_appid: &'a str) -> BoxFuture<'a, Result<SharedToken, String>>;

    /// Claims the fetch of the token after `generation`. Returns whether that succeeded: there is no newer token, and no other claim
    /// prevents it.
    fn claim<'a>(
        &'a self,
        component_appid: &'a str,
        generation: i64,
        terms: ClaimTerms,
    ) -> BoxFuture<'a, Result<bool, String>>;

    /// Publishes the token after `generation` and ends the claim. Without a token, only ends the claim.
    fn publish<'a>(
        &'a self,
        component_appid: &'a str,
        generation: i64,
        token: Option<SealedToken>,
    ) -> BoxFuture<'a, Result<(), String>>;
}

/// How a fetch is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimTerms {
    /// The least time since the last claim.
    pub min_interval: Duration,
    /// After this time the claim ends, if nothing is published.
    pub time: Duration,
}

/// The token of one component, as a replica shares it.
pub(super) struct SharedComponentToken {
    appid: Arc<str>,
    tokens: Arc<dyn SharedTokens>,
    state: Mutex<SharedState>,
}

#[derive(Default)]
struct SharedState {
    /// The token in use, and its generation.
    held: Option<(AccessToken, i64)>,
    /// WeChat has rejected all tokens up to this generation.
    rejected: i64,
}

impl SharedComponentToken {
    pub(super) fn new(appid: Arc<str>, tokens: Arc<dyn SharedTokens>) -> Self {
        Self { appid, tokens, state: Mutex::default() }
    }

    /// Notes that WeChat rejected a token.
    pub(super) fn note_rejected(&self, token: &AccessToken) {
        let mut state = self.lock();
        if let Some((held, generation)) = &state.held
            && held == token
        {
            state.rejected = *generation;
        }
    }

    /// Returns the shared token if it will do. Otherwise fetches one for all with `fetch`, or waits until another replica has done so.
    pub(super) async fn fetch(
        &self,
        secret: &RotatableSecret<SecretString>,
        min_fetch_interval: &mut MinFetchInterval,
        client: ObservedClient<'_>,
        fetch: impl AsyncFnOnce(&mut MinFetchInterval) -> Result<FetchedToken, CallFailure>,
    ) -> Result<FetchedToken, CallFailure> {
        let failure = |error| CallFailure::new(Endpoint::ComponentToken, error, client.now());
        let not_shared = |problem: String| failure(CallError::TokenNotShared(problem.into()));
        let appid = &*self.appid;
        let generation = loop {
            let shared = self.tokens.read(appid).await.map_err(not_shared)?;
            if let Some(token) = self.usable(&shared, &secret.value()) {
                return Ok(token);
            }
            let wait =
                shared.claimed_ago.map_or(Duration::ZERO, |ago| MIN_FETCH_INTERVAL.saturating_sub(ago));
            if shared.is_claimed {
                tokio::time::sleep(LOOK_INTERVAL).await;
            } else if !wait.is_zero() {
                min_fetch_interval.postpone(client.now(), wait);
                return Err(failure(CallError::TokenNotYet));
            } else {
                let claimed = self.tokens.claim(appid, shared.generation, claim_terms(client)).await;
                if claimed.map_err(not_shared)? {
                    break shared.generation;
                }
            }
        };
        let fetched = fetch(min_fetch_interval).await;
        let new = fetched.as_ref().ok().and_then(|fetched| {
            self.lock().held = Some((fetched.token.clone(), generation + 1));
            let sealed = seal(&secret.value(), &fetched.token.expose().into(), &self.place(generation + 1));
            Some(SealedToken { sealed: sealed.ok()?, lifetime: fetched.lifetime })
        });
        if let Err(problem) = self.tokens.publish(appid, generation, new).await {
            // This replica can use the token all the same. The others fetch another one when the claim has ended.
            tracing::warn!(component_appid = appid, "The component's token could not be shared: {problem}");
        }
        fetched
    }

    /// The shared token, unless it was rejected, is to be renewed, or cannot be opened.
    fn usable(&self, shared: &SharedToken, secret: &SecretString) -> Option<FetchedToken> {
        let SharedToken { generation, newest: Some((SealedToken { sealed, lifetime }, age)), .. } = shared
        else {
            return None;
        };
        let left = lifetime.checked_sub(*age)?;
        if left <= RENEWAL_MARGIN.min(*lifetime / 4) {
            return None;
        }
        let token = AccessToken::new(open(secret, sealed, &self.place(*generation))?, None);
        let mut state = self.lock();
        if *generation <= state.rejected {
            return None;
        }
        state.held = Some((token.clone(), *generation));
        Some(FetchedToken { token, lifetime: left, is_lifetime_stated: true })
    }

    fn place(&self, generation: i64) -> String {
        format!("component {} generation {generation}", self.appid)
    }

    fn lock(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seals a token with the component's secret.
pub(super) fn seal(secret: &SecretString, token: &SecretString, place: &str) -> Result<String, SealError> {
    SealingKey::derive(secret)?.seal(token, place)
}

/// Opens a token with the component's secret.
pub(super) fn open(secret: &SecretString, sealed: &str, place: &str) -> Option<SecretString> {
    SealingKey::derive(secret).ok()?.open(sealed, place)
}

/// A fetch may call a ticket server, and calls WeChat.
fn claim_terms(client: ObservedClient<'_>) -> ClaimTerms {
    let time = client.client.options().timeout * 2 + MIN_FETCH_INTERVAL;
    ClaimTerms { min_interval: MIN_FETCH_INTERVAL, time }
}
