//! The lease that an open store holds, whichever backend it has.

use std::sync::Arc;

use tokio::sync::watch;

use super::StoreError;
use crate::domain::lease::Lease;

/// A lease, and why it ended.
#[derive(Debug)]
pub(super) struct StoreLease {
    /// What everything asks that acts for the accounts.
    pub(super) lease: Arc<Lease>,
    /// Why the lease ended; `None` while it is held.
    end: watch::Sender<Option<StoreError>>,
}

impl StoreLease {
    pub(super) fn new(lease: Arc<Lease>) -> Self {
        Self { lease, end: watch::Sender::new(None) }
    }

    /// Fails with the reason if the lease has ended.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.end.borrow().clone().map_or(Ok(()), Err)
    }

    /// Ends the lease for good. Only the first reason counts.
    pub(super) fn end(&self, reason: StoreError) {
        // First, so that whoever is woken finds it revoked.
        self.lease.revoke();
        self.end.send_if_modified(|end| {
            let is_first = end.is_none();
            end.get_or_insert(reason);
            is_first
        });
    }

    /// Waits until the lease has ended, and returns why.
    pub(super) async fn ended(&self) -> StoreError {
        let mut end = self.end.subscribe();
        let ended = end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        ended.unwrap_or(StoreError::Closed)
    }
}
