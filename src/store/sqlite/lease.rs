//! The lease of a shard: which process may write to it.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use crate::store::error::StoreError;

/// A file is one shard.
const SHARD: i64 = 0;

/// Makes this process the owner of the shard and returns its epoch. From now on commits of the previous owner fail.
pub(super) fn acquire(connection: &mut Connection) -> Result<i64, StoreError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let owner = format!("process {}", std::process::id());
    let epoch = tx.query_row(
        "INSERT INTO lease (shard, owner, epoch) VALUES (?1, ?2, 1)
         ON CONFLICT DO UPDATE SET owner = excluded.owner, epoch = epoch + 1 RETURNING epoch",
        (SHARD, owner),
        |row| row.get(0),
    )?;
    tx.commit()?;
    Ok(epoch)
}

/// Fails unless the epoch is still the current one.
pub(super) fn check(tx: &Transaction<'_>, epoch: i64) -> Result<(), StoreError> {
    let mut statement = tx.prepare_cached("SELECT epoch FROM lease WHERE shard = ?1")?;
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
