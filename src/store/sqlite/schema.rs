//! The tables, and the check of whether a file has them.
//!
//! The file has an `application_id` and, in `user_version`, the version of its schema. [`VERSIONS`] lists what each version
//! added. A new file gets all of it, an older one what it lacks. Statements of the list must never change, nor comments within
//! them: SQLite stores them with the definition of a table, which is compared at each start.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::store::error::StoreError;

/// "kfwa": distinguishes our files from those of other programs.
const APPLICATION_ID: i64 = 0x6b66_7761;

/// The schema that this program reads and writes.
const VERSION: i64 = VERSIONS.len() as i64;

/// What each version added, from version 1 on. Times are UNIX milliseconds.
const VERSIONS: [&str; 4] = [VERSION_1, VERSION_2, VERSION_3, VERSION_4];

const VERSION_1: &str = "
-- The owner of the shard: every commit checks the epoch. One file is one shard, 0.
CREATE TABLE lease (shard INTEGER PRIMARY KEY, owner TEXT NOT NULL, epoch INTEGER NOT NULL) STRICT;

-- Rows are never deleted, because the sequence of an account must never start again.
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    official_account TEXT NOT NULL,
    appid TEXT NOT NULL,
    kf_account TEXT NOT NULL,
    configured INTEGER NOT NULL,
    sequence INTEGER NOT NULL DEFAULT 0, -- of its newest event
    state TEXT NOT NULL,
    conclusion TEXT,
    baseline_taken INTEGER NOT NULL,
    keyless INTEGER NOT NULL,
    listed_sent_at INTEGER,
    last_success_at INTEGER,
    unwatched_at INTEGER,
    UNIQUE (appid, kf_account)
) STRICT;

-- The snapshots.
CREATE TABLE sessions (
    account INTEGER NOT NULL REFERENCES accounts (id),
    openid TEXT NOT NULL,
    createtime INTEGER NOT NULL,
    PRIMARY KEY (account, openid, createtime)
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: without it the ids of a log that was pruned empty would start again, before the cursors.
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account INTEGER NOT NULL REFERENCES accounts (id),
    sequence INTEGER NOT NULL,
    type INTEGER NOT NULL, -- 1 session.started, 2 session.ended, 3 account.state_changed
    createtime INTEGER, -- of the session; with its id null for a state change
    session_id BLOB,
    observed_at INTEGER NOT NULL,
    json TEXT NOT NULL
) STRICT;
-- createtime comes first: session ids are random, and alone would spread every commit over the pages of the whole log.
CREATE INDEX events_by_session ON events (createtime, session_id, type) WHERE session_id IS NOT NULL;

-- The cursors of the sinks; removed_at is null while a sink is configured.
CREATE TABLE sinks (name TEXT PRIMARY KEY, cursor INTEGER NOT NULL, removed_at INTEGER) STRICT, WITHOUT ROWID;

CREATE TABLE token_fetches (appid TEXT PRIMARY KEY, fetched_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

const VERSION_2: &str = "
-- Refresh tokens that WeChat changed or returned in its list. Those in the configuration are older.
CREATE TABLE refresh_tokens (
    appid TEXT PRIMARY KEY,
    token TEXT NOT NULL,
    stored_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

const VERSION_3: &str = "
-- How often a backup was restored. Each time, sequences and event ids skip the numbers that may be used already.
ALTER TABLE lease ADD COLUMN restores INTEGER NOT NULL DEFAULT 0;

-- The destination, to notice a change, which ends a stop; when and why the sink was stopped.
ALTER TABLE sinks ADD COLUMN destination TEXT;
ALTER TABLE sinks ADD COLUMN stopped_at INTEGER;
ALTER TABLE sinks ADD COLUMN stopped_reason TEXT;

-- Events that a sink refused for good, with their body, because the log may prune them.
CREATE TABLE dead_letters (
    sink TEXT NOT NULL,
    event INTEGER NOT NULL,
    account INTEGER NOT NULL REFERENCES accounts (id),
    sequence INTEGER NOT NULL,
    type INTEGER NOT NULL,
    observed_at INTEGER NOT NULL,
    json TEXT NOT NULL,
    reason TEXT NOT NULL,
    died_at INTEGER NOT NULL,
    PRIMARY KEY (sink, event)
) STRICT, WITHOUT ROWID;
";

const VERSION_4: &str = "
-- When the sink was suspended: it lagged most when the store had reached its size limit, and pruning no longer waits for
-- it. A suspended sink is also stopped.
ALTER TABLE sinks ADD COLUMN suspended_at INTEGER;
-- Dead letters that were removed because of their age.
ALTER TABLE sinks ADD COLUMN expired_dead_letters INTEGER NOT NULL DEFAULT 0;

-- Consecutive events that were removed before a sink had acknowledged them.
CREATE TABLE gaps (
    sink TEXT NOT NULL,
    first_event INTEGER NOT NULL,
    last_event INTEGER NOT NULL,
    events INTEGER NOT NULL,
    first_observed_at INTEGER NOT NULL,
    last_observed_at INTEGER NOT NULL,
    PRIMARY KEY (sink, first_event)
) STRICT, WITHOUT ROWID;

-- Whether it is to be delivered again.
ALTER TABLE dead_letters ADD COLUMN retry INTEGER NOT NULL DEFAULT 0;
-- To count dead letters, and to find those to be delivered again, without reading their bodies.
CREATE INDEX dead_letters_by_sink ON dead_letters (sink, retry);
CREATE INDEX dead_letters_by_age ON dead_letters (died_at);
";

/// Tables that are small enough to be checked at every start. The snapshots are read whole a moment later. Damage in the
/// log is found when events are read: a check of gigabytes would delay polling for minutes.
const CHECKED_AT_START: [&str; 6] = ["lease", "accounts", "sinks", "gaps", "token_fetches", "refresh_tokens"];

/// What a file contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SchemaState {
    /// Nothing.
    Empty,
    /// A store of this version.
    Current,
    /// A store of an older version.
    Older(i64),
}

/// Turns a store of an older version, or an empty file (`from` 0), into a store of this version. On an error it is unchanged.
pub(super) fn migrate(connection: &mut Connection, from: i64) -> Result<(), StoreError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    for (sql, version) in VERSIONS.into_iter().zip(1..) {
        if version > from {
            tx.execute_batch(sql)?;
        }
    }
    tx.pragma_update(None, "user_version", VERSION)?;
    Ok(tx.commit()?)
}

