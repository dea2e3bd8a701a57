//! The token records of the store, kept in memory too: an official account may be built at any time, and must know what was
//! recorded until then.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use secrecy::SecretString;

use super::token_journal::{NullTokenJournal, StoreTokenJournal};
use crate::{
    domain::clock::Moment,
    store::{Store, StoreError},
    wechat::token::TokenJournal,
};

/// Token fetches and refresh tokens, as the store has them.
pub(super) struct TokenRecords {
    journal: Box<dyn TokenJournal>,
    known: Mutex<KnownTokens>,
}

#[derive(Default)]
struct KnownTokens {
    /// When a token was last fetched, by appid or component_appid.
    fetches: HashMap<String, Timestamp>,
    /// By appid.
    refresh_tokens: HashMap<String, SecretString>,
}

impl TokenRecords {
    /// Reads the records of a store, and writes later ones to it.
    pub(super) async fn load(store: &Store) -> Result<Self, StoreError> {
        let known = KnownTokens {
            fetches: store.token_fetches().await?,
            refresh_tokens: store.refresh_tokens().await?,
        };
        Ok(Self { journal: Box::new(StoreTokenJournal::new(store.clone())), known: Mutex::new(known) })
    }

    /// Records without a store. Refresh tokens cannot be recorded.
    pub(super) fn without_store() -> Self {
        Self { journal: Box::new(NullTokenJournal), known: Mutex::default() }
    }

    /// How long before `now` the last fetch of a token was recorded, if ever.
    pub(super) fn last_fetch_ago(&self, appid: &str, now: Moment) -> Option<Duration> {
        let last_fetch = *self.known().fetches.get(appid)?;
        // A time in the future means that the clock was set back since: treat it as now.
        Some(Duration::try_from(now.wall.duration_since(last_fetch)).unwrap_or_default())
    }

    /// The refresh token of an official account that was stored last.
    pub(super) fn refresh_token(&self, appid: &str) -> Option<SecretString> {
        self.known().refresh_tokens.get(appid).cloned()
    }

    fn known(&self) -> MutexGuard<'_, KnownTokens> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenJournal for TokenRecords {
    fn record_fetch<'a>(&'a self, appid: &'a str, at: Moment) -> BoxFuture<'a, ()> {
        self.known().fetches.insert(appid.to_owned(), at.wall);
        self.journal.record_fetch(appid, at)
    }

    fn store_refresh_token<'a>(
        &'a self,
        appid: &'a str,
        token: &'a SecretString,
        at: Moment,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            self.journal.store_refresh_token(appid, token, at).await?;
            self.known().refresh_tokens.insert(appid.to_owned(), token.clone());
            Ok(())
        })
    }
}
