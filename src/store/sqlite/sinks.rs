//! The cursors of the sinks.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction};

use super::{convert, dead_letters, events};
use crate::store::{
    error::StoreError,
    types::{EventId, Pending, RegisteredSink, SinkRegistration, Start},
};

pub(in crate::store) fn register(
    tx: &Transaction<'_>,
    registrations: &[SinkRegistration],
    now: Timestamp,
) -> Result<Vec<RegisteredSink>, StoreError> {
    tx.execute("UPDATE sinks SET removed_at = ?1 WHERE removed_at IS NULL", [convert::ms(now)])?;
    let last = events::last_id(tx)?;
    let mut registered = Vec::with_capacity(registrations.len());
    for SinkRegistration { name, start, destination } in registrations {
        let start = match start {
            Start::Now => last,
            Start::Beginning => EventId::BEGINNING,
        };
        let sink = tx.query_row(
            "INSERT INTO sinks (name, cursor, removed_at, destination) VALUES (?1, ?2, NULL, ?3)
             ON CONFLICT DO UPDATE SET
                 removed_at = NULL,
                 destination = excluded.destination,
                 stopped_at = iif(destination IS excluded.destination, stopped_at, NULL),
                 stopped_reason = iif(destination IS excluded.destination, stopped_reason, NULL)
             RETURNING cursor, stopped_reason",
            (name, start.0, destination),
            |row| Ok(RegisteredSink { cursor: EventId(row.get(0)?), stopped: row.get(1)? }),
        )?;
        registered.push(sink);
    }
    Ok(registered)
}

pub(in crate::store) fn stop(
    tx: &Transaction<'_>,
    sink: &str,
    reason: &str,
    at: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE sinks SET stopped_at = ?2, stopped_reason = ?3 WHERE name = ?1",
        (sink, convert::ms(at), reason),
    )?;
    Ok(())
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
pub(in crate::store) fn pending(connection: &Connection, name: &str) -> Result<Option<Pending>, StoreError> {
    let tx = connection.unchecked_transaction()?;
    let mut statement =
        tx.prepare_cached("SELECT cursor, stopped_reason IS NOT NULL FROM sinks WHERE name = ?1")?;
    let sink = statement.query_row([name], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?))).optional()?;
    let Some((cursor, stopped)) = sink else { return Ok(None) };
    let dead_letters = dead_letters::count(&tx, name)?;
    let mut statement =
        tx.prepare_cached("SELECT observed_at FROM events WHERE id > ?1 ORDER BY id LIMIT 1")?;
    let Some(observed_at) = statement.query_row([cursor], |row| row.get(0)).optional()? else {
        return Ok(Some(Pending { dead_letters, stopped, ..Pending::default() }));
    };
    let events = events::count_after(&tx, EventId(cursor))?;
    Ok(Some(Pending { events, oldest: Some(convert::time(observed_at)?), dead_letters, stopped }))
}
