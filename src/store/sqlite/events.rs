//! Reads the event log.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Rows};

use super::Sqlite;
use crate::store::{
    convert,
    error::StoreError,
    log::{OUT_OF_ORDER_MS, SMALL_LOG, STRIDE, next_block},
    types::{AccountId, EventFilter, EventPage, LogPosition, StoredEvent},
};

const COLUMNS: &str = "id, account, sequence, type, observed_at, json";

/// The official account of an event, looked up for each event: a list of all kf accounts of an official account may be
/// long.
const OFFICIAL_ACCOUNT: &str = "(SELECT official_account FROM accounts WHERE accounts.id = events.account)";

impl Sqlite {
    pub(in crate::store) async fn read_events_at(
        &self,
        positions: Vec<LogPosition>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.delivery_readers
            .read(move |connection| {
                let sql = format!(
                    "SELECT {COLUMNS} FROM events WHERE id IN (SELECT value FROM json_each(?1)) ORDER BY id"
                );
                let mut statement = connection.prepare_cached(&sql)?;
                let ids: serde_json::Value = positions.iter().map(|id| id.0).collect();
                events(statement.query([ids.to_string()])?)
            })
            .await
    }

    pub(in crate::store) async fn read_events(
        &self,
        filter: EventFilter,
        limit: usize,
    ) -> Result<EventPage, StoreError> {
        self.delivery_readers.read(move |connection| read_matching(connection, &filter, limit)).await
    }

    pub(in crate::store) async fn position_before(
        &self,
        since: Timestamp,
    ) -> Result<LogPosition, StoreError> {
        self.readers.read(move |connection| position_before(connection, since)).await
    }

    pub(in crate::store) async fn count_events(&self) -> Result<u64, StoreError> {
        self.readers.read(|connection| count_after(connection, LogPosition::BEGINNING)).await
    }
}

/// The newest event ever committed, retained or not.
pub(super) fn last_id(connection: &Connection) -> Result<LogPosition, StoreError> {
    let mut statement = connection.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'events'")?;
    let last = statement.query_row([], |row| row.get(0)).optional()?;
    Ok(last.map_or(LogPosition::BEGINNING, LogPosition))
}

/// Counts the events after a position. The cost grows with the number of restores, not of events.
pub(super) fn count_after(connection: &Connection, after: LogPosition) -> Result<u64, StoreError> {
    let mut first_after = connection.prepare_cached("SELECT min(id) FROM events WHERE id > ?1")?;
    let mut last_before = connection.prepare_cached("SELECT max(id) FROM events WHERE id < ?1")?;
    let (mut count, mut counted_to) = (0, after.0);
    while let Some(first) = first_after.query_row([counted_to], |row| row.get::<_, Option<i64>>(0))? {
        let last: i64 = last_before.query_row([next_block(first)], |row| row.get(0))?;
        count += last - first + 1;
        counted_to = last;
    }
    Ok(count.unsigned_abs())
}

/// Reads the events that a filter selects. Within a transaction, so that the view is consistent.
fn read_matching(
    connection: &Connection,
    filter: &EventFilter,
    limit: usize,
) -> Result<EventPage, StoreError> {
    let last = last_id(connection)?;
    let until = filter.until.map_or(last, |until| until.min(last));
    let sql = format!(
        "SELECT {COLUMNS} FROM events
         WHERE id > ?1 AND id <= ?2 AND {} AND (?3 = '[]' OR {OFFICIAL_ACCOUNT} IN (SELECT value FROM json_each(?3)))
         ORDER BY id LIMIT ?4",
        condition(filter)
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let names = serde_json::Value::from(filter.official_accounts.clone()).to_string();
    let events = events(statement.query((filter.after.0, until.0, names, convert::limit(limit)))?)?;
    let next = match events.last() {
        Some(event) if events.len() >= limit => event.id,
        _ => until.max(filter.after),
    };
    Ok(EventPage { events, next })
}

/// Returns a position before the events that were observed at `since` or later. Within a transaction.
pub(super) fn position_before(connection: &Connection, since: Timestamp) -> Result<LogPosition, StoreError> {
    if count_after(connection, LogPosition::BEGINNING)? < SMALL_LOG {
        return Ok(LogPosition::BEGINNING);
    }
    let early_enough = convert::ms(since).saturating_sub(OUT_OF_ORDER_MS);
    let mut probe =
        connection.prepare_cached("SELECT id, observed_at FROM events WHERE id >= ?1 ORDER BY id LIMIT 1")?;
    let (mut position, mut latest, mut from) = (LogPosition::BEGINNING, i64::MIN, STRIDE);
    while let Some((id, observed_at)) =
        probe.query_row([from], |row| Ok((row.get(0)?, row.get(1)?))).optional()?
        && observed_at < early_enough
    {
        if observed_at >= latest {
            (position, latest) = (LogPosition(id), observed_at);
        }
        from = id.saturating_add(STRIDE);
    }
    Ok(position)
}

/// Only numbers are formatted into the text.
fn condition(filter: &EventFilter) -> String {
    let list = |numbers: Vec<i64>| numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    let mut conditions = vec!["true".to_owned()];
    if let Some(since) = filter.since {
        conditions.push(format!("observed_at >= {}", convert::ms(since)));
    }
    if let Some(accounts) = &filter.accounts {
        conditions.push(format!("account IN ({})", list(accounts.iter().map(|account| account.0).collect())));
    }
    if !filter.types.is_empty() {
        let types = filter.types.iter().copied().map(convert::event_type_code).collect();
        conditions.push(format!("type IN ({})", list(types)));
    }
    conditions.join(" AND ")
}

fn events(mut rows: Rows<'_>) -> Result<Vec<StoredEvent>, StoreError> {
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(event(row)?);
    }
    Ok(events)
}

/// Reads a row that begins with the columns of an event.
pub(super) fn event(row: &Row<'_>) -> Result<StoredEvent, StoreError> {
    Ok(StoredEvent {
        id: LogPosition(row.get(0)?),
        account: AccountId(row.get(1)?),
        sequence: row.get::<_, i64>(2)?.unsigned_abs(),
        event_type: convert::event_type(row.get(3)?)?,
        observed_at: convert::time(row.get(4)?)?,
        json: row.get(5)?,
    })
}
