//! Writes the content of a SQLite store into an empty schema, in one transaction.

use std::{collections::HashMap, pin::pin};

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::{error::SqlState, types::ToSql};

use super::{Database, PostgresOptions, connection::DatabaseSession, error::classify, schema};
use crate::store::{
    StoreError,
    backup::{CopyObserver, CopyProgress},
    import::{
        ACCOUNTS, DEAD_LETTERS, EVENTS, GAPS, ImportProblem, ImportSummary, RECORDS, SESSIONS, SINKS,
        TOKEN_FETCHES, Table,
    },
    sqlite::export::ImportSource,
};

/// As long as these are locked, no replica starts and none owns a shard. Everything else may take as long as it takes.
const BEGIN: &str = "
BEGIN;
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = '1min';
LOCK TABLE replicas, shards IN EXCLUSIVE MODE";

/// Whether the schema has any content, and a living replica.
const CONTENT: &str = "
SELECT EXISTS (SELECT FROM accounts) OR EXISTS (SELECT FROM sinks) OR EXISTS (SELECT FROM events)
        OR EXISTS (SELECT FROM token_fetches) OR EXISTS (SELECT FROM refresh_tokens),
    (SELECT name FROM replicas WHERE seen_at > clock_timestamp() - interval '9 s' LIMIT 1)";

/// Epochs rise, so that a replica that was paused before the import does not go on with an empty shard.
const PLACE_SHARDS: &str = "
UPDATE shards s SET owner = NULL, epoch = epoch + 1, pruned_to = ($1::bigint[])[shard + 1],
    weight = (SELECT count(*) FROM accounts a WHERE a.shard = s.shard AND configured)";

/// A replica that starts now would make bad plans without statistics.
const END: &str = "
SELECT setval(pg_get_serial_sequence('accounts', 'account'), max(account)) FROM accounts;
ANALYZE accounts, records, sessions, events, cursors, dead_letters;
COMMIT";

const REFRESH_TOKENS: &str = "
INSERT INTO refresh_tokens (appid, token, stored_at) SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])";

/// See [`Cluster::import`](crate::store::Cluster::import).
pub(in crate::store) async fn import(
    options: PostgresOptions,
    source: &ImportSource,
    refresh_tokens: &HashMap<String, String>,
    observer: &CopyObserver,
) -> Result<ImportSummary, StoreError> {
    let (_, connector) = Database::connector(options)?;
    let session = connector.connect_once().await?;
    schema::create_or_check(&session, connector.schema()).await?;
    begin(&session, connector.schema()).await?;
    let progress = CopyProgress { bytes: 0, total_bytes: source.used_bytes()? };
    let mut import = Import { session, source, observer, progress };
    let summary = import.copy_all().await?;
    import.store_refresh_tokens(refresh_tokens).await?;
    import.session.client().batch_execute(END).await.map_err(classify)?;
    Ok(summary)
}

/// Fails unless the schema is empty and nobody uses it. A transaction that is not committed ends with its session.
async fn begin(session: &DatabaseSession, schema: &str) -> Result<(), StoreError> {
    let refused = |problem| Err(StoreError::import(format_args!("schema {schema}"), problem));
    match session.client().batch_execute(BEGIN).await {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            return refused(ImportProblem::Busy);
        }
        begun => begun.map_err(classify)?,
    }
    let content = session.client().query_one(CONTENT, &[]).await.map_err(classify)?;
    if let Some(replica) = content.get(1) {
        return refused(ImportProblem::ReplicaRuns(replica));
    }
    if content.get(0) { refused(ImportProblem::NotEmpty) } else { Ok(()) }
}

/// The transaction.
struct Import<'a> {
    session: DatabaseSession,
    source: &'a ImportSource,
    observer: &'a CopyObserver,
    progress: CopyProgress,
}

impl Import<'_> {
    async fn copy_all(&mut self) -> Result<ImportSummary, StoreError> {
        self.set_restores().await?;
        let accounts = self.copy(&ACCOUNTS).await?;
        self.copy(&RECORDS).await?;
        self.place_shards().await?;
        let open_sessions = self.copy(&SESSIONS).await?;
        let sinks = self.copy(&SINKS).await?;
        let events = self.copy(&EVENTS).await?;
        let dead_letters = self.copy(&DEAD_LETTERS).await?;
        self.copy(&GAPS).await?;
        self.copy(&TOKEN_FETCHES).await?;
        self.copy_cursors().await?;
        Ok(ImportSummary { accounts, open_sessions, events, sinks, dead_letters })
    }

    /// New accounts continue after the sequences that were skipped by restores.
    async fn set_restores(&self) -> Result<(), StoreError> {
        let sql = "UPDATE cluster SET restores = $1";
        self.session.client().execute(sql, &[&self.source.restores()?]).await.map_err(classify)?;
        Ok(())
    }

    async fn place_shards(&self) -> Result<(), StoreError> {
        let pruned_to = self.source.pruned_to();
        self.session.client().execute(PLACE_SHARDS, &[&pruned_to]).await.map_err(classify)?;
        Ok(())
    }

    /// Copies a table, and returns the number of its rows.
    async fn copy(&mut self, table: &Table) -> Result<u64, StoreError> {
        let sql = format!("COPY {} FROM STDIN", table.into);
        let mut sink = pin!(self.session.client().copy_in::<_, Bytes>(&sql).await.map_err(classify)?);
        let (source, observer, progress) = (self.source, self.observer, &mut self.progress);
        let send = async |rows: Vec<u8>| {
            progress.bytes += rows.len() as u64;
            if observer(*progress).is_break() {
                return Err(StoreError::import(source.path().display(), ImportProblem::Stopped));
            }
            Ok(sink.send(rows.into()).await.map_err(classify)?)
        };
        source.read(table, send).await?;
        Ok(sink.finish().await.map_err(classify)?)
    }

    async fn copy_cursors(&self) -> Result<(), StoreError> {
        let sql = "COPY cursors (sink, shard, position) FROM STDIN";
        let mut sink = pin!(self.session.client().copy_in::<_, Bytes>(sql).await.map_err(classify)?);
        sink.send(self.source.cursors().into()).await.map_err(classify)?;
        sink.finish().await.map_err(classify)?;
        Ok(())
    }

    async fn store_refresh_tokens(&self, tokens: &HashMap<String, String>) -> Result<(), StoreError> {
        let (mut appids, mut texts, mut stored_at) = (Vec::new(), Vec::new(), Vec::new());
        for (appid, at) in self.source.refresh_tokens_stored_at()? {
            if let Some(text) = tokens.get(&appid) {
                appids.push(appid);
                texts.push(text);
                stored_at.push(at);
            }
        }
        let parameters: [&(dyn ToSql + Sync); 3] = [&appids, &texts, &stored_at];
        self.session.client().execute(REFRESH_TOKENS, &parameters).await.map_err(classify)?;
        Ok(())
    }
}
