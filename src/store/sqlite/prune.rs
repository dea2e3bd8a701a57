//! Removes what is older than its retention, or what exceeds the size limit, one batch at a time.

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::{Sqlite, cursors, dead_letters};
use crate::store::{
    convert,
    error::StoreError,
    types::{LogPosition, PruneLimits, Pruned, SizeLimit, SizePruneOutcome},
};

impl Sqlite {
    pub(in crate::store) async fn prune(&self, limits: PruneLimits) -> Result<Pruned, StoreError> {
        let mut total = Pruned::default();
        loop {
            let (batch, more) = self.write(move |tx| prune_batch(tx, limits)).await?;
            total += batch;
            if !more {
                return Ok(total);
            }
        }
    }

    pub(in crate::store) async fn prune_to_size(
        &self,
        limit: SizeLimit,
    ) -> Result<SizePruneOutcome, StoreError> {
        self.write(move |tx| prune_to_size(tx, limit)).await
    }
}

/// Returns what one transaction removed, and whether there may be more to remove.
fn prune_batch(tx: &Transaction<'_>, limits: PruneLimits) -> Result<(Pruned, bool), StoreError> {
    let batch = convert::limit(limits.batch.max(1));
    let sinks = cursors::delete_removed(tx, convert::ms(limits.sinks_before))?;
    let dead_letters = dead_letters::expire(tx, convert::ms(limits.dead_letters_before), batch)?;
    let (events, more_events) = prune_events(tx, convert::ms(limits.events_before), batch)?;
    let (snapshots, more_snapshots) = prune_snapshots(tx, convert::ms(limits.unwatched_before), batch)?;
    let more = more_events || more_snapshots || dead_letters.cast_signed() == batch;
    Ok((Pruned { events, snapshots, sinks, dead_letters }, more))
}

/// Removes a batch of the oldest events that no sink still has to deliver, whatever their age.
fn prune_to_size(tx: &Transaction<'_>, limit: SizeLimit) -> Result<SizePruneOutcome, StoreError> {
    if used_bytes(tx)? <= limit.bytes {
        return Ok(SizePruneOutcome::SmallEnough);
    }
    let Some(oldest) = tx.query_row("SELECT min(id) FROM events", [], |row| row.get::<_, Option<i64>>(0))?
    else {
        return Ok(SizePruneOutcome::NothingLeft);
    };
    let most_lagging = tx
        .query_row(
            "SELECT name, cursor FROM sinks WHERE removed_at IS NULL AND suspended_at IS NULL ORDER BY cursor, name LIMIT 1",
            [],
            |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)),
        )
        .optional()?;
    match most_lagging {
        Some((sink, cursor)) if cursor < oldest => {
            Ok(SizePruneOutcome::Blocked { sink, cursor: LogPosition(cursor) })
        }
        most_lagging => {
            let delivered = most_lagging.map_or(i64::MAX, |(_, cursor)| cursor);
            let last = delivered.min(oldest + convert::limit(limit.batch.max(1)) - 1);
            Ok(SizePruneOutcome::Removed { events: remove_events(tx, last)? })
        }
    }
}

/// The used bytes of the file.
pub(super) fn used_bytes(connection: &Connection) -> Result<u64, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
    )?;
    Ok(statement.query_row([], |row| row.get::<_, i64>(0))?.unsigned_abs())
}

/// Removes the oldest events up to the first one that is still needed, so that the remaining ids have no gaps.
fn prune_events(tx: &Transaction<'_>, before: i64, batch: i64) -> Result<(u64, bool), StoreError> {
    let mut statement = tx.prepare_cached(
        "SELECT id, observed_at FROM events
         WHERE id <= (SELECT coalesce(min(cursor), 9223372036854775807) FROM sinks
                      WHERE removed_at IS NULL AND suspended_at IS NULL)
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
    Ok((remove_events(tx, last)?, count == batch))
}

/// Removes the oldest events. Suspended and removed sinks miss the ones that they have not acknowledged.
fn remove_events(tx: &Transaction<'_>, last: i64) -> Result<u64, StoreError> {
    cursors::record_missed(tx, last)?;
    Ok(tx.prepare_cached("DELETE FROM events WHERE id <= ?1")?.execute([last])? as u64)
}

/// The account's row stays: if it ever comes back, its sequence continues from a new baseline.
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