/// Returns what the file contains. Rejects a file that is not a sound store of this version or an older one. Only reads.
pub(super) fn inspect(path: &Path, connection: &Connection) -> Result<SchemaState, StoreError> {
    let application_id = pragma(connection, "application_id")?;
    let version = pragma(connection, "user_version")?;
    let objects = objects(connection)?;
    if application_id == 0 && objects.is_empty() {
        return Ok(SchemaState::Empty);
    }
    let path = path.to_path_buf();
    if application_id != APPLICATION_ID {
        return Err(StoreError::Foreign { path, what: "an SQLite file of another program" });
    }
    if version > VERSION {
        return Err(StoreError::Newer { path, found: version, known: VERSION });
    }
    if version < 1 {
        return Err(StoreError::corrupt(format!("there is no schema {version}")));
    }
    check_tables(&objects, version)?;
    for table in CHECKED_AT_START {
        if objects.iter().any(|(name, _)| name == table) {
            run_check(connection, table, &format!("PRAGMA integrity_check({table})"))?;
        }
    }
    Ok(if version == VERSION { SchemaState::Current } else { SchemaState::Older(version) })
}

/// Rejects a file that is not a store of this version.
pub(super) fn require_current(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let path = || path.to_path_buf();
    match inspect(&path(), connection)? {
        SchemaState::Current => Ok(()),
        SchemaState::Empty => Err(StoreError::Foreign { path: path(), what: "it is empty" }),
        SchemaState::Older(found) => Err(StoreError::Older { path: path(), found, known: VERSION }),
    }
}

/// Rejects missing or different tables and indexes. Additional ones, such as an index of the operator, do no harm.
fn check_tables(found: &[(String, String)], version: i64) -> Result<(), StoreError> {
    let reference = Connection::open_in_memory()?;
    for (sql, _) in VERSIONS.into_iter().zip(1..=version) {
        reference.execute_batch(sql)?;
    }
    match objects(&reference)?.into_iter().find(|expected| !found.contains(expected)) {
        None => Ok(()),
        Some((name, _)) => Err(StoreError::corrupt(format!("{name} is missing or not as it was created"))),
    }
}

/// Rejects a damaged file. Reads all of it.
pub(super) fn check_whole(connection: &Connection) -> Result<(), StoreError> {
    run_check(connection, "the file", "PRAGMA quick_check(1)")
}

fn run_check(connection: &Connection, what: &str, check: &str) -> Result<(), StoreError> {
    let verdict: String = connection.query_row(check, [], |row| row.get(0))?;
    if verdict == "ok" {
        Ok(())
    } else {
        Err(StoreError::corrupt(format!("{what}: {}", verdict.replace('\n', "; "))))
    }
}

fn pragma(connection: &Connection, name: &str) -> Result<i64, StoreError> {
    Ok(connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))?)
}

/// Names and definitions of all tables and indexes, except those that SQLite creates itself.
fn objects(connection: &Connection) -> Result<Vec<(String, String)>, StoreError> {
    let mut statement = connection
        .prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
