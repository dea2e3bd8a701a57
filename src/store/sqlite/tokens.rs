//! Stores when access tokens were last fetched, and refresh tokens. Access tokens themselves are not stored.

use std::collections::HashMap;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::Sqlite;
use crate::store::{convert, error::StoreError};

impl Sqlite {
    pub(in crate::store) async fn record_token_fetch(
        &self,
        appid: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let appid = appid.to_owned();
        let sql = "INSERT OR REPLACE INTO token_fetches (appid, fetched_at) VALUES (?1, ?2)";
        self.write(move |tx| {
            tx.prepare_cached(sql)?.execute((appid, convert::ms(at)))?;
            Ok(())
        })
        .await
    }

    pub(in crate::store) async fn token_fetches(&self) -> Result<HashMap<String, Timestamp>, StoreError> {
        self.readers
            .read(|connection| {
                let mut statement =
                    connection.prepare_cached("SELECT appid, fetched_at FROM token_fetches")?;
                let mut rows = statement.query([])?;
                let mut fetches = HashMap::new();
                while let Some(row) = rows.next()? {
                    fetches.insert(row.get(0)?, convert::time(row.get(1)?)?);
                }
                Ok(fetches)
            })
            .await
    }

    pub(in crate::store) async fn store_refresh_token(
        &self,
        appid: &str,
        token: &SecretString,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let (appid, token) = (appid.to_owned(), token.clone());
        let sql = "INSERT OR REPLACE INTO refresh_tokens (appid, token, stored_at) VALUES (?1, ?2, ?3)";
        self.write(move |tx| {
            tx.prepare_cached(sql)?.execute((appid, token.expose_secret(), convert::ms(at)))?;
            Ok(())
        })
        .await
    }

    pub(in crate::store) async fn refresh_tokens(&self) -> Result<HashMap<String, SecretString>, StoreError> {
        self.readers
            .read(|connection| {
                let mut statement = connection.prepare_cached("SELECT appid, token FROM refresh_tokens")?;
                let rows =
                    statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?.into())))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await
    }
}
