//! The lease of a shard: which process may write to it.

use std::{sync::Arc, time::Duration};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::watch;

use super::readers::ReaderPool;
use crate::{domain::lease::Lease, store::error::StoreError};

/// A file is one shard.
const SHARD: i64 = 0;

/// How often a store that commits nothing looks for a new owner.
const LEASE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The lease of this process.
#[derive(Debug)]
pub(super) struct HeldLease {
    epoch: i64,
    /// What everything asks that acts for the accounts. The lock on the file guarantees it, so that it does not end by itself.
    pub(super) lease: Arc<Lease>,
    /// Why the lease ended; `None` while it is held.
    end: watch::Sender<Option<StoreError>>,
}

impl HeldLease {
    /// Makes this process the owner of the shard. From now on commits of the previous owner fail.
    pub(super) fn acquire(connection: &mut Connection) -> Result<Self, StoreError> {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let owner = format!("process {}", std::process::id());
        let epoch = tx.query_row(
            "INSERT INTO lease (shard, owner, epoch) VALUES (?1, ?2, 1)
             ON CONFLICT DO UPDATE SET owner = excluded.owner, epoch = epoch + 1 RETURNING epoch",
            (SHARD, owner),
            |row| row.get(0),
        )?;
        tx.commit()?;
        Ok(Self { epoch, lease: Arc::new(Lease::unlimited()), end: watch::Sender::new(None) })
    }

    /// Fails unless this process still owns the shard. If it does not, the lease ends, and every later check fails.
    pub(super) fn check(&self, connection: &Connection) -> Result<(), StoreError> {
        let end = self.end.borrow().clone();
        let checked = end.map_or_else(|| check_epoch(connection, self.epoch), Err);
        if let Err(error @ StoreError::LeaseLost) = &checked {
            self.end(error.clone());
        }
        checked
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

    /// Waits until the lease has ended, and returns why. Looks for a new owner regularly, because without commits nothing else
    /// does.
    pub(super) async fn ended(self: &Arc<Self>, readers: &Arc<ReaderPool>) -> StoreError {
        let mut end = self.end.subscribe();
        let ended = async { end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone()) };
        let look = async {
            loop {
                let held = Arc::clone(self);
                // If it finds a new owner, that ends the lease. Other failures of a read are no news about the owner.
                readers.read(move |connection| held.check(connection)).await.ok();
                tokio::time::sleep(LEASE_CHECK_INTERVAL).await;
            }
        };
        tokio::select! {
            end = ended => end.unwrap_or(StoreError::Closed),
            never = look => never,
        }
    }
}

fn check_epoch(connection: &Connection, epoch: i64) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached("SELECT epoch FROM lease WHERE shard = ?1")?;
    let current: Option<i64> = statement.query_row([SHARD], |row| row.get(0)).optional()?;
    if current == Some(epoch) { Ok(()) } else { Err(StoreError::LeaseLost) }
}

/// Raises the epoch of a backup above every epoch that the store can have reached since, and counts the restore.
pub(super) fn raise(tx: &Transaction<'_>, by: i64) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO lease (shard, owner, epoch, restores) VALUES (?1, 'restore', ?2, 1)
         ON CONFLICT DO UPDATE SET epoch = epoch + ?2, restores = restores + 1",
        (SHARD, by),
    )?;
    Ok(())
}
