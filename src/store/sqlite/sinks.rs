//! The sinks: their cursors, whether they get more, and what they missed.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction};

use super::{convert, dead_letters, events};
use crate::store::{
    error::StoreError,
    types::{Gap, LogPosition, Pending, RegisteredSink, Rewound, SinkRegistration, Start, StoredSink},
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
            Start::Beginning => LogPosition::BEGINNING,
        };
        let sink = tx.query_row(
            "INSERT INTO sinks (name, cursor, removed_at, destination) VALUES (?1, ?2, NULL, ?3)
             ON CONFLICT DO UPDATE SET
                 removed_at = NULL,
                 destination = excluded.destination,
                 stopped_at = iif(destination IS excluded.destination, stopped_at, NULL),
                 stopped_reason = iif(destination IS excluded.destination, stopped_reason, NULL),
                 suspended_at = iif(destination IS excluded.destination, suspended_at, NULL)
             RETURNING cursor, stopped_reason",
            (name, start.0, destination),
            |row| Ok(RegisteredSink { cursor: LogPosition(row.get(0)?), stopped: row.get(1)? }),
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

/// One that is stopped already stays so for its own reason.
pub(in crate::store) fn suspend(
    tx: &Transaction<'_>,
    sink: &str,
    reason: &str,
    at: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE sinks SET suspended_at = ?2, stopped_at = coalesce(stopped_at, ?2),
                stopped_reason = coalesce(stopped_reason, ?3)
         WHERE name = ?1",
        (sink, convert::ms(at), reason),
    )?;
    Ok(())
}

/// `None` if there is no such sink.
pub(in crate::store) fn resume(
    tx: &Transaction<'_>,
    sink: &str,
) -> Result<Option<RegisteredSink>, StoreError> {
    let resumed = tx.query_row(
        "UPDATE sinks SET stopped_at = NULL, stopped_reason = NULL, suspended_at = NULL WHERE name = ?1 RETURNING cursor",
        [sink],
        |row| Ok(RegisteredSink { cursor: LogPosition(row.get(0)?), stopped: None }),
    );
    Ok(resumed.optional()?)
}

/// Says whether there is such a sink.
pub(in crate::store) fn advance_cursor(
    tx: &Transaction<'_>,
    sink: &str,
    to: LogPosition,
) -> Result<bool, StoreError> {
    let mut statement = tx.prepare_cached("UPDATE sinks SET cursor = max(cursor, ?2) WHERE name = ?1")?;
    Ok(statement.execute((sink, to.0))? > 0)
}

/// `None` if there is no such sink.
pub(in crate::store) fn rewind(
    tx: &Transaction<'_>,
    sink: &str,
    since: Timestamp,
) -> Result<Option<(LogPosition, Rewound)>, StoreError> {
    let cursor = tx.query_row("SELECT cursor FROM sinks WHERE name = ?1", [sink], |row| row.get::<_, i64>(0));
    let Some(cursor) = cursor.optional()? else { return Ok(None) };
    // Commits of polls wait meanwhile: no look at all that came before.
    let after = events::find_before(tx, since)?;
    let first = tx
        .query_row(
            "SELECT id, observed_at FROM events WHERE id > ?1 AND id <= ?2 AND observed_at >= ?3 ORDER BY id LIMIT 1",
            (after.0, cursor, convert::ms(since)),
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )
        .optional()?;
    let Some((first, observed_at)) = first else {
        return Ok(Some((LogPosition(cursor), Rewound { events: 0, from: None })));
    };
    let to = LogPosition(first - 1);
    tx.execute("UPDATE sinks SET cursor = ?2 WHERE name = ?1", (sink, to.0))?;
    let events = events::count_after(tx, to)? - events::count_after(tx, LogPosition(cursor))?;
    Ok(Some((to, Rewound { events, from: Some(convert::time(observed_at)?) })))
}

