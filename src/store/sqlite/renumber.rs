//! Raises the numbers of a backup that replaces the store.
//!
//! The store may have used more numbers since the backup was made, and consumers may have seen them. So every number
//! continues far above all that can have been used.

use rusqlite::Transaction;

use super::{events, lease};
use crate::store::{error::StoreError, log};

/// Sequences that each account skips.
pub(super) const SEQUENCES_SKIPPED: i64 = 1_000_000;

/// Epochs that are skipped: each start of a daemon uses one.
const EPOCHS_SKIPPED: i64 = 1_000_000;

/// Raises every number that must never be used again.
pub(super) fn renumber(tx: &Transaction<'_>) -> Result<(), StoreError> {
    tx.execute("UPDATE accounts SET sequence = sequence + ?1", [SEQUENCES_SKIPPED])?;
    lease::raise(tx, EPOCHS_SKIPPED)?;
    let skipped_to = log::next_block(events::last_id(tx)?.0) + log::BLOCK;
    if tx.execute("UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'events'", [skipped_to])? == 0 {
        tx.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?1)", [skipped_to])?;
    }
    Ok(())
}
