//! Stores when access tokens were last fetched, and refresh tokens. They are not divided by shard, so the statements only name the shard
//! that [`Shard::read`] passes.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::types::ToSql;

use super::{Database, Shard, column};
use crate::{
    domain::shared_token::{SealedToken, SharedToken},
    store::{StoreError, convert},
};

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

/// All times by the database's clock.
impl Database {
    pub(in crate::store) async fn component_token(&self, component: &str) -> Result<SharedToken, StoreError> {
        let sql = "SELECT generation, sealed, lifetime_ms,
                       (extract(epoch FROM clock_timestamp() - published_at) * 1000)::bigint,
                       (extract(epoch FROM clock_timestamp() - claimed_at) * 1000)::bigint,
                       coalesce(claimed_until > clock_timestamp(), false)
                   FROM component_tokens WHERE component = $1";
        let rows = self.reads.query(sql, &[&component]).await?;
        let Some(row) = rows.first() else { return Ok(SharedToken::default()) };
        let newest = column::<Option<String>>(row, 1)?.map(|sealed| {
            let [lifetime, age] = [convert::duration(column(row, 2)?), convert::duration(column(row, 3)?)];
            Ok::<_, StoreError>((SealedToken { sealed, lifetime }, age))
        });
        Ok(SharedToken {
            generation: column(row, 0)?,
            newest: newest.transpose()?,
            claimed_ago: Some(convert::duration(column(row, 4)?)),
            is_claimed: column(row, 5)?,
        })
    }

    pub(in crate::store) async fn claim_component_token(
        &self,
        component: &str,
        generation: i64,
        min_interval: Duration,
        time: Duration,
    ) -> Result<bool, StoreError> {
        // The answer may have been lost when this replica claimed it.
        let sql = "INSERT INTO component_tokens AS t (component, claimed_by, claimed_at, claimed_until)
                       VALUES ($1, $2, clock_timestamp(), clock_timestamp() + $5::bigint * interval '1 ms')
                   ON CONFLICT (component) DO UPDATE SET claimed_by = excluded.claimed_by, claimed_at = excluded.claimed_at,
                       claimed_until = excluded.claimed_until
                   WHERE t.generation = $3
                       AND ((t.claimed_at <= clock_timestamp() - $4::bigint * interval '1 ms'
                               AND coalesce(t.claimed_until <= clock_timestamp(), true))
                           OR (t.claimed_by = $2 AND t.claimed_until > clock_timestamp()))
                   RETURNING 1";
        let [min_interval, time] = [min_interval, time].map(convert::duration_ms);
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&component, &self.replica, &generation, &min_interval, &time];
        Ok(!self.commits.query(sql, &parameters).await?.is_empty())
    }

    pub(in crate::store) async fn publish_component_token(
        &self,
        component: &str,
        generation: i64,
        token: Option<SealedToken>,
    ) -> Result<(), StoreError> {
        let Some(SealedToken { sealed, lifetime }) = token else {
            let sql = "UPDATE component_tokens SET claimed_until = NULL
                       WHERE component = $1 AND claimed_by = $2 AND generation = $3";
            self.commits.query(sql, &[&component, &self.replica, &generation]).await?;
            return Ok(());
        };
        let sql = "UPDATE component_tokens SET generation = generation + 1, sealed = $4, lifetime_ms = $5,
                       published_at = clock_timestamp(), claimed_until = NULL
                   WHERE component = $1 AND claimed_by = $2 AND generation = $3";
        let lifetime = convert::duration_ms(lifetime);
        self.commits.query(sql, &[&component, &self.replica, &generation, &sealed, &lifetime]).await?;
        Ok(())
    }
}
