//! When access tokens were last fetched, and refresh tokens. Access tokens themselves are not stored.

use std::collections::HashMap;

use jiff::Timestamp;
use secrecy::SecretString;

use super::{Store, StoreError};

impl Store {
    /// Stores when an access token of the official account was last fetched.
    pub async fn record_token_fetch(&self, appid: &str, at: Timestamp) -> Result<(), StoreError> {
        on_backend!(self, store => store.record_token_fetch(appid, at).await)
    }

    /// When an access token was last fetched, by appid.
    pub async fn token_fetches(&self) -> Result<HashMap<String, Timestamp>, StoreError> {
        on_backend!(self, store => store.token_fetches().await)
    }

    /// Stores the refresh token of the official account and replaces the previous one. Idempotent.
    pub async fn store_refresh_token(
        &self,
        appid: &str,
        token: &SecretString,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        on_backend!(self, store => store.store_refresh_token(appid, token, at).await)
    }

    /// The stored refresh tokens, by appid.
    pub async fn refresh_tokens(&self) -> Result<HashMap<String, SecretString>, StoreError> {
        on_backend!(self, store => store.refresh_tokens().await)
    }
}
