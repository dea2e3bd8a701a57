//! When access tokens were last fetched; the tokens themselves are not stored.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::{Connection, Transaction};

use super::convert;
use crate::store::error::StoreError;

pub(in crate::store) fn record_fetch(
    tx: &Transaction<'_>,
    appid: &str,
    at: Timestamp,
) -> Result<(), StoreError> {
    tx.prepare_cached("INSERT OR REPLACE INTO token_fetches (appid, fetched_at) VALUES (?1, ?2)")?
        .execute((appid, convert::ms(at)))?;
    Ok(())
}

pub(in crate::store) fn fetches(connection: &Connection) -> Result<HashMap<String, Timestamp>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT appid, fetched_at FROM token_fetches")?;
    let mut rows = statement.query([])?;
    let mut fetches = HashMap::new();
    while let Some(row) = rows.next()? {
        fetches.insert(row.get(0)?, convert::time(row.get(1)?)?);
    }
    Ok(fetches)
}
