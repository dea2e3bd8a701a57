//! Events that sinks refused for good.

use rusqlite::{Connection, Transaction};

use super::convert;
use crate::store::{error::StoreError, types::DeadLetter};

pub(in crate::store) fn bury(tx: &Transaction<'_>, letter: &DeadLetter) -> Result<(), StoreError> {
    let DeadLetter { sink, event, reason, died_at } = letter;
    let mut statement = tx.prepare_cached(
        "INSERT INTO dead_letters (sink, event, account, sequence, type, observed_at, json, reason, died_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT DO UPDATE SET reason = excluded.reason, died_at = excluded.died_at",
    )?;
    statement.execute((
        sink,
        event.id.0,
        event.account.0,
        event.sequence.cast_signed(),
        convert::event_type_code(event.event_type),
        convert::ms(event.observed_at),
        &event.json,
        reason,
        convert::ms(*died_at),
    ))?;
    Ok(())
}

/// How many a sink has.
pub(in crate::store) fn count(connection: &Connection, sink: &str) -> Result<u64, StoreError> {
    let mut statement = connection.prepare_cached("SELECT count(*) FROM dead_letters WHERE sink = ?1")?;
    Ok(statement.query_row([sink], |row| row.get::<_, i64>(0))?.unsigned_abs())
}
