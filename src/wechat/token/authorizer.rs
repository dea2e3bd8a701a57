//! The token of an official account that has authorized a component.
//!
//! A refresh token gives the authorizer_access_token, and sometimes a new refresh token. The new refresh token is stored
//! before the access token is used: if it were lost, only WeChat's list could replace it. The list is also read when
//! WeChat calls the refresh token invalid (61023), as it does after the owner has authorized the component again.
//!
//! The minimum fetch interval counts attempts. One attempt may call api_authorizer_token several times: with the other
//! query parameter, with a new component token, and with the refresh token from the list after 61023.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use secrecy::{ExposeSecret, SecretString};

use super::{
    cache::{FetchWait, FetchedToken},
    component::{Component, ComponentCall},
    journal::TokenJournal,
    min_fetch_interval::MinFetchInterval,
    observed_client::ObservedClient,
};
use crate::{
    domain::{clock::Moment, endpoint::Endpoint},
    wechat::{
        error::{CallError, CallFailure},
        wire::tokens::{AuthorizerToken, authorizer_token},
    },
};

/// "The refresh token is invalid."
const REFRESH_TOKEN_INVALID: i64 = 61023;

/// The authorization that an official account has given to a component.
pub struct Authorization {
    /// The component, shared by all official accounts that have authorized it.
    pub component: Arc<Component>,
    /// The refresh token that was stored last, as the store has it.
    pub stored_refresh_token: Option<SecretString>,
    /// The refresh token to use while none has been stored. Without any, WeChat's list is read.
    pub configured_refresh_token: Option<SecretString>,
}

/// Fetches the tokens of one official account through a component.
pub(super) struct AuthorizerTokens {
    appid: Arc<str>,
    component: Arc<Component>,
    journal: Arc<dyn TokenJournal>,
    refresh_token: Mutex<RefreshToken>,
}

#[derive(Clone)]
enum RefreshToken {
    /// None was stored yet.
    Configured(Option<SecretString>),
    /// WeChat has given it, and it must be stored before it is used.
    New(SecretString),
    Stored(SecretString),
}

impl RefreshToken {
    fn token(&self) -> Option<&SecretString> {
        match self {
            Self::Configured(token) => token.as_ref(),
            Self::New(token) | Self::Stored(token) => Some(token),
        }
    }

    fn is(&self, other: Option<&SecretString>) -> bool {
        self.token().map(ExposeSecret::expose_secret) == other.map(ExposeSecret::expose_secret)
    }
}

impl AuthorizerTokens {
    pub(super) fn new(appid: Arc<str>, authorization: Authorization, journal: Arc<dyn TokenJournal>) -> Self {
        let Authorization { component, stored_refresh_token, configured_refresh_token } = authorization;
        let stored = stored_refresh_token.and_then(|stored| component.stored_refresh_token(&appid, stored));
        let refresh_token = match stored {
            Some(stored) => RefreshToken::Stored(stored),
            None => RefreshToken::Configured(configured_refresh_token),
        };
        Self { appid, component, journal, refresh_token: Mutex::new(refresh_token) }
    }

    pub(super) fn component(&self) -> &Arc<Component> {
        &self.component
    }

    /// Sets the configured refresh token. Returns whether that changes the one in use: WeChat may have given another since.
    pub(super) fn set_configured(&self, configured: Option<SecretString>) -> bool {
        let mut known = self.lock();
        let changes = matches!(*known, RefreshToken::Configured(_)) && !known.is(configured.as_ref());
        if changes {
            *known = RefreshToken::Configured(configured);
        }
        changes
    }

    /// Fetches a token. Only calls for this official account count for its minimum interval: after the component had no
    /// token, this account must not have to wait once the component has one.
    pub(super) async fn fetch(
        &self,
        min_fetch_interval: &mut MinFetchInterval,
        client: ObservedClient<'_>,
    ) -> Result<FetchedToken, CallFailure> {
        self.store_if_new(client).await?;
        self.component.token(client).await?;
        let known = self.lock().token().cloned();
        let refresh_token = match known {
            Some(known) => known,
            None => {
                let listed = self.read_from_list(client).await?;
                listed.ok_or_else(|| self.failure(CallError::NoRefreshToken, client))?
            }
        };
        min_fetch_interval.record(client.now()).await;
        let answer = self.refresh(&refresh_token, client).await;
        let Err(failure) = answer else { return answer };
        if failure.error.errcode() != Some(REFRESH_TOKEN_INVALID) {
            return Err(failure);
        }
        match self.read_from_list(client).await? {
            Some(other) if other.expose_secret() != refresh_token.expose_secret() => {
                self.refresh(&other, client).await
            }
            Some(_) | None => Err(failure),
        }
    }

    /// How long the fetch of the component's token has to wait.
    pub(super) fn component_wait(&self, now: Moment) -> FetchWait {
        self.component.fetch_wait(now).unwrap_or_default()
    }

    /// Reads the refresh token from WeChat's list, and stores it.
    async fn read_from_list(&self, client: ObservedClient<'_>) -> Result<Option<SecretString>, CallFailure> {
        let listed = self.component.listed_refresh_token(&self.appid, client).await?;
        if let Some(token) = &listed {
            self.replace(token, client).await?;
        }
        Ok(listed)
    }

    async fn refresh(
        &self,
        refresh_token: &SecretString,
        client: ObservedClient<'_>,
    ) -> Result<FetchedToken, CallFailure> {
        let secret = refresh_token.expose_secret();
        let fields = BTreeMap::from([
            ("component_appid", self.component.appid().into()),
            ("authorizer_appid", (*self.appid).into()),
            ("authorizer_refresh_token", secret.into()),
        ]);
        let call = ComponentCall { endpoint: Endpoint::AuthorizerToken, fields, secret };
        let AuthorizerToken { issued, refresh_token } =
            self.component.call(&call, authorizer_token, client).await?;
        if let Some(new) = refresh_token {
            self.replace(&new, client).await?;
        }
        Ok(issued.into())
    }

    /// Replaces the refresh token in memory and in the store.
    async fn replace(&self, token: &SecretString, client: ObservedClient<'_>) -> Result<(), CallFailure> {
        {
            let mut known = self.lock();
            if !known.is(Some(token)) {
                *known = RefreshToken::New(token.clone());
            }
        }
        self.store_if_new(client).await
    }

    async fn store_if_new(&self, client: ObservedClient<'_>) -> Result<(), CallFailure> {
        let known = self.lock().clone();
        let RefreshToken::New(token) = known else { return Ok(()) };
        let stored = match self.component.refresh_token_to_store(&self.appid, &token) {
            Ok(to_store) => self.journal.store_refresh_token(&self.appid, &to_store, client.now()).await,
            Err(error) => Err(error.to_string()),
        };
        stored.map_err(|problem| self.failure(CallError::RefreshTokenNotStored(problem.into()), client))?;
        *self.lock() = RefreshToken::Stored(token);
        Ok(())
    }

    fn failure(&self, error: CallError, client: ObservedClient<'_>) -> CallFailure {
        CallFailure::new(Endpoint::AuthorizerToken, error, client.now())
    }

    fn lock(&self) -> MutexGuard<'_, RefreshToken> {
        self.refresh_token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
