//! The tables, and whether a file has them.
//!
//! The file carries `application_id` and, in `user_version`, the version of its schema. [`VERSIONS`] is the one list of
//! what each version brought: a new file gets all of it, an older one what it lacks, and what stands in it never changes.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::store::error::StoreError;

/// "kfwa": tells our files from those of other programs.
const APPLICATION_ID: i64 = 0x6b66_7761;

/// The schema this program reads and writes.
const VERSION: i64 = VERSIONS.len() as i64;

/// What each version brought, from version 1 on. Times are UNIX milliseconds.
const VERSIONS: [&str; 4] = [VERSION_1, VERSION_2, VERSION_3, VERSION_4];

const VERSION_1: &str = "
-- Who may write: every commit checks the epoch. One file is one shard, 0.
CREATE TABLE lease (shard INTEGER PRIMARY KEY, owner TEXT NOT NULL, epoch INTEGER NOT NULL) STRICT;

-- Rows stay for ever, because the sequence of an account must never start again.
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

-- AUTOINCREMENT: without it the ids of a log that was pruned empty would start again, below the cursors.
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
-- By createtime first: ids are random, and alone would spread every commit over the pages of the whole log.
CREATE INDEX events_by_session ON events (createtime, session_id, type) WHERE session_id IS NOT NULL;

-- How far each sink has confirmed; removed_at is null while it is configured.
CREATE TABLE sinks (name TEXT PRIMARY KEY, cursor INTEGER NOT NULL, removed_at INTEGER) STRICT, WITHOUT ROWID;

CREATE TABLE token_fetches (appid TEXT PRIMARY KEY, fetched_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

const VERSION_2: &str = "
-- Refresh tokens that WeChat changed, or told in its list; those of the configuration are older.
CREATE TABLE refresh_tokens (
    appid TEXT PRIMARY KEY,
    token TEXT NOT NULL,
    stored_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

const VERSION_3: &str = "
-- How often a backup was put in the store's place; each time, sequences and ids of events skip what may be used already.
ALTER TABLE lease ADD COLUMN restores INTEGER NOT NULL DEFAULT 0;

-- Where the sink delivers to, as far as it matters for a stop; when and why it wanted no more events.
ALTER TABLE sinks ADD COLUMN destination TEXT;
ALTER TABLE sinks ADD COLUMN stopped_at INTEGER;
ALTER TABLE sinks ADD COLUMN stopped_reason TEXT;

-- Events that a sink refused for good, with their body: the log may prune them.
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
-- Since when the sink holds back pruning no longer, because it was furthest behind when the store had reached its size. It
-- is stopped as well.
ALTER TABLE sinks ADD COLUMN suspended_at INTEGER;
-- Dead letters that were removed for their age.
ALTER TABLE sinks ADD COLUMN expired_dead_letters INTEGER NOT NULL DEFAULT 0;

-- Events next to each other that were removed before a sink had confirmed them.
CREATE TABLE gaps (
    sink TEXT NOT NULL,
    first_event INTEGER NOT NULL,
    last_event INTEGER NOT NULL,
    events INTEGER NOT NULL,
    first_observed_at INTEGER NOT NULL,
    last_observed_at INTEGER NOT NULL,
    PRIMARY KEY (sink, first_event)
) STRICT, WITHOUT ROWID;

-- Whether the sink is to get it once more.
ALTER TABLE dead_letters ADD COLUMN retry INTEGER NOT NULL DEFAULT 0;
-- So that they are counted, and those to be delivered found, without reading their texts.
CREATE INDEX dead_letters_by_sink ON dead_letters (sink, retry);
CREATE INDEX dead_letters_by_age ON dead_letters (died_at);
";

/// Small enough to be read whole at every start. The snapshots are read whole a moment later, and what is damaged in the
/// log is found by those who read it: checking gigabytes of it would keep the daemon from polling for minutes.
const CHECKED_AT_START: [&str; 6] = ["lease", "accounts", "sinks", "gaps", "token_fetches", "refresh_tokens"];

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing yet.
    Nothing,
    /// A store of this version.
    Current,
    /// A store of an older version.
    Older(i64),
}

/// Makes an empty file a store of this version.
pub(super) fn create(connection: &mut Connection) -> Result<(), StoreError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    bring_up(&tx, 0)?;
    Ok(tx.commit()?)
}

/// Makes a store of an older version one of this version, or leaves it as it is.
pub(super) fn migrate(connection: &mut Connection, from: i64) -> Result<(), StoreError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    bring_up(&tx, from)?;
    Ok(tx.commit()?)
}

fn bring_up(tx: &Transaction<'_>, from: i64) -> Result<(), StoreError> {
    for (sql, version) in VERSIONS.into_iter().zip(1..) {
        if version > from {
            tx.execute_batch(sql)?;
        }
    }
    Ok(tx.pragma_update(None, "user_version", VERSION)?)
}

/// Says what is in the file, and refuses what is not a sound store of this version or an older one. Only reads.
pub(super) fn inspect(path: &Path, connection: &Connection) -> Result<Content, StoreError> {
    let application_id = pragma(connection, "application_id")?;
    let version = pragma(connection, "user_version")?;
    let objects = objects(connection)?;
    if application_id == 0 && objects.is_empty() {
        return Ok(Content::Nothing);
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
            check_content(connection, table)?;
        }
    }
    Ok(if version == VERSION { Content::Current } else { Content::Older(version) })
}

/// Refuses what cannot be read as a store of this version.
pub(super) fn require_current(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let path = || path.to_path_buf();
    match inspect(&path(), connection)? {
        Content::Current => Ok(()),
        Content::Nothing => Err(StoreError::Foreign { path: path(), what: "it is empty" }),
        Content::Older(found) => Err(StoreError::Older { path: path(), found, known: VERSION }),
    }
}

/// What an operator added (an index, say) does no harm; what is missing or different does.
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

/// Refuses what is damaged anywhere. Reads all of the file.
pub(super) fn check_whole(connection: &Connection) -> Result<(), StoreError> {
    verdict_of(connection, "the file", "PRAGMA quick_check(1)")
}

fn check_content(connection: &Connection, table: &str) -> Result<(), StoreError> {
    verdict_of(connection, table, &format!("PRAGMA integrity_check({table})"))
}

fn verdict_of(connection: &Connection, what: &str, check: &str) -> Result<(), StoreError> {
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

/// Names and definitions of all tables and indexes, but for those SQLite makes by itself.
fn objects(connection: &Connection) -> Result<Vec<(String, String)>, StoreError> {
    let mut statement = connection
        .prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
