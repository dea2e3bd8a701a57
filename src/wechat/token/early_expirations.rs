//! Tokens that WeChat refused long before their time, because another program had one fetched: counted, and told now and then.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{AccessToken, caller::Caller};
use crate::domain::clock::Moment;

/// The log is told of them no more often than this: two programs that fight over a token do so every few seconds.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(3600);

/// Those of one official account.
#[derive(Default)]
pub(super) struct EarlyExpirations(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    /// The last one, until it is known which one took its place.
    refused: Option<AccessToken>,
    /// When the log was last told of one.
    told_at: Option<Moment>,
}

impl EarlyExpirations {
    /// This one was refused, and is used no more.
    pub(super) fn note_refused(&self, token: AccessToken) {
        self.noted().refused = Some(token);
    }

    /// Counts the one that was refused once there is another, which may be polls later: no fetch may be allowed yet.
    /// Without a `cause` that is worth telling, it is as it should be.
    pub(super) fn note_successor(
        &self,
        token: &AccessToken,
        appid: &str,
        cause: Option<&'static str>,
        caller: Caller<'_>,
    ) {
        let mut noted = self.noted();
        if noted.refused.take().is_none_or(|refused| refused == *token) {
            return;
        }
        let Some(cause) = cause else { return };
        caller.observer.token_replaced();
        let now = caller.client.now();
        if noted.told_at.is_none_or(|told_at| now.since(&told_at) >= TOLD_AGAIN_AFTER) {
            noted.told_at = Some(now);
            tracing::warn!(
                appid = %appid,
                "WeChat refused the access token of {appid} long before it expired and gave out another: {cause} (told \
                 once an hour; kfwatch_token_replaced_total counts)"
            );
        }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
