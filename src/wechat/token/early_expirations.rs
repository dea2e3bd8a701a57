//! Counts and logs tokens that WeChat rejected long before they expired, because another program fetched one.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{access_token::AccessToken, observed_client::ObservedClient};
use crate::domain::clock::Moment;

/// At most one log line in this time: two programs that compete for a token replace it every few seconds.
const LOG_INTERVAL: Duration = Duration::from_secs(3600);

/// The early expirations of one official account's tokens.
#[derive(Default)]
pub(super) struct EarlyExpirations(Mutex<Rejections>);

#[derive(Default)]
struct Rejections {
    /// The last rejected token, until its successor is known.
    rejected: Option<AccessToken>,
    logged_at: Option<Moment>,
}

impl EarlyExpirations {
    pub(super) fn note_rejected(&self, token: AccessToken) {
        self.rejections().rejected = Some(token);
    }

    /// Counts the rejected token once another one is known. That may be several polls later, because the minimum interval
    /// between fetches may not have passed. Without a `cause` the replacement is expected, and is not counted.
    pub(super) fn note_successor(
        &self,
        token: &AccessToken,
        appid: &str,
        cause: Option<&'static str>,
        client: ObservedClient<'_>,
    ) {
        let mut rejections = self.rejections();
        if rejections.rejected.take().is_none_or(|rejected| rejected == *token) {
            return;
        }
        let Some(cause) = cause else { return };
        client.observer.token_replaced();
        let now = client.now();
        if rejections.logged_at.is_none_or(|logged_at| now.since(&logged_at) >= LOG_INTERVAL) {
            rejections.logged_at = Some(now);
            tracing::warn!(
                appid = %appid,
                "WeChat rejected the access token of {appid} long before it expired, and issued another: {cause} (logged \
                 once an hour; kfwatch_token_replaced_total counts every time)"
            );
        }
    }

    /// Forgets the rejected token, because another successor is expected.
    pub(super) fn forget_rejected(&self) {
        self.rejections().rejected = None;
    }

    fn rejections(&self) -> MutexGuard<'_, Rejections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
