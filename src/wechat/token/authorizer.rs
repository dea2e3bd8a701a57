//! The token of an official account that has authorized a component.
//!
//! A refresh token gives the authorizer_access_token, and with it perhaps another refresh token, which is stored
//! before anything is done with what came along: lost, it would take a look into WeChat's list to go on. That is done
//! also when WeChat calls the refresh token invalid (61023), as it does after its owner has authorized anew.
//!
//! The floor holds for attempts. One may call api_authorizer_token more than once: with the other spelling of the
//! parameter, with a new component token, and with the refresh token of the list after 61023.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use secrecy::{ExposeSecret, SecretString};

use super::{
    Authorization, Component, TokenJournal,
    cache::{Fetched, MinFetchInterval},
    caller::Caller,
    component::ComponentCall,
};
use crate::wechat::{
    Endpoint,
    error::{CallError, CallFailure},
    wire,
};

/// "The refresh token is invalid."
const REFRESH_TOKEN_INVALID: i64 = 61023;

/// Fetches the token of one official account.
pub(super) struct Authorizer {
    appid: Arc<str>,
    component: Arc<Component>,
    journal: Arc<dyn TokenJournal>,
    refresh_token: Mutex<RefreshToken>,
}

#[derive(Clone)]
struct RefreshToken {
    token: Option<SecretString>,
    /// Whether it is yet to be stored.
    unstored: bool,
}

impl Authorizer {
    pub(super) fn new(appid: Arc<str>, authorization: Authorization, journal: Arc<dyn TokenJournal>) -> Self {
        let Authorization { component, refresh_token: token } = authorization;
        Self { appid, component, journal, refresh_token: Mutex::new(RefreshToken { token, unstored: false }) }
    }

    /// Fetches a token. Only a call for this official account counts at its floor: when the component has no token,
    /// that must not keep this one waiting once it has.
    pub(super) async fn fetch(
        &self,
        min_fetch_interval: &mut MinFetchInterval,
        caller: Caller<'_>,
    ) -> Result<Fetched, CallFailure> {
        self.store_unstored(caller).await?;
        self.component.token(caller).await?;
        let refresh_token = match self.known().token {
            Some(known) => known,
            None => {
                self.listed(caller).await?.ok_or_else(|| self.failure(CallError::NoRefreshToken, caller))?
            }
        };
        min_fetch_interval.record(caller.client.now()).await;
        let answer = self.ask(&refresh_token, caller).await;
        let Err(refused) = answer else { return answer };
        if refused.error.errcode() != Some(REFRESH_TOKEN_INVALID) {
            return Err(refused);
        }
        match self.listed(caller).await? {
            Some(other) if other.expose_secret() != refresh_token.expose_secret() => {
                self.ask(&other, caller).await
            }
            Some(_) | None => Err(refused),
        }
    }

    /// The refresh token in WeChat's list, stored.
    async fn listed(&self, caller: Caller<'_>) -> Result<Option<SecretString>, CallFailure> {
        let listed = self.component.listed_refresh_token(&self.appid, caller).await?;
        if let Some(token) = &listed {
            self.take_over(token, caller).await?;
        }
        Ok(listed)
    }

    async fn ask(&self, refresh_token: &SecretString, caller: Caller<'_>) -> Result<Fetched, CallFailure> {
        let fields = BTreeMap::from([
            ("component_appid", self.component.appid().into()),
            ("authorizer_appid", (*self.appid).into()),
            ("authorizer_refresh_token", refresh_token.expose_secret().into()),
        ]);
        let secret = refresh_token.expose_secret();
        let call = ComponentCall { endpoint: Endpoint::AuthorizerToken, fields, secret };
        let read = |answer: &str| {
            let answer = wire::component::authorizer_token(answer)?;
            let rotated = answer.refresh_token().map(SecretString::from);
            Ok((Fetched::new((*answer.authorizer_access_token).into(), answer.expires_in), rotated))
        };
        let (fetched, rotated) = self.component.call(&call, read, caller).await?;
        if let Some(rotated) = rotated {
            self.take_over(&rotated, caller).await?;
        }
        Ok(fetched)
    }

    /// Goes on with this refresh token, which is kept in memory and stored.
    async fn take_over(&self, token: &SecretString, caller: Caller<'_>) -> Result<(), CallFailure> {
        let known = self.known().token;
        if known.is_none_or(|known| known.expose_secret() != token.expose_secret()) {
            self.set(RefreshToken { token: Some(token.clone()), unstored: true });
        }
        self.store_unstored(caller).await
    }

    async fn store_unstored(&self, caller: Caller<'_>) -> Result<(), CallFailure> {
        let RefreshToken { token: Some(token), unstored: true } = self.known() else { return Ok(()) };
        let stored = self.journal.store_refresh_token(&self.appid, &token, caller.client.now()).await;
        stored.map_err(|problem| self.failure(CallError::RefreshTokenNotStored(problem.into()), caller))?;
        self.set(RefreshToken { token: Some(token), unstored: false });
        Ok(())
    }

    fn failure(&self, error: CallError, caller: Caller<'_>) -> CallFailure {
        CallFailure::new(Endpoint::AuthorizerToken, error, caller.client.now())
    }

    fn known(&self) -> RefreshToken {
        self.refresh_token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, token: RefreshToken) {
        *self.refresh_token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }
}
