//! Events that sinks refused for good.

use rusqlite::{Connection, Transaction};

use super::{convert, events};
use crate::store::{
    error::StoreError,
    types::{DeadLetter, LogPosition},
};

/// Says how many the sink has by now.
pub(in crate::store) fn bury(tx: &Transaction<'_>, letter: &DeadLetter) -> Result<u64, StoreError> {
    let DeadLetter { sink, event, reason, died_at, retry } = letter;
    let mut statement = tx.prepare_cached(
        "INSERT INTO dead_letters (sink, event, account, sequence, type, observed_at, json, reason, died_at, retry)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT DO UPDATE SET reason = excluded.reason, died_at = excluded.died_at, retry = excluded.retry",
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
        retry,
    ))?;
    count(tx, sink)
}

/// How many a sink has.
pub(in crate::store) fn count(connection: &Connection, sink: &str) -> Result<u64, StoreError> {
    let mut statement = connection.prepare_cached("SELECT count(*) FROM dead_letters WHERE sink = ?1")?;
    Ok(statement.query_row([sink], |row| row.get::<_, i64>(0))?.unsigned_abs())
}

/// Those of a sink behind this event, in the order of the log; all, or those that are to be delivered once more.
pub(in crate::store) fn read(
    connection: &Connection,
    sink: &str,
    which: Which,
    after: LogPosition,
    limit: usize,
) -> Result<Vec<DeadLetter>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT event, account, sequence, type, observed_at, json, reason, died_at, retry FROM dead_letters
         WHERE sink = ?1 AND event > ?2 AND retry >= ?3 ORDER BY event LIMIT ?4",
    )?;
    let least_retry = i64::from(which == Which::ToRetry);
    let mut rows = statement.query((sink, after.0, least_retry, events::limit_of(limit)))?;
    let mut letters = Vec::new();
    while let Some(row) = rows.next()? {
        letters.push(DeadLetter {
            sink: sink.to_owned(),
            event: events::event(row)?,
            reason: row.get(6)?,
            died_at: convert::time(row.get(7)?)?,
            retry: row.get(8)?,
        });
    }
    Ok(letters)
}

/// Which events behind this one are a sink's.
pub(in crate::store) fn behind(
    connection: &Connection,
    sink: &str,
    after: LogPosition,
) -> Result<Vec<LogPosition>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT event FROM dead_letters WHERE sink = ?1 AND event > ?2")?;
    let events = statement.query_map((sink, after.0), |row| Ok(LogPosition(row.get(0)?)))?;
    Ok(events.collect::<Result<_, _>>()?)
}

/// Which dead letters are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Which {
    /// Every one.
    All,
    /// Those that are to be delivered once more.
    ToRetry,
}

/// Says how many that are.
pub(in crate::store) fn retry(tx: &Transaction<'_>, sink: &str) -> Result<u64, StoreError> {
    Ok(tx.execute("UPDATE dead_letters SET retry = true WHERE sink = ?1", [sink])? as u64)
}

pub(in crate::store) fn delivered(
    tx: &Transaction<'_>,
    sink: &str,
    event: LogPosition,
) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM dead_letters WHERE sink = ?1 AND event = ?2")?.execute((sink, event.0))?;
    Ok(())
}

/// Says how many there were.
pub(in crate::store) fn drop_all(tx: &Transaction<'_>, sink: &str) -> Result<u64, StoreError> {
    Ok(tx.execute("DELETE FROM dead_letters WHERE sink = ?1", [sink])? as u64)
}

/// Removes a batch of those that died before, and counts them at their sinks.
pub(super) fn expire(tx: &Transaction<'_>, before: i64, batch: i64) -> Result<u64, StoreError> {
    let mut statement = tx.prepare_cached(
        "DELETE FROM dead_letters WHERE (sink, event) IN
             (SELECT sink, event FROM dead_letters WHERE died_at < ?1 ORDER BY died_at LIMIT ?2)
         RETURNING sink",
    )?;
    let sinks =
        statement.query_map((before, batch), |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    let mut count = tx
        .prepare_cached("UPDATE sinks SET expired_dead_letters = expired_dead_letters + 1 WHERE name = ?1")?;
    for sink in &sinks {
        count.execute([sink])?;
    }
    Ok(sinks.len() as u64)
}
