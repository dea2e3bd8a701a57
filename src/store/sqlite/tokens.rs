//! Stores when access tokens were last fetched, and refresh tokens. Access tokens themselves are not stored.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::{Connection, Transaction};
use secrecy::{ExposeSecret, SecretString};

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

pub(in crate::store) fn store_refresh_token(
    tx: &Transaction<'_>,
    appid: &str,
    token: &SecretString,
    at: Timestamp,
) -> Result<(), StoreError> {
    tx.prepare_cached("INSERT OR REPLACE INTO refresh_tokens (appid, token, stored_at) VALUES (?1, ?2, ?3)")?
        .execute((appid, token.expose_secret(), convert::ms(at)))?;
    Ok(())
}

pub(in crate::store) fn refresh_tokens(
    connection: &Connection,
) -> Result<HashMap<String, SecretString>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT appid, token FROM refresh_tokens")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?.into())))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
