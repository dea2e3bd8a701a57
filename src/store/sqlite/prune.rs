//! Removing what has outlived its time, a batch at a time.

use rusqlite::Transaction;

use super::convert;
use crate::store::{
    error::StoreError,
    types::{PruneLimits, Pruned},
};

/// What one transaction removed.
pub(in crate::store) struct Batch {
    pub(in crate::store) pruned: Pruned,
    /// Whether there may be more to remove.
    pub(in crate::store) more: bool,
}

pub(in crate::store) fn prune_batch(tx: &Transaction<'_>, limits: PruneLimits) -> Result<Batch, StoreError> {
    let batch = i64::try_from(limits.batch.max(1)).unwrap_or(i64::MAX);
    let sinks = tx.execute("DELETE FROM sinks WHERE removed_at < ?1", [convert::ms(limits.sinks_before)])?;
    let (events, more_events) = prune_events(tx, convert::ms(limits.events_before), batch)?;
    let (snapshots, more_snapshots) = prune_snapshots(tx, convert::ms(limits.unwatched_before), batch)?;
    let pruned = Pruned { events, snapshots, sinks: sinks as u64 };
    Ok(Batch { pruned, more: more_events || more_snapshots })
}

/// Removes from the old end up to the first event that is still wanted, so that the ids that remain have no gaps.
fn prune_events(tx: &Transaction<'_>, before: i64, batch: i64) -> Result<(u64, bool), StoreError> {
    let mut statement = tx.prepare_cached(
        "SELECT id, observed_at FROM events
         WHERE id <= (SELECT coalesce(min(cursor), 9223372036854775807) FROM sinks WHERE removed_at IS NULL)
         ORDER BY id LIMIT ?1",
    )?;
    let mut rows = statement.query([batch])?;
    let (mut last, mut count) = (0, 0);
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(1)? >= before {
            break;
        }
        last = row.get(0)?;
        count += 1;
    }
    drop(rows);
    let deleted = tx.prepare_cached("DELETE FROM events WHERE id <= ?1")?.execute([last])?;
    Ok((deleted as u64, count == batch))
}

/// The account's row stays: its sequence goes on if it ever comes back, from a new baseline.
fn prune_snapshots(tx: &Transaction<'_>, before: i64, batch: i64) -> Result<(u64, bool), StoreError> {
    let mut statement = tx.prepare_cached(
        "UPDATE accounts SET baseline_taken = false, keyless = false, listed_sent_at = NULL, unwatched_at = NULL
         WHERE id IN (SELECT id FROM accounts WHERE NOT configured AND unwatched_at < ?1 LIMIT ?2)
         RETURNING id",
    )?;
    let ids = statement.query_map((before, batch), |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    let mut delete = tx.prepare_cached("DELETE FROM sessions WHERE account = ?1")?;
    for id in &ids {
        delete.execute([id])?;
    }
    Ok((ids.len() as u64, ids.len() as i64 == batch))
}
