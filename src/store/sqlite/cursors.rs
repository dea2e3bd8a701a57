//! Sinks: cursors, stops, backlogs and missed events.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Transaction};

use super::{Sqlite, dead_letters, events};
use crate::{
    domain::sink_state::{BY_OPERATOR, SinkState},
    store::{
        convert,
        error::StoreError,
        types::{
            CursorRewind, LogPosition, MissedEvents, RegisteredSink, SinkBacklog, SinkRegistration,
            StartPosition, StoredSink,
        },
    },
};

impl Sqlite {
    pub(in crate::store) async fn sinks(&self) -> Result<Vec<StoredSink>, StoreError> {
        self.readers.read(all).await
    }

    pub(in crate::store) async fn sink(&self, sink: &str) -> Result<StoredSink, StoreError> {
        let sink = sink.to_owned();
        let stored = self.delivery_readers.read(move |connection| one(connection, &sink)).await?;
        stored.ok_or(StoreError::UnknownSink)
    }

    pub(in crate::store) async fn advance_cursor(
        &self,
        sink: &str,
        to: LogPosition,
    ) -> Result<(), StoreError> {
        let sink = sink.to_owned();
        let sql = "UPDATE sinks SET cursor = max(cursor, ?2) WHERE name = ?1";
        let advanced = self.write(move |tx| Ok(tx.prepare_cached(sql)?.execute((sink, to.0))?)).await?;
        if advanced > 0 { Ok(()) } else { Err(StoreError::UnknownSink) }
    }

    pub(in crate::store) async fn rewind_cursor(
        &self,
        sink: &str,
        since: Timestamp,
    ) -> Result<CursorRewind, StoreError> {
        let sink = sink.to_owned();
        let rewind = self.write(move |tx| rewind(tx, &sink, since)).await?;
        rewind.ok_or(StoreError::UnknownSink)
    }

    pub(in crate::store) async fn stop_sink(
        &self,
        sink: &str,
        reason: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let (sink, reason) = (sink.to_owned(), reason.to_owned());
        let sql = "UPDATE sinks SET stopped_at = ?2, stopped_reason = ?3 WHERE name = ?1";
        self.write(move |tx| {
            tx.execute(sql, (sink, convert::ms(at), reason))?;
            Ok(())
        })
        .await
    }

    pub(in crate::store) async fn suspend_sink(
        &self,
        sink: &str,
        reason: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let (sink, reason) = (sink.to_owned(), reason.to_owned());
        let sql = "UPDATE sinks SET suspended_at = ?2, stopped_at = coalesce(stopped_at, ?2),
                          stopped_reason = coalesce(stopped_reason, ?3)
                   WHERE name = ?1";
        self.write(move |tx| {
            tx.execute(sql, (sink, convert::ms(at), reason))?;
            Ok(())
        })
        .await
    }

    pub(in crate::store) async fn resume_sink(&self, sink: &str) -> Result<LogPosition, StoreError> {
        let sink = sink.to_owned();
        let sql = "UPDATE sinks SET stopped_at = NULL, stopped_reason = NULL, suspended_at = NULL
                   WHERE name = ?1 RETURNING cursor";
        let resumed = self
            .write(move |tx| Ok(tx.query_row(sql, [sink], |row| Ok(LogPosition(row.get(0)?))).optional()?));
        resumed.await?.ok_or(StoreError::UnknownSink)
    }
}

/// See [`Store::register_sinks`](crate::store::Store::register_sinks). Without a time, other sinks stay as they are.
pub(super) fn register(
    tx: &Transaction<'_>,
    registrations: &[SinkRegistration],
    remove_others_at: Option<Timestamp>,
) -> Result<Vec<RegisteredSink>, StoreError> {
    if let Some(now) = remove_others_at {
        tx.execute("UPDATE sinks SET removed_at = ?1 WHERE removed_at IS NULL", [convert::ms(now)])?;
    }
    let last = events::last_id(tx)?;
    let mut registered = Vec::with_capacity(registrations.len());
    for SinkRegistration { name, start, destination } in registrations {
        let start = match start {
            StartPosition::Now => last,
            StartPosition::Beginning => LogPosition::BEGINNING,
        };
        let sink = tx.query_row(
            "INSERT INTO sinks (name, cursor, removed_at, destination) VALUES (?1, ?2, NULL, ?3)
             ON CONFLICT DO UPDATE SET
                 removed_at = NULL,
                 destination = excluded.destination,
                 stopped_at = iif(destination IS excluded.destination OR stopped_reason = ?4, stopped_at, NULL),
                 stopped_reason = iif(destination IS excluded.destination OR stopped_reason = ?4, stopped_reason, NULL),
                 suspended_at = iif(destination IS excluded.destination OR stopped_reason = ?4, suspended_at, NULL)
             RETURNING cursor, stopped_reason, suspended_at IS NOT NULL",
            (name, start.0, destination, BY_OPERATOR),
            |row| Ok(RegisteredSink { cursor: LogPosition(row.get(0)?), state: state(row, 1)? }),
        )?;
        registered.push(sink);
    }
    Ok(registered)
}

