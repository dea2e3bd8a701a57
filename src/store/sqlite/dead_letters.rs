//! Dead letters: events that sinks refused for good.

use rusqlite::{Connection, Rows, Transaction};

use super::{Sqlite, events};
use crate::store::{
    convert,
    error::StoreError,
    types::{DeadLetter, LogPosition},
};

/// The event's columns first, as [`events::event`] reads them.
const COLUMNS: &str = "event, account, sequence, type, observed_at, json, sink, reason, died_at, retry";

impl Sqlite {
    pub(in crate::store) async fn add_dead_letter(&self, letter: DeadLetter) -> Result<u64, StoreError> {
        self.write(move |tx| add(tx, &letter)).await
    }

    pub(in crate::store) async fn dead_letters(
        &self,
        sink: &str,
        after: LogPosition,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let sink = sink.to_owned();
        self.readers.read(move |connection| {
            let sql = format!(
                "SELECT {COLUMNS} FROM dead_letters WHERE sink = ?1 AND event > ?2 ORDER BY event LIMIT ?3"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            letters(statement.query((sink, after.0, convert::limit(limit)))?)
        })
        .await
    }

    pub(in crate::store) async fn dead_letters_to_retry(
        &self,
        sink: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let sink = sink.to_owned();
        self.delivery_readers.read(move |connection| {
            let sql = format!(
                "SELECT {COLUMNS} FROM dead_letters WHERE sink = ?1 AND retry >= 1 ORDER BY event LIMIT ?2"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            letters(statement.query((sink, convert::limit(limit)))?)
        })
        .await
    }

    pub(in crate::store) async fn dead_letters_after(
        &self,
        sink: &str,
        after: LogPosition,
    ) -> Result<Vec<LogPosition>, StoreError> {
        let sink = sink.to_owned();
        self.delivery_readers
            .read(move |connection| {
                let mut statement = connection
                    .prepare_cached("SELECT event FROM dead_letters WHERE sink = ?1 AND event > ?2")?;
                let events = statement.query_map((sink, after.0), |row| Ok(LogPosition(row.get(0)?)))?;
                Ok(events.collect::<Result<_, _>>()?)
            })
            .await
    }

    pub(in crate::store) async fn retry_dead_letters(&self, sink: &str) -> Result<u64, StoreError> {
        let sink = sink.to_owned();
        let sql = "UPDATE dead_letters SET retry = true WHERE sink = ?1";
        self.write(move |tx| Ok(tx.execute(sql, [sink])? as u64)).await
    }

    pub(in crate::store) async fn remove_dead_letter(
        &self,
        sink: &str,
        event: LogPosition,
    ) -> Result<(), StoreError> {
        let sink = sink.to_owned();
        let sql = "DELETE FROM dead_letters WHERE sink = ?1 AND event = ?2";
        self.write(move |tx| {
            tx.prepare_cached(sql)?.execute((sink, event.0))?;
            Ok(())
        })
        .await
    }

    pub(in crate::store) async fn drop_dead_letters(&self, sink: &str) -> Result<u64, StoreError> {
        let sink = sink.to_owned();
        let sql = "DELETE FROM dead_letters WHERE sink = ?1";
        self.write(move |tx| Ok(tx.execute(sql, [sink])? as u64)).await
    }
}

/// Returns how many dead letters the sink has now.
fn add(tx: &Transaction<'_>, letter: &DeadLetter) -> Result<u64, StoreError> {
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

pub(super) fn count(connection: &Connection, sink: &str) -> Result<u64, StoreError> {
    let mut statement = connection.prepare_cached("SELECT count(*) FROM dead_letters WHERE sink = ?1")?;
    Ok(statement.query_row([sink], |row| row.get::<_, i64>(0))?.unsigned_abs())
}

fn letters(mut rows: Rows<'_>) -> Result<Vec<DeadLetter>, StoreError> {
    let mut letters = Vec::new();
    while let Some(row) = rows.next()? {
        letters.push(DeadLetter {
            event: events::event(row)?,
            sink: row.get(6)?,
            reason: row.get(7)?,
            died_at: convert::time(row.get(8)?)?,
            retry: row.get(9)?,
        });
    }
    Ok(letters)
}

/// Removes a batch of those that were stored before a time, and counts them at their sinks.
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
