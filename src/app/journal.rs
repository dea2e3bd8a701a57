//! Token fetches on record, so that a daemon that is restarted again and again does not fetch a token each time.

use futures_util::future::BoxFuture;

use crate::{domain::clock::Moment, store::Store, wechat::token::TokenJournal};

/// Records token fetches in the store.
pub(super) struct StoreJournal(pub(super) Store);

impl TokenJournal for StoreJournal {
    fn record_fetch<'a>(&'a self, appid: &'a str, at: Moment) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Err(error) = self.0.record_token_fetch(appid, at.wall).await {
                tracing::warn!(%appid, "Token fetch not recorded: {}", crate::chain(&error));
            }
        })
    }
}

/// Records nothing, where there is no store.
pub(super) struct NoJournal;

impl TokenJournal for NoJournal {
    fn record_fetch<'a>(&'a self, _appid: &'a str, _at: Moment) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}
