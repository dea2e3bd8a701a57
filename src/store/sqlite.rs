//! The store in one SQLite file: write-ahead log, every commit synced to the disk, one thread that writes.
//!
//! Readers have connections of their own and never wait for the writer. The lock that keeps a second daemon out is a
//! separate file, because SQLite's exclusive mode would shut out `kfwatch events` and sqlite3 as well. The connections are
//! closed before the lock is released.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, Transaction};
use tokio::task::spawn_blocking;

use super::{error::StoreError, published::Published};
use crate::domain::lease::Lease;

mod accounts;
pub(super) mod backup;
mod commit;
mod connection;
mod cursors;
mod dead_letters;
mod error;
mod events;
pub(super) mod export;
mod file;
mod lease;
pub(super) mod placement;
mod prune;
mod readers;
mod registrations;
mod renumber;
pub(super) mod restore;
mod schema;
mod tokens;
mod writer;

pub(super) use self::file::{check_free, resolve_existing};
use self::{
    connection::{connect_to_read, connect_to_write, open_for_reading, roll_back},
    lease::FileLease,
    placement::OpenFiles,
    readers::ReaderPool,
    schema::SchemaState,
    writer::Writer,
};

/// Earlier versions can corrupt the file when two connections write and checkpoint at once.
const OLDEST_SOUND_SQLITE: i32 = 3_051_003;

/// Connections for pages, scrapes and commands.
const SHARED_READERS: usize = 2;

/// Connections for dispatchers, whose reads are short.
const DELIVERY_READERS: usize = 2;

/// An open file with its readers and its writer.
#[derive(Debug)]
pub(super) struct Sqlite {
    path: PathBuf,
    /// `None` if the store is only read.
    writer: Option<Writer>,
    /// For pages, scrapes and commands.
    readers: Arc<ReaderPool>,
    /// For dispatchers.
    delivery_readers: Arc<ReaderPool>,
    pub(super) published: Arc<Published>,
}

/// Inspects a file that is not empty, for its owner. A process that was killed while it created the store has left a rollback journal,
/// which no reader can play back: the write-ahead log begins later.
fn inspect_existing(path: &Path) -> Result<SchemaState, StoreError> {
    let inspect = || schema::inspect(path, &connect_to_read(path)?);
    match inspect() {
        Err(StoreError::ReadOnly { .. }) if file::has_content(&file::with_suffix(path, "-journal")) => {
            roll_back(path)?;
            inspect()
        }
        inspected => inspected,
    }
}

impl Sqlite {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let version = rusqlite::version_number();
        if version < OLDEST_SOUND_SQLITE {
            let found = rusqlite::version();
            return Err(StoreError::Unsuitable(format!("SQLite {found} can corrupt a write-ahead log")));
        }
        let path = file::resolve(path)?;
        placement::check(&path)?;
        file::check(&path)?;
        let lock = file::Lock::take(&path)?;
        let schema =
            if file::create_if_missing(&path)? { SchemaState::Empty } else { inspect_existing(&path)? };
        let mut connection = connect_to_write(&path)?;
        match schema {
            SchemaState::Empty => schema::migrate(&mut connection, 0)?,
            SchemaState::Current => {}
            SchemaState::Older(version) => backup::migrate(version, &path, &mut connection)?,
        }
        let lease = Arc::new(FileLease::acquire(&mut connection)?);
        let files = OpenFiles::of(&path)?;
        if let Some(warning) = placement::hard_link_warning(&path) {
            tracing::warn!("{warning}");
        }
        let readers = ReaderPool::open(&path, SHARED_READERS)?;
        let delivery_readers = ReaderPool::open(&path, DELIVERY_READERS)?;
        let mut store = Self::without_writer(path, &connection, readers, delivery_readers)?;
        store.writer = Some(Writer::start(connection, files, lock, lease, Arc::clone(&store.published))?);
        Ok(store)
    }

    /// Opens the file with or without a running daemon, whose commits are not noticed.
    pub(super) fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        let connection = open_for_reading(path)?;
        // A command reads one thing after the other.
        let readers = ReaderPool::open(path, 1)?;
        Self::without_writer(path.to_path_buf(), &connection, Arc::clone(&readers), readers)
    }

    fn without_writer(
        path: PathBuf,
        connection: &Connection,
        readers: Arc<ReaderPool>,
        delivery_readers: Arc<ReaderPool>,
    ) -> Result<Self, StoreError> {
        let published =
            Arc::new(Published::new(events::last_id(connection)?, prune::used_bytes(connection)?));
        Ok(Self { path, writer: None, readers, delivery_readers, published })
    }

    /// Queues a step for the next group of commits and waits for its commit.
    pub(super) async fn write<T, F>(&self, step: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.writer.as_ref().ok_or(StoreError::OpenToRead)?.write(step).await
    }

    /// What everything asks that acts for the accounts. A store that is only read has a lease that has ended.
    pub(super) fn lease(&self) -> Arc<Lease> {
        let ended = || Arc::new(Lease::until(Duration::ZERO));
        self.writer.as_ref().map_or_else(ended, |writer| Arc::clone(&writer.lease.held.lease))
    }

    /// Waits until the lease has ended, and returns why.
    pub(super) async fn lost(&self) -> StoreError {
        let Some(writer) = &self.writer else { return StoreError::OpenToRead };
        // Reads for dispatchers are short, so that the lease never waits long for a connection.
        writer.lease.ended(&self.delivery_readers).await
    }

    /// The size of the file and its write-ahead log. A missing file counts as empty.
    pub(super) fn size_bytes(&self) -> u64 {
        let size = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
        size(&self.path) + size(&file::with_suffix(&self.path, "-wal"))
    }

    /// See [`Store::limit_pages`](super::Store::limit_pages).
    pub(super) async fn limit_pages(&self, pages: u32) -> Result<(), StoreError> {
        let pragma = format!("PRAGMA max_page_count = {pages}");
        self.write(move |tx| Ok(tx.query_row(&pragma, [], |_| Ok(()))?)).await
    }

    pub(super) async fn close(&self) {
        let pools = [Arc::clone(&self.readers), Arc::clone(&self.delivery_readers)];
        // It fails only when the runtime shuts down, and then the connections are closed with the store.
        spawn_blocking(move || pools.iter().for_each(|pool| pool.close())).await.ok();
        if let Some(writer) = &self.writer {
            writer.close().await;
        }
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        // The connection that is closed last removes the write-ahead log, so it has to be the writer's.
        self.readers.close();
        self.delivery_readers.close();
    }
}
