//! The tables, and how a schema gets them.
//!
//! [`VERSIONS`] lists what each version added. A new schema gets all of it, an older one what it lacks. A program of the
//! version before must be able to go on with it, because replicas are upgraded one after the other; it cannot start again.

use tokio_postgres::error::SqlState;

use super::{
    column,
    connection::{DatabaseSession, Retries, quoted},
    error::{FailureKind, classify},
};
use crate::store::StoreError;

/// What each version added, from version 1 on. Times of events are UNIX milliseconds.
const VERSIONS: [&str; 1] = [VERSION_1];

const VERSION_1: &str = r#"
CREATE TABLE cluster (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    schema integer NOT NULL,
    restores integer NOT NULL DEFAULT 0 -- each time, sequences and event ids skip the numbers that may be used already
);

-- A replica is alive for some seconds after it was seen.
CREATE TABLE replicas (
    id uuid PRIMARY KEY, -- another one at each start
    name text NOT NULL,
    address text NOT NULL,
    version text NOT NULL,
    started_at bigint NOT NULL,
    seen_at timestamptz NOT NULL, -- by the database's clock
    draining boolean NOT NULL,
    fingerprint bytea NOT NULL -- of its configuration
) WITH (fillfactor = 50);

-- What people want of all replicas. A row is text that holds JSON, because jsonb refuses NUL.
CREATE TABLE commands (
    id uuid PRIMARY KEY,
    asked_at timestamptz NOT NULL,
    command text NOT NULL
);
CREATE TABLE answers (
    command uuid REFERENCES commands ON DELETE CASCADE,
    replica uuid,
    answer text NOT NULL,
    PRIMARY KEY (command, replica)
);

-- Who may write for the official accounts of a shard. Every statement that writes locks the row of its shard FOR SHARE.
CREATE TABLE shards (
    shard smallint PRIMARY KEY,
    owner uuid,
    epoch bigint NOT NULL DEFAULT 0,
    weight integer NOT NULL DEFAULT 0, -- its configured kf accounts
    pruned_to bigint NOT NULL DEFAULT 0 -- ids up to this one were used, although the log no longer has them
) WITH (fillfactor = 20);
INSERT INTO shards (shard) SELECT generate_series(0, 63); -- ShardNumber::COUNT

-- Rows are never deleted, because the sequence of an account must never start again.
CREATE TABLE accounts (
    account bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard smallint NOT NULL,
    official_account text NOT NULL,
    appid text COLLATE "C" NOT NULL,
    kf_account text COLLATE "C" NOT NULL,
    configured boolean NOT NULL,
    UNIQUE (appid, kf_account)
);
CREATE INDEX accounts_by_shard ON accounts (shard);

