//! The cursors of the sinks.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction};

use super::{convert, events};
use crate::store::{
    error::StoreError,
    types::{EventId, Pending, SinkRegistration, Start},
};

pub(in crate::store) fn register(
    tx: &Transaction<'_>,
    registrations: &[SinkRegistration],
    now: Timestamp,
) -> Result<Vec<EventId>, StoreError> {
    tx.execute("UPDATE sinks SET removed_at = ?1 WHERE removed_at IS NULL", [convert::ms(now)])?;
    let last = events::last_id(tx)?;
    let mut cursors = Vec::with_capacity(registrations.len());
    for SinkRegistration { name, start } in registrations {
        let start = match start {
            Start::Now => last,
            Start::Beginning => EventId::BEGINNING,
        };
        let cursor = tx.query_row(
            "INSERT INTO sinks (name, cursor, removed_at) VALUES (?1, ?2, NULL)
             ON CONFLICT DO UPDATE SET removed_at = NULL RETURNING cursor",
            (name, start.0),
            |row| row.get(0),
        )?;
        cursors.push(EventId(cursor));
    }
    Ok(cursors)
}

/// Says whether there is such a sink.
pub(in crate::store) fn advance_cursor(
    tx: &Transaction<'_>,
    sink: &str,
    to: EventId,
) -> Result<bool, StoreError> {
    let mut statement = tx.prepare_cached("UPDATE sinks SET cursor = max(cursor, ?2) WHERE name = ?1")?;
    Ok(statement.execute((sink, to.0))? > 0)
}

/// `None` if there is no such sink.
pub(in crate::store) fn pending(connection: &Connection, sink: &str) -> Result<Option<Pending>, StoreError> {
    let tx = connection.unchecked_transaction()?;
    let mut statement = tx.prepare_cached("SELECT cursor FROM sinks WHERE name = ?1")?;
    let Some(cursor) = statement.query_row([sink], |row| row.get::<_, i64>(0)).optional()? else {
        return Ok(None);
    };
    let mut statement =
        tx.prepare_cached("SELECT id, observed_at FROM events WHERE id > ?1 ORDER BY id LIMIT 1")?;
    let first: Option<(i64, i64)> =
        statement.query_row([cursor], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((first, observed_at)) = first else {
        return Ok(Some(Pending::default()));
    };
    // Ids have no gaps: a transaction that is rolled back gives them back, and only the oldest events are pruned.
    let events = (events::last_id(&tx)?.0 - first + 1).unsigned_abs();
    Ok(Some(Pending { events, oldest: Some(convert::time(observed_at)?) }))
}
