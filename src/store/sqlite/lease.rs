//! The lease of a shard: which process may write to it.

use std::{sync::Arc, time::Duration};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::readers::ReaderPool;
use crate::{
    domain::lease::Lease,
    store::{error::StoreError, lease::StoreLease},
};

/// A file is one shard.
const SHARD: i64 = 0;

/// How often a store that commits nothing looks for a new owner.
const LEASE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The lease of this process on the file.
#[derive(Debug)]
pub(super) struct FileLease {
    epoch: i64,
    /// The lock on the file guarantees it, so that it does not end by itself.
    pub(super) held: StoreLease,
}

impl FileLease {
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
        Ok(Self { epoch, held: StoreLease::new(Arc::new(Lease::unlimited())) })
    }

    /// Fails unless this process still owns the shard. If it does not, the lease ends, and every later check fails.
    pub(super) fn check(&self, connection: &Connection) -> Result<(), StoreError> {
        let checked = self.held.check().and_then(|()| check_epoch(connection, self.epoch));
        if let Err(error @ StoreError::LeaseLost) = &checked {
            self.held.end(error.clone());
        }
        checked
    }

    /// Waits until the lease has ended, and returns why. Looks for a new owner regularly, because without commits nothing else
    /// does.
    pub(super) async fn ended(self: &Arc<Self>, readers: &Arc<ReaderPool>) -> StoreError {
        let look = async {
            loop {
                let lease = Arc::clone(self);
                // If it finds a new owner, that ends the lease. Other failures of a read are no news about the owner.
                readers.read(move |connection| lease.check(connection)).await.ok();
                tokio::time::sleep(LEASE_CHECK_INTERVAL).await;
            }
        };
        tokio::select! {
            end = self.held.ended() => end,
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