-- What polls change. A table of its own with one index, and half of each page free, so that updates touch no index.
CREATE TABLE records (
    account bigint PRIMARY KEY,
    shard smallint NOT NULL,
    sequence bigint NOT NULL DEFAULT 0, -- of its newest event
    state text NOT NULL,
    conclusion text,
    baseline_taken boolean NOT NULL DEFAULT false,
    keyless boolean NOT NULL DEFAULT false,
    listed_sent_at bigint,
    last_success_at bigint,
    unwatched_at bigint
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

-- The snapshots.
CREATE TABLE sessions (
    account bigint NOT NULL,
    openid text COLLATE "C" NOT NULL,
    createtime bigint NOT NULL,
    PRIMARY KEY (account, openid, createtime)
) WITH (autovacuum_vacuum_scale_factor = 0.02);

-- The owner of a shard numbers its events, without gaps and in the order of their commits.
CREATE TABLE events (
    shard smallint NOT NULL,
    id bigint NOT NULL,
    account bigint NOT NULL,
    sequence bigint NOT NULL,
    type smallint NOT NULL, -- 1 session.started, 2 session.ended, 3 account.state_changed
    createtime bigint, -- of the session; with its id null for a state change
    session_id uuid,
    observed_at bigint NOT NULL,
    json text NOT NULL, -- not jsonb, which refuses some strings and changes others
    PRIMARY KEY (shard, id)
);
-- createtime comes first: session ids are random, and alone would spread every commit over the pages of the whole log.
CREATE INDEX events_by_session ON events (createtime, session_id, type) WHERE session_id IS NOT NULL;

CREATE TABLE sinks (
    name text COLLATE "C" PRIMARY KEY,
    removed_at bigint, -- null while the sink is configured
    destination text,
    stopped_at bigint,
    stopped_reason text,
    suspended_at bigint,
    expired_dead_letters bigint NOT NULL DEFAULT 0
);

CREATE TABLE cursors (
    sink text COLLATE "C" NOT NULL REFERENCES sinks ON DELETE CASCADE,
    shard smallint NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (sink, shard)
) WITH (fillfactor = 50);

-- Consecutive events that were removed before a sink had acknowledged them.
CREATE TABLE gaps (
    sink text COLLATE "C" NOT NULL REFERENCES sinks ON DELETE CASCADE,
    shard smallint NOT NULL,
    first_event bigint NOT NULL,
    last_event bigint NOT NULL,
    events bigint NOT NULL,
    first_observed_at bigint NOT NULL,
    last_observed_at bigint NOT NULL,
    PRIMARY KEY (sink, shard, first_event)
);

-- Events that a sink refused for good, with their body, because the log may prune them.
CREATE TABLE dead_letters (
    sink text COLLATE "C" NOT NULL REFERENCES sinks ON DELETE CASCADE,
    shard smallint NOT NULL,
    event bigint NOT NULL,
    account bigint NOT NULL,
    sequence bigint NOT NULL,
    type smallint NOT NULL,
    observed_at bigint NOT NULL,
    json text NOT NULL,
    reason text NOT NULL,
    died_at bigint NOT NULL,
    retry boolean NOT NULL DEFAULT false,
    PRIMARY KEY (sink, shard, event)
);
CREATE INDEX dead_letters_by_age ON dead_letters (shard, died_at);

CREATE TABLE token_fetches (appid text COLLATE "C" PRIMARY KEY, fetched_at bigint NOT NULL);

-- Refresh tokens that WeChat changed or returned in its list. Those in the configuration are older.
CREATE TABLE refresh_tokens (appid text COLLATE "C" PRIMARY KEY, token text NOT NULL, stored_at bigint NOT NULL);

-- Tokens of components, each with the claim of the replica that fetches the next one.
CREATE TABLE component_tokens (
    component text COLLATE "C" PRIMARY KEY,
    generation bigint NOT NULL DEFAULT 0,
    sealed text, -- null before the first one
    lifetime_ms bigint,
    published_at timestamptz,
    claimed_by uuid NOT NULL,
    claimed_at timestamptz NOT NULL,
    claimed_until timestamptz -- null when the claim has ended
);
"#;

/// Creates the schema if it is missing, and gives it the tables that it lacks.
pub(super) async fn migrate(session: &DatabaseSession, schema: &str) -> Result<(), StoreError> {
    let mut retries = Retries::new();
    loop {
        let known = VERSIONS.len() as i32;
        let found = version(session, schema).await?;
        if found > known {
            return Err(StoreError::NewerSchema { schema: schema.to_owned(), found, known });
        }
        if found == known {
            return Ok(());
        }
        match apply(session, schema, found).await {
            // Another replica did it at the same time.
            Err(error) if error.code().is_some_and(is_conflict) => {}
            Err(error) => {
                let failure = classify(error);
                if failure.kind != FailureKind::Busy || !retries.back_off().await {
                    return Err(failure.error);
                }
            }
            Ok(()) => return Ok(()),
        }
    }
}

/// Whether the schema has the version of this program, and not none or an older one. Fails if it has a newer one.
pub(super) async fn is_current(session: &DatabaseSession, schema: &str) -> Result<bool, StoreError> {
    let known = VERSIONS.len() as i32;
    let found = version(session, schema).await?;
    if found > known {
        return Err(StoreError::NewerSchema { schema: schema.to_owned(), found, known });
    }
    Ok(found == known)
}

/// Creates the schema if it is missing. Fails unless an existing one has the version of this program.
pub(super) async fn create_or_check(session: &DatabaseSession, schema: &str) -> Result<(), StoreError> {
    match version(session, schema).await? {
        0 => migrate(session, schema).await,
        _ => check(session, schema).await,
    }
}

/// Fails unless the schema has the version of this program.
pub(super) async fn check(session: &DatabaseSession, schema: &str) -> Result<(), StoreError> {
    if is_current(session, schema).await? {
        return Ok(());
    }
    Err(StoreError::Unsuitable(format!(
        "the schema {schema} has no tables of this version: start a daemon, which creates them"
    )))
}

/// The version of the schema; 0 if it has no tables.
async fn version(session: &DatabaseSession, schema: &str) -> Result<i32, StoreError> {
    let table = format!("{}.cluster", quoted(schema));
    let is_there = session.client().query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await;
    if !is_there.map_err(classify)?.get::<_, bool>(0) {
        return Ok(0);
    }
    let version = session.client().query_opt("SELECT schema FROM cluster", &[]).await.map_err(classify)?;
    version.map_or(Ok(0), |row| column(&row, 0))
}

/// In one message, so that the transaction does not wait for this process.
async fn apply(session: &DatabaseSession, schema: &str, from: i32) -> Result<(), tokio_postgres::Error> {
    let missing: Vec<_> = VERSIONS.into_iter().skip(usize::try_from(from).unwrap_or_default()).collect();
    // A role that owns the schema need not be allowed to create one.
    let exists = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
    let exists: bool = session.client().query_one(exists, &[&schema]).await?.try_get(0)?;
    let create = if exists { String::new() } else { format!("CREATE SCHEMA {};", quoted(schema)) };
    let set_version = if from == 0 {
        format!("INSERT INTO cluster (schema) VALUES ({})", VERSIONS.len())
    } else {
        format!("UPDATE cluster SET schema = {}", VERSIONS.len())
    };
    let sql = format!("BEGIN; {create} {} {set_version}; COMMIT", missing.concat());
    let applied = session.client().batch_execute(&sql).await;
    if applied.is_err() {
        session.client().batch_execute("ROLLBACK").await?;
    }
    applied
}

fn is_conflict(code: &SqlState) -> bool {
    [
        SqlState::DUPLICATE_COLUMN,
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_SCHEMA,
        SqlState::UNIQUE_VIOLATION,
        SqlState::DUPLICATE_OBJECT,
    ]
    .contains(code)
}