/// `None` if there is no such sink.
pub(in crate::store) fn pending(connection: &Connection, name: &str) -> Result<Option<Pending>, StoreError> {
    let tx = connection.unchecked_transaction()?;
    let mut statement = tx.prepare_cached(
        "SELECT cursor, expired_dead_letters, stopped_reason IS NOT NULL, suspended_at IS NOT NULL,
                (SELECT coalesce(sum(events), 0) FROM gaps WHERE gaps.sink = sinks.name)
         FROM sinks WHERE name = ?1",
    )?;
    let sink = statement.query_row([name], |row| {
        let pending = Pending {
            expired_dead_letters: row.get::<_, i64>(1)?.unsigned_abs(),
            stopped: row.get(2)?,
            suspended: row.get(3)?,
            lost_events: row.get::<_, i64>(4)?.unsigned_abs(),
            ..Pending::default()
        };
        Ok((LogPosition(row.get(0)?), pending))
    });
    let Some((cursor, pending)) = sink.optional()? else { return Ok(None) };
    let pending = Pending { dead_letters: dead_letters::count(&tx, name)?, ..pending };
    let mut statement =
        tx.prepare_cached("SELECT observed_at FROM events WHERE id > ?1 ORDER BY id LIMIT 1")?;
    let Some(observed_at) = statement.query_row([cursor.0], |row| row.get(0)).optional()? else {
        return Ok(Some(pending));
    };
    let events = events::count_after(&tx, cursor)?;
    Ok(Some(Pending { events, oldest: Some(convert::time(observed_at)?), ..pending }))
}

/// Those that are not configured any more come last.
pub(in crate::store) fn all(connection: &Connection) -> Result<Vec<StoredSink>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT name, removed_at, stopped_reason FROM sinks ORDER BY removed_at IS NOT NULL, name",
    )?;
    let mut rows = statement.query([])?;
    let mut sinks = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        sinks.push(StoredSink {
            removed_at: convert::optional_time(row.get(1)?)?,
            stopped: row.get(2)?,
            pending: pending(connection, &name)?.unwrap_or_default(),
            gap: newest_gap(connection, &name)?,
            name,
        });
    }
    Ok(sinks)
}

fn newest_gap(connection: &Connection, sink: &str) -> Result<Option<Gap>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT events, first_observed_at, last_observed_at FROM gaps WHERE sink = ?1 ORDER BY last_event DESC LIMIT 1",
    )?;
    let gap = statement
        .query_row([sink], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((events, first, last)) = gap else { return Ok(None) };
    let observed_between = [convert::time(first)?, convert::time(last)?];
    Ok(Some(Gap { events: events.unsigned_abs(), observed_between }))
}

/// Notes what the sinks will not have confirmed of the events up to this one, which are about to be removed, and moves their
/// cursors there.
pub(super) fn note_gaps(tx: &Transaction<'_>, last: i64) -> Result<(), StoreError> {
    let mut behind = tx.prepare_cached("SELECT name, cursor FROM sinks WHERE cursor < ?1")?;
    let behind = behind.query_map([last], |row| Ok((row.get(0)?, row.get(1)?)))?;
    for sink in behind.collect::<Result<Vec<(String, i64)>, _>>()? {
        note_gap(tx, &sink, last)?;
    }
    Ok(())
}

fn note_gap(tx: &Transaction<'_>, (sink, cursor): &(String, i64), last: i64) -> Result<(), StoreError> {
    let mut missed = tx.prepare_cached(
        "SELECT min(id), max(id), count(*), min(observed_at), max(observed_at) FROM events WHERE id > ?1 AND id <= ?2",
    )?;
    let missed: (Option<i64>, Option<i64>, i64, Option<i64>, Option<i64>) = missed
        .query_row((cursor, last), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })?;
    let (Some(first_event), Some(last_event), events, Some(first), Some(last_observed)) = missed else {
        return Ok(());
    };
    let mut widen = tx.prepare_cached(
        "UPDATE gaps SET last_event = ?3, events = events + ?4, last_observed_at = max(last_observed_at, ?5)
         WHERE sink = ?1 AND last_event = ?2",
    )?;
    if widen.execute((sink, cursor, last_event, events, last_observed))? == 0 {
        tx.prepare_cached("INSERT INTO gaps VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute((
            sink,
            first_event,
            last_event,
            events,
            first,
            last_observed,
        ))?;
    }
    tx.prepare_cached("UPDATE sinks SET cursor = ?2 WHERE name = ?1")?.execute((sink, last_event))?;
    Ok(())
}

/// Forgets sinks that left the configuration before, with all that is kept of them. Says how many.
pub(super) fn forget_removed(tx: &Transaction<'_>, before: i64) -> Result<u64, StoreError> {
    let forgotten = tx.execute("DELETE FROM sinks WHERE removed_at < ?1", [before])?;
    if forgotten > 0 {
        tx.execute("DELETE FROM gaps WHERE sink NOT IN (SELECT name FROM sinks)", [])?;
        tx.execute("DELETE FROM dead_letters WHERE sink NOT IN (SELECT name FROM sinks)", [])?;
    }
    Ok(forgotten as u64)
}
