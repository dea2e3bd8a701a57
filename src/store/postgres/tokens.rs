//! Stores when access tokens were last fetched, and refresh tokens. They are not divided by shard, so the statements only name the shard
//! that [`Shard::read`] passes.

use std::collections::HashMap;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::{Shard, column};
use crate::store::{StoreError, convert};

impl Shard {
    pub(in crate::store) async fn record_token_fetch(
        &self,
        appid: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = fenced!(
            "fetched AS (
                 INSERT INTO token_fetches (appid, fetched_at) SELECT $4, $5 WHERE EXISTS (SELECT FROM mine)
                 ON CONFLICT (appid) DO UPDATE SET fetched_at = excluded.fetched_at) ",
            is_owner!()
        );
        self.write_durably(sql, &[&appid, &convert::ms(at)]).await?;
        Ok(())
    }

    pub(in crate::store) async fn token_fetches(&self) -> Result<HashMap<String, Timestamp>, StoreError> {
        let sql = "SELECT appid, fetched_at FROM token_fetches WHERE $1::smallint IS NOT NULL";
        let rows = self.read(sql, &[]).await?;
        rows.iter().map(|row| Ok((column(row, 0)?, convert::time(column(row, 1)?)?))).collect()
    }

    pub(in crate::store) async fn store_refresh_token(
        &self,
        appid: &str,
        token: &SecretString,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = fenced!(
            "stored AS (
                 INSERT INTO refresh_tokens (appid, token, stored_at) SELECT $4, $5, $6 WHERE EXISTS (SELECT FROM mine)
                 ON CONFLICT (appid) DO UPDATE SET token = excluded.token, stored_at = excluded.stored_at) ",
            is_owner!()
        );
        self.write_durably(sql, &[&appid, &token.expose_secret(), &convert::ms(at)]).await?;
        Ok(())
    }

    pub(in crate::store) async fn refresh_tokens(&self) -> Result<HashMap<String, SecretString>, StoreError> {
        let rows =
            self.read("SELECT appid, token FROM refresh_tokens WHERE $1::smallint IS NOT NULL", &[]).await?;
        rows.iter().map(|row| Ok((column(row, 0)?, column::<String>(row, 1)?.into()))).collect()
    }
}
