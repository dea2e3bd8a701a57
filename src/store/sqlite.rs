//! The store in one SQLite file: write-ahead log, every commit synced to the disk, one thread that writes.
//!
//! Readers have a connection of their own and never wait for the writer. The lock that keeps a second daemon out is a
//! file beside the store, because SQLite's own exclusive mode would shut `kfwatch events` and sqlite3 out as well.
//! The connections are closed before the lock is released.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Transaction};
use tokio::{
    sync::{oneshot, watch},
    task::spawn_blocking,
};

use super::{
    error::StoreError,
    types::{LogPosition, Writes},
};

pub(super) mod accounts;
pub(super) mod backup;
pub(super) mod commit;
mod convert;
pub(super) mod dead_letters;
pub(super) mod events;
mod file;
pub(super) mod prune;
mod renumber;
pub(super) mod restore;
mod schema;
pub(super) mod sinks;
pub(super) mod tokens;
mod writer;

use schema::Content;
use writer::{Told, Writer};

/// Earlier versions can corrupt the file when two connections write and checkpoint at once.
const OLDEST_SOUND_SQLITE: i32 = 3_051_003;

/// How long a statement waits for another process that writes to the file (an operator's sqlite3).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The writer's page cache in KiB: what a group of commits changes; the rest is read from the system's.
const WRITER_CACHE_KIB: i64 = 4 * 1024;

/// Pages (of 4 KiB) in the write-ahead log after which it is folded into the file: 16 MiB, so that a burst of commits
/// syncs the file itself once for some thousand polls.
const CHECKPOINT_PAGES: i64 = 4096;

/// What remains of the write-ahead log's file after it was folded in, at most.
const WAL_LEFT_BYTES: i64 = 64 * 1024 * 1024;

/// Statements kept prepared per connection: more than there are in this module.
const PREPARED_STATEMENTS: usize = 64;

/// An open file, its reader, and its writer.
#[derive(Debug)]
pub(super) struct Sqlite {
    path: PathBuf,
    /// `None` if it is only to be read.
    writer: Option<Writer>,
    /// `None` once closed.
    reader: Arc<Mutex<Option<Connection>>>,
    committed: watch::Receiver<LogPosition>,
    writes: watch::Receiver<Writes>,
    used_bytes: watch::Receiver<u64>,
}

impl Sqlite {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let version = rusqlite::version_number();
        if version < OLDEST_SOUND_SQLITE {
            let found = rusqlite::version();
            return Err(StoreError::Unsuitable(format!("SQLite {found} can corrupt a write-ahead log")));
        }
        let path = file::resolve(path)?;
        file::check(&path)?;
        let lock = file::Lock::take(&path)?;
        let content = if file::create_if_missing(&path)? {
            Content::Nothing
        } else {
            schema::inspect(&path, &connect_to_read(&path)?)?
        };
        let mut connection = connect_to_write(&path)?;
        match content {
            Content::Nothing => schema::create(&mut connection)?,
            Content::Current => {}
            Content::Older(version) => backup::before(version, &path, &mut connection, schema::migrate)?,
        }
        let epoch = writer::take_lease(&mut connection)?;
        let (sender, committed) = watch::channel(events::last_id(&connection)?);
        let reader = Arc::new(Mutex::new(Some(connect_to_read(&path)?)));
        let (writes_sender, writes) = watch::channel(Writes::default());
        let (used_sender, used_bytes) = watch::channel(prune::used_bytes(&connection)?);
        let told = Told { committed: sender, writes: writes_sender, used_bytes: used_sender };
        let writer = Some(Writer::start(connection, lock, epoch, told)?);
        Ok(Self { path, writer, reader, committed, writes, used_bytes })
    }

    /// Beside whoever writes, of whom it hears nothing.
    pub(super) fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        let connection = open_for_reading(path)?;
        let (_, committed) = watch::channel(events::last_id(&connection)?);
        let (_, writes) = watch::channel(Writes::default());
        let (_, used_bytes) = watch::channel(prune::used_bytes(&connection)?);
        let reader = Arc::new(Mutex::new(Some(connection)));
        Ok(Self { path: path.to_path_buf(), writer: None, reader, committed, writes, used_bytes })
    }

    /// Queues a step for the next group of commits and waits for its commit.
    pub(super) async fn write<T, F>(&self, step: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let writer = self.writer.as_ref().ok_or(StoreError::OpenToRead)?;
        let (reply, answer) = oneshot::channel();
        writer.queue(step, reply).await?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Runs a step that only reads, in one consistent view.
    pub(super) async fn read<T, F>(&self, step: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let reader = Arc::clone(&self.reader);
        let reading = spawn_blocking(move || {
            let reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            step(reader.as_ref().ok_or(StoreError::Closed)?)
        });
        reading.await.unwrap_or(Err(StoreError::Closed))
    }

    pub(super) fn committed(&self) -> watch::Receiver<LogPosition> {
        self.committed.clone()
    }

    pub(super) fn used_bytes(&self) -> watch::Receiver<u64> {
        self.used_bytes.clone()
    }

    pub(super) fn writes(&self) -> Writes {
        *self.writes.borrow()
    }

    /// Of the file and its write-ahead log; what does not exist counts nothing.
    pub(super) fn size_bytes(&self) -> u64 {
        let size = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
        size(&self.path) + size(&file::beside(&self.path, "-wal"))
    }

    pub(super) async fn close(&self) {
        let reader = Arc::clone(&self.reader);
        let closing =
            spawn_blocking(move || reader.lock().unwrap_or_else(PoisonError::into_inner).take().map(drop));
        // It fails only when the runtime is going down, and then the connection is dropped with the store.
        closing.await.ok();
        if let Some(writer) = &self.writer {
            writer.close().await;
        }
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        // The last connection to be closed removes the write-ahead log: that has to be the writer's.
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// BackoffPolicy for this connection, until it is closed.
pub(super) fn limit_pages(connection: &Connection, pages: u32) -> Result<(), StoreError> {
    Ok(connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?)
}

/// A read-only connection to a sound store of this version, with or without a daemon beside it.
pub(super) fn open_for_reading(path: &Path) -> Result<Connection, StoreError> {
    if !path.exists() {
        return Err(StoreError::Missing(path.to_path_buf()));
    }
    file::check(path)?;
    let connection = connect_to_read(path)?;
    schema::require_current(path, &connection)?;
    Ok(connection)
}

fn connect_to_read(path: &Path) -> Result<Connection, StoreError> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn connect_to_write(path: &Path) -> Result<Connection, StoreError> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
    if mode != "wal" || synchronous != 2 {
        // Network file systems refuse the one; without either, a commit can be lost that was answered.
        let what = format!("journal_mode is {mode}, synchronous is {synchronous}; use a local file system");
        return Err(StoreError::Unsuitable(what));
    }
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", WAL_LEFT_BYTES)?;
    Ok(connection)
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS);
    Ok(connection)
}
