//! The numbers of a copy that takes the store's place.
//!
//! What the store has counted since the copy was made is lost with it, but not forgotten by those who were told: so
//! every number goes on far behind all that can have been used.

use rusqlite::Transaction;

use super::{events, writer};
use crate::store::error::StoreError;

/// Sequences that each account skips. Those that come later begin behind as many for each restore.
pub(super) const SEQUENCES_SKIPPED: i64 = 1_000_000;

/// Epochs that are skipped: each start of a daemon has used one.
const EPOCHS_SKIPPED: i64 = 1_000_000;

/// Ids of events are skipped up to the beginning of a block of so many, and at least so many: a store has fewer events
/// in all its life. Within a block ids have no gaps, so that events can be counted without reading them.
const BLOCK: i64 = 1_000_000_000;

/// Raises every number that is never to be used again.
pub(super) fn renumber(tx: &Transaction<'_>) -> Result<(), StoreError> {
    tx.execute("UPDATE accounts SET sequence = sequence + ?1", [SEQUENCES_SKIPPED])?;
    writer::raise_lease(tx, EPOCHS_SKIPPED)?;
    let skipped_to = next_block(events::last_id(tx)?.0) + BLOCK;
    if tx.execute("UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'events'", [skipped_to])? == 0 {
        tx.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?1)", [skipped_to])?;
    }
    Ok(())
}

/// Where the block after that of this id begins.
pub(super) fn next_block(id: i64) -> i64 {
    (id / BLOCK + 1) * BLOCK
}