/// `None` if the sink is unknown.
fn rewind(tx: &Transaction<'_>, sink: &str, since: Timestamp) -> Result<Option<CursorRewind>, StoreError> {
    let cursor = tx.query_row("SELECT cursor FROM sinks WHERE name = ?1", [sink], |row| row.get::<_, i64>(0));
    let Some(cursor) = cursor.optional()? else { return Ok(None) };
    // Commits of polls wait for this, so the log is not scanned from its beginning.
    let after = events::position_before(tx, since)?;
    let first = tx
        .query_row(
            "SELECT id, observed_at FROM events WHERE id > ?1 AND id <= ?2 AND observed_at >= ?3 ORDER BY id LIMIT 1",
            (after.0, cursor, convert::ms(since)),
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )
        .optional()?;
    let Some((first, observed_at)) = first else {
        return Ok(Some(CursorRewind { cursor: LogPosition(cursor), events: 0, from: None }));
    };
    let to = LogPosition(first - 1);
    tx.execute("UPDATE sinks SET cursor = ?2 WHERE name = ?1", (sink, to.0))?;
    let events = events::count_after(tx, to)? - events::count_after(tx, LogPosition(cursor))?;
    Ok(Some(CursorRewind { cursor: to, events, from: Some(convert::time(observed_at)?) }))
}

/// All sinks; removed ones come last.
fn all(connection: &Connection) -> Result<Vec<StoredSink>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT name FROM sinks ORDER BY removed_at IS NOT NULL, name")?;
    let names = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    Ok(names
        .iter()
        .map(|name| one(connection, name))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .collect())
}

/// `None` if the sink is unknown.
fn one(connection: &Connection, name: &str) -> Result<Option<StoredSink>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT cursor, removed_at, expired_dead_letters,
                (SELECT coalesce(sum(events), 0) FROM gaps WHERE gaps.sink = sinks.name),
                stopped_reason, suspended_at IS NOT NULL
         FROM sinks WHERE name = ?1",
    )?;
    let sink = statement.query_row([name], |row| {
        let backlog = SinkBacklog {
            expired_dead_letters: row.get::<_, i64>(2)?.unsigned_abs(),
            lost_events: row.get::<_, i64>(3)?.unsigned_abs(),
            ..SinkBacklog::default()
        };
        Ok((LogPosition(row.get(0)?), row.get(1)?, backlog, state(row, 4)?))
    });
    let Some((cursor, removed_at, backlog, state)) = sink.optional()? else { return Ok(None) };
    let mut first =
        connection.prepare_cached("SELECT observed_at FROM events WHERE id > ?1 ORDER BY id LIMIT 1")?;
    let oldest = first.query_row([cursor.0], |row| row.get(0)).optional()?;
    Ok(Some(StoredSink {
        name: name.to_owned(),
        removed_at: convert::optional_time(removed_at)?,
        state,
        backlog: SinkBacklog {
            events: events::count_after(connection, cursor)?,
            oldest: convert::optional_time(oldest)?,
            dead_letters: dead_letters::count(connection, name)?,
            ..backlog
        },
        missed: newest_missed(connection, name)?,
    }))
}

/// Reads the state from the columns `stopped_reason` and `suspended_at IS NOT NULL`.
fn state(row: &Row<'_>, first_column: usize) -> rusqlite::Result<SinkState> {
    let is_suspended: bool = row.get(first_column + 1)?;
    Ok(match row.get(first_column)? {
        None => SinkState::Delivering,
        Some(reason) if is_suspended => SinkState::Suspended { reason },
        Some(reason) => SinkState::Stopped { reason },
    })
}

fn newest_missed(connection: &Connection, sink: &str) -> Result<Option<MissedEvents>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT events, first_observed_at, last_observed_at FROM gaps WHERE sink = ?1 ORDER BY last_event DESC LIMIT 1",
    )?;
    let missed = statement
        .query_row([sink], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((events, first, last)) = missed else { return Ok(None) };
    let observed_between = [convert::time(first)?, convert::time(last)?];
    Ok(Some(MissedEvents { events: events.unsigned_abs(), observed_between }))
}

/// Records the events up to `last`, which are about to be removed, as missed by the sinks that have not acknowledged them,
/// and moves their cursors there.
pub(super) fn record_missed(tx: &Transaction<'_>, last: i64) -> Result<(), StoreError> {
    let mut lagging = tx.prepare_cached("SELECT name, cursor FROM sinks WHERE cursor < ?1")?;
    let lagging = lagging.query_map([last], |row| Ok((row.get(0)?, row.get(1)?)))?;
    for sink in lagging.collect::<Result<Vec<(String, i64)>, _>>()? {
        record_missed_by(tx, &sink, last)?;
    }
    Ok(())
}

fn record_missed_by(
    tx: &Transaction<'_>,
    (sink, cursor): &(String, i64),
    last: i64,
) -> Result<(), StoreError> {
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
    // Events that follow the newest run directly extend it.
    let mut extend = tx.prepare_cached(
        "UPDATE gaps SET last_event = ?3, events = events + ?4, last_observed_at = max(last_observed_at, ?5)
         WHERE sink = ?1 AND last_event = ?2",
    )?;
    if extend.execute((sink, cursor, last_event, events, last_observed))? == 0 {
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

/// Deletes sinks that were removed from the configuration before, with everything stored about them. Returns how many.
pub(super) fn delete_removed(tx: &Transaction<'_>, before: i64) -> Result<u64, StoreError> {
    let deleted = tx.execute("DELETE FROM sinks WHERE removed_at < ?1", [before])?;
    if deleted > 0 {
        tx.execute("DELETE FROM gaps WHERE sink NOT IN (SELECT name FROM sinks)", [])?;
        tx.execute("DELETE FROM dead_letters WHERE sink NOT IN (SELECT name FROM sinks)", [])?;
    }
    Ok(deleted as u64)
}
