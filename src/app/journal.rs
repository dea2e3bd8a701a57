//! Token fetches on record, so that a daemon that is restarted again and again does not fetch a token each time; and
//! refresh tokens that WeChat changed, which would be lost otherwise.

use futures_util::future::BoxFuture;
use secrecy::SecretString;

use crate::{domain::clock::Moment, store::Store, wechat::token::TokenJournal};

/// Records in the store.
pub(super) struct StoreJournal(pub(super) Store);

impl TokenJournal for StoreJournal {
    fn record_fetch<'a>(&'a self, appid: &'a str, at: Moment) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Err(error) = self.0.record_token_fetch(appid, at.wall).await {
                tracing::warn!(%appid, "Token fetch not recorded: {}", crate::chain(&error));
            }
        })
    }

    fn store_refresh_token<'a>(
        &'a self,
        appid: &'a str,
        token: &'a SecretString,
        at: Moment,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let stored = self.0.store_refresh_token(appid, token, at.wall).await;
            stored.map_err(|error| crate::chain(&error))
        })
    }
}

/// Records nothing, where there is no store.
pub(super) struct NoJournal;

impl TokenJournal for NoJournal {
    fn record_fetch<'a>(&'a self, _appid: &'a str, _at: Moment) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    fn store_refresh_token<'a>(
        &'a self,
        _appid: &'a str,
        _token: &'a SecretString,
        _at: Moment,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(std::future::ready(Err("there is no store".to_owned())))
    }
}
