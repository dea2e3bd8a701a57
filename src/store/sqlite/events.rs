//! Reading the event log.

use rusqlite::{Connection, OptionalExtension, Row};

use super::{convert, renumber};
use crate::store::{
    error::StoreError,
    event_log::{EventFilter, EventPage},
    types::{AccountRow, EventId, StoredEvent},
};

const COLUMNS: &str = "id, account, sequence, type, observed_at, json";

/// Whose an event is. Looked up for each event: a list of all kf accounts of an official account may be long.
const OFFICIAL_ACCOUNT: &str = "(SELECT official_account FROM accounts WHERE accounts.id = events.account)";

/// The newest event ever committed, whether it is retained or not.
pub(in crate::store) fn last_id(connection: &Connection) -> Result<EventId, StoreError> {
    let mut statement = connection.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'events'")?;
    let last = statement.query_row([], |row| row.get(0)).optional()?;
    Ok(last.map_or(EventId::BEGINNING, EventId))
}

/// How many events there are after this one. Its cost grows with the restores among them, not with their number.
///
/// Ids have no gaps but those of restores, which end at the beginning of a block: a transaction that is rolled back gives
/// its ids back, and only the oldest events are pruned.
pub(in crate::store) fn count_after(connection: &Connection, after: EventId) -> Result<u64, StoreError> {
    let mut first_after = connection.prepare_cached("SELECT min(id) FROM events WHERE id > ?1")?;
    let mut last_before = connection.prepare_cached("SELECT max(id) FROM events WHERE id < ?1")?;
    let (mut count, mut counted_to) = (0, after.0);
    while let Some(first) = first_after.query_row([counted_to], |row| row.get::<_, Option<i64>>(0))? {
        let last: i64 = last_before.query_row([renumber::next_block(first)], |row| row.get(0))?;
        count += last - first + 1;
        counted_to = last;
    }
    Ok(count.unsigned_abs())
}

pub(in crate::store) fn read_after(
    connection: &Connection,
    after: EventId,
    limit: usize,
) -> Result<Vec<StoredEvent>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM events WHERE id > ?1 ORDER BY id LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query((after.0, limit_of(limit)))?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(event(row)?);
    }
    Ok(events)
}

pub(in crate::store) fn read_matching(
    connection: &Connection,
    filter: &EventFilter,
    limit: usize,
) -> Result<EventPage, StoreError> {
    let tx = connection.unchecked_transaction()?;
    let last = last_id(&tx)?;
    let until = filter.until.map_or(last, |until| until.min(last));
    let accounts = filter.account.as_deref().map(|name| accounts_named(&tx, name)).transpose()?;
    let sql = format!(
        "SELECT {COLUMNS} FROM events
         WHERE id > ?1 AND id <= ?2 AND {} AND (?3 = '[]' OR {OFFICIAL_ACCOUNT} IN (SELECT value FROM json_each(?3)))
         ORDER BY id LIMIT ?4",
        condition(filter, accounts)
    );
    let mut statement = tx.prepare_cached(&sql)?;
    let names = serde_json::Value::from(filter.official_accounts.clone()).to_string();
    let mut rows = statement.query((filter.after.0, until.0, names, limit_of(limit)))?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(event(row)?);
    }
    let next = match events.last() {
        Some(event) if events.len() >= limit => event.id,
        _ => until.max(filter.after),
    };
    Ok(EventPage { events, next })
}

/// Only numbers of ours go into the text.
fn condition(filter: &EventFilter, accounts: Option<Vec<i64>>) -> String {
    let list = |numbers: Vec<i64>| numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    let mut conditions = vec!["true".to_owned()];
    if let Some(since) = filter.since {
        conditions.push(format!("observed_at >= {}", convert::ms(since)));
    }
    if let Some(accounts) = accounts {
        conditions.push(format!("account IN ({})", list(accounts)));
    }
    if !filter.types.is_empty() {
        let types = filter.types.iter().copied().map(convert::event_type_code).collect();
        conditions.push(format!("type IN ({})", list(types)));
    }
    conditions.join(" AND ")
}

/// The same kf_account may exist under several official accounts.
fn accounts_named(connection: &Connection, name: &str) -> Result<Vec<i64>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id FROM accounts
         WHERE ?1 IN (kf_account, official_account, official_account || '/' || kf_account)",
    )?;
    let ids = statement.query_map([name], |row| row.get(0))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

/// From a row that begins with [`COLUMNS`], or those of a dead letter.
pub(super) fn event(row: &Row<'_>) -> Result<StoredEvent, StoreError> {
    Ok(StoredEvent {
        id: EventId(row.get(0)?),
        account: AccountRow(row.get(1)?),
        sequence: row.get::<_, i64>(2)?.unsigned_abs(),
        event_type: convert::event_type(row.get(3)?)?,
        observed_at: convert::time(row.get(4)?)?,
        json: row.get(5)?,
    })
}

pub(super) fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
