//! Opens connections to the SQLite file.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use super::{file, placement, schema};
use crate::store::error::StoreError;

/// How long a statement waits for another process that writes to the file (an operator's sqlite3).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The writer's page cache in KiB: the pages that a group of commits changes. The operating system caches the rest.
const WRITER_CACHE_KIB: i64 = 4 * 1024;

/// The page cache of a reader in KiB. Readers scan, so that a larger cache would not be hit more often.
const READER_CACHE_KIB: i64 = 512;

/// Pages (of 4 KiB) in the write-ahead log after which it is checkpointed: 16 MiB, so that a burst of commits syncs the
/// file itself once for some thousand polls.
const CHECKPOINT_PAGES: i64 = 4096;

/// The size to which the file of the write-ahead log is truncated after a checkpoint.
const WAL_LIMIT_BYTES: i64 = 64 * 1024 * 1024;

/// Prepared statements that a connection caches: more than the store has.
const PREPARED_STATEMENTS: usize = 64;

/// Opens a sound store of this version for reading, with or without a running daemon.
pub(in crate::store) fn open_for_reading(path: &Path) -> Result<Connection, StoreError> {
    let path = file::resolve_existing(path)?;
    placement::check(&path)?;
    file::check(&path)?;
    let connection = connect_to_read(&path)?;
    schema::require_current(&path, &connection)?;
    Ok(connection)
}

pub(super) fn connect_to_read(path: &Path) -> Result<Connection, StoreError> {
    let connection = if is_immutable(path)? {
        let access = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        connect(&immutable_uri(path), access)?
    } else {
        connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?
    };
    connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    Ok(connection)
}

/// Whether the file cannot change, so that it can be read without the files that SQLite would create next to it. Fails if they are
/// needed and cannot be created.
fn is_immutable(path: &Path) -> Result<bool, StoreError> {
    let beside = |suffix| file::with_suffix(path, suffix);
    if beside("-wal").exists() && beside("-shm").exists() {
        return Ok(false);
    }
    match file::check_writable(path) {
        Err(StoreError::ReadOnly { .. })
            if !["-wal", "-journal"].map(beside).iter().any(|log| file::has_content(log)) =>
        {
            Ok(true)
        }
        writable => writable.map(|()| false),
    }
}

/// The URI of a file that SQLite reads without locks and logs.
fn immutable_uri(path: &Path) -> PathBuf {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                uri.push(char::from(*byte))
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    PathBuf::from(uri + "?immutable=1")
}

/// Opens the file for the writer: with a write-ahead log and a sync in each commit.
pub(super) fn connect_to_write(path: &Path) -> Result<Connection, StoreError> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
    if mode != "wal" || synchronous != 2 {
        // Network file systems refuse WAL. Without either setting, an acknowledged commit can be lost.
        let what = format!("journal_mode is {mode}, synchronous is {synchronous}; use a local file system");
        return Err(StoreError::Unsuitable(what));
    }
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", WAL_LIMIT_BYTES)?;
    Ok(connection)
}

/// Plays back a rollback journal, which SQLite does before a writer reads.
pub(super) fn roll_back(path: &Path) -> Result<(), StoreError> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    Ok(connection.query_row("PRAGMA schema_version", [], |_| Ok(()))?)
}

pub(super) fn connect(path: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS);
    Ok(connection)
}
