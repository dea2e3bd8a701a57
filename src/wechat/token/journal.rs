//! Where token fetches and changed refresh tokens are recorded.

use futures_util::future::BoxFuture;
use secrecy::SecretString;

use crate::domain::clock::Moment;

/// Records token fetches, so that the minimum interval also applies across restarts, and changed refresh tokens.
pub trait TokenJournal: Send + Sync + 'static {
    /// Records that a token fetch for this official account or component is about to start. The fetch is made even if
    /// this fails.
    fn record_fetch<'a>(&'a self, appid: &'a str, at: Moment) -> BoxFuture<'a, ()>;

    /// Stores the refresh token of an official account durably, in place of the previous one. The token is not used
    /// before it is stored. The error explains in one line why it could not be stored.
    fn store_refresh_token<'a>(
        &'a self,
        appid: &'a str,
        token: &'a SecretString,
        at: Moment,
    ) -> BoxFuture<'a, Result<(), String>>;
}
