//! Records token fetches, so that a daemon that restarts repeatedly does not fetch a token each time, and stores refresh
//! tokens that WeChat changed, which would otherwise be lost.

use std::{
    mem::Discriminant,
    sync::{Mutex, PoisonError},
};

use futures_util::future::BoxFuture;
use secrecy::SecretString;

use crate::{
    domain::{clock::Moment, failure_streak::FailureStreak},
    store::{Store, StoreError},
    wechat::token::TokenJournal,
};

/// Records in the store.
pub(super) struct StoreTokenJournal {
    store: Store,
    /// Logged once for all official accounts.
    not_recorded: Mutex<FailureStreak<Discriminant<StoreError>>>,
}

impl StoreTokenJournal {
    pub(super) fn new(store: Store) -> Self {
        Self { store, not_recorded: Mutex::default() }
    }

    fn log(&self, recorded: Result<(), StoreError>, at: Moment) {
        let mut failure_streak = self.not_recorded.lock().unwrap_or_else(PoisonError::into_inner);
        match recorded {
            Err(error) => {
                if failure_streak.failed(std::mem::discriminant(&error), at) {
                    tracing::warn!("Token fetches are not recorded: {}", crate::chain(&error));
                }
            }
            Ok(()) => {
                if let Some(recovery) = failure_streak.succeeded(at) {
                    tracing::info!(failures = recovery.failures, "Token fetches are recorded again");
                }
            }
        }
    }
}

impl TokenJournal for StoreTokenJournal {
    fn record_fetch<'a>(&'a self, appid: &'a str, at: Moment) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let recorded = self.store.record_token_fetch(appid, at.wall).await;
            self.log(recorded, at);
        })
    }

    fn store_refresh_token<'a>(
        &'a self,
        appid: &'a str,
        token: &'a SecretString,
        at: Moment,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let stored = self.store.store_refresh_token(appid, token, at.wall).await;
            stored.map_err(|error| crate::chain(&error))
        })
    }
}

/// Records nothing, where there is no store.
pub(super) struct NullTokenJournal;

impl TokenJournal for NullTokenJournal {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::at;

    #[tokio::test]
    async fn fetches_not_recorded_on_full_disk_are_logged_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("kfwatch.db")).unwrap();
        store.limit_pages(1).await.unwrap();
        let journal = StoreTokenJournal::new(store.clone());
        // Names long enough to need new pages.
        for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
            journal.record_fetch(&name.repeat(9000), at(n as u64)).await;
        }
        let reason = std::mem::discriminant(
            &store.record_token_fetch(&"d".repeat(9000), at(3).wall).await.unwrap_err(),
        );
        assert!(!journal.not_recorded.lock().unwrap().failed(reason, at(3)), "already logged");
        store.limit_pages(u32::MAX).await.unwrap();
        journal.record_fetch("wx", at(10)).await;
        assert_eq!(
            journal.not_recorded.lock().unwrap().succeeded(at(11)),
            None,
            "the recovery was already logged"
        );
        assert!(journal.not_recorded.lock().unwrap().failed(reason, at(100)), "logged again");
    }
}
