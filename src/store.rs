//! The durable state: accounts with their snapshots, the event log, the cursors of the sinks.
//!
//! The backends are one SQLite file with one owner (`sqlite`), and a PostgreSQL database whose shards are leased to replicas
//! (`postgres`). Each method is one business step; its doc comment states what is atomic and what is idempotent, and the contract
//! tests check both backends. A caller gets its result after the commit, never before.
//!
//! An event and the snapshot that it results from are stored together or not at all. Every write checks that this process still owns
//! what it writes to, so that an owner that was paused and replaced writes nothing. Positions rise within a shard in the order in which
//! readers can see the events; positions and sequences are never used again.
//!
//! The store decides nothing about sessions: it compares no responses and reads no wall clock.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
};
use uuid::Uuid;

/// Calls whichever backend the store has.
macro_rules! on_backend {
    ($store:expr, $backend:ident => $call:expr) => {
        match &$store.backend {
            $crate::store::Backend::Sqlite($backend) => $call,
            $crate::store::Backend::Postgres($backend) => $call,
        }
    };
}

mod accounts;
mod backup;
mod convert;
mod delivery;
mod error;
mod events;
mod import;
mod lease;
mod log;
mod maintenance;
mod merged_log;
mod postgres;
mod published;
mod sqlite;
mod tokens;
mod types;

pub use backup::{BackupProblem, BackupSummary, CopyObserver, CopyProgress, RestoreSummary};
pub use delivery::sinks_of;
pub use error::{FileChange, StoreError};
pub use import::{ImportProblem, ImportSummary};
pub use merged_log::MergedLog;
pub use postgres::{Heartbeat, LivingReplica, PostgresOptions, ReplicaInfo};
pub use sqlite::export::ImportSource;
pub use types::*;

use self::{
    accounts::MAX_RENDERED_EVENTS,
    postgres::{Database, Shard},
    published::Published,
    sqlite::Sqlite,
};
use crate::domain::{
    lease::Lease,
    shard::ShardNumber,
    shared_token::{SealedToken, SharedToken},
};

/// The open store: a file, or one shard. Clones share it. When the last one is dropped, SQLite commits queued steps and releases the
/// file; a shard has to be [closed](Self::close).
#[derive(Clone, Debug)]
pub struct Store {
    backend: Backend,
    published: Arc<Published>,
    /// One permit for each event that may be rendered.
    rendering: Arc<Semaphore>,
}

/// Where the store is.
#[derive(Clone, Debug)]
enum Backend {
    Sqlite(Arc<Sqlite>),
    Postgres(Arc<Shard>),
}

impl Store {
    /// Opens the store, or creates it with mode 0600. Takes the lock that keeps a second daemon out, and raises the epoch
    /// of the shard's lease, so that commits of a previous owner that still runs fail. A store of an older version is copied
    /// (`kfwatch.db-backup-v1`) and migrated. A file that is not a sound store of a known version is rejected unchanged.
    ///
    /// Blocks for as long as the file system takes.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::from_sqlite(Sqlite::open(path)?))
    }

    /// Opens an existing store for reading, with or without a running daemon: takes no lock, raises no epoch and migrates
    /// nothing. Rejects the same files as [`open`](Self::open), and one of an older version. Steps that write fail with
    /// [`StoreError::OpenToRead`].
    pub fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::from_sqlite(Sqlite::open_to_read(path)?))
    }

    /// Whether there is a file to open. Fails if a link to it leads to nothing.
    pub fn exists(path: &Path) -> Result<bool, StoreError> {
        match sqlite::resolve_existing(path) {
            Ok(_) => Ok(true),
            Err(StoreError::Missing(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What keeps this process from opening the store, or from creating it: mount points, links, missing directories and permissions,
    /// a read-only file system, a file of another program. Changes nothing.
    pub fn problem_at(path: &Path) -> Option<StoreError> {
        sqlite::placement::problem(path)
    }

    /// What endangers the store at this path, although it can be opened.
    pub fn warning_at(path: &Path) -> Option<String> {
        sqlite::placement::hard_link_warning(path)
    }

    /// Fails with [`StoreError::Locked`] if another process has locked the store. Creates nothing.
    pub fn check_free(path: &Path) -> Result<(), StoreError> {
        sqlite::check_free(path)
    }

    /// Copies the store to a new file, as it was at one moment, with or without a running daemon. The daemon continues to
    /// commit; its write-ahead log grows meanwhile. The file has mode 0600 and gets its name when it is complete, checked and
    /// synced. If this fails, it leaves no file.
    ///
    /// Blocks for as long as the copy takes.
    pub fn back_up(path: &Path, to: &Path, observer: &CopyObserver) -> Result<BackupSummary, StoreError> {
        sqlite::backup::back_up(path, to, observer)
    }

    /// Replaces the store by a backup while no daemon runs on it. The previous store is kept next to it; if this fails or
    /// is killed, the previous store is unchanged. Sequences, positions and the epoch of the lease continue after all that
    /// were used since the backup was made; everything else is as in the backup. A backup of an older version is migrated.
    ///
    /// Blocks for as long as the copy takes.
    pub fn restore(
        path: &Path,
        from: &Path,
        now: Timestamp,
        observer: &CopyObserver,
    ) -> Result<RestoreSummary, StoreError> {
        sqlite::restore::restore(path, from, now, observer)
    }

    /// The used bytes of the file, and a wake-up whenever they change. Free pages are used again, so that the file does not
    /// grow beyond the most that was ever used. Of a shard, an estimate of what its events take.
    pub fn used_bytes(&self) -> watch::Receiver<u64> {
        self.published.used_bytes.subscribe()
    }

    /// The newest committed event, and a wake-up whenever there is a newer one.
    pub fn committed(&self) -> watch::Receiver<LogPosition> {
        self.published.committed.subscribe()
    }

    /// Whether the last transaction succeeded, and how many have failed.
    pub fn write_stats(&self) -> WriteStats {
        *self.published.write_stats.borrow()
    }

    /// Why the last transaction failed; `None` if it was committed.
    pub fn write_failure(&self) -> Option<StoreError> {
        self.published.write_failure.borrow().clone()
    }

    /// The size of the file and its write-ahead log on the disk; of a shard, its used bytes.
    pub fn size_bytes(&self) -> u64 {
        on_backend!(self, store => store.size_bytes())
    }

    /// Whether this process may act for the accounts of the store. Never trusted again once the store is
    /// [lost](Self::lost) or closed; never if the store was opened for reading.
    pub fn lease(&self) -> Arc<Lease> {
        on_backend!(self, store => store.lease())
    }

    /// Waits until the store is lost for good, and returns why: another process has taken it over
    /// ([`LeaseLost`](StoreError::LeaseLost)), its database has lost commits ([`EventsLost`](StoreError::EventsLost)), its writer has [panicked](StoreError::WriterPanicked), or it was
    /// [closed](Self::close). The lease is revoked by then. A commit notices the first at once. Without commits, SQLite
    /// notices it within a second, as long as someone waits here, and PostgreSQL at the next heartbeat.
    ///
    /// A deleted or replaced file is not lost for good: it may be moved back. Until then nothing is stored, and no other process
    /// has the events that were committed before, so that they are still to be delivered.
    pub async fn lost(&self) -> StoreError {
        on_backend!(self, store => store.lost().await)
    }

    /// For tests: limits the size of the file to so many pages, like a full disk.
    #[doc(hidden)]
    pub async fn limit_pages(&self, pages: u32) -> Result<(), StoreError> {
        match &self.backend {
            Backend::Sqlite(store) => store.limit_pages(pages).await,
            Backend::Postgres(_) => Err(StoreError::Unsuitable("only a file has pages".to_owned())),
        }
    }

    /// Commits queued steps, checkpoints the write-ahead log of a file, and releases the file or the shard to another owner. Later calls fail with
    /// [`StoreError::Closed`], except that everyone may read a shard. Idempotent.
    pub async fn close(&self) {
        on_backend!(self, store => store.close().await);
    }

    fn from_sqlite(sqlite: Sqlite) -> Self {
        Self::new(Arc::clone(&sqlite.published), Backend::Sqlite(Arc::new(sqlite)))
    }

    fn new(published: Arc<Published>, backend: Backend) -> Self {
        Self { backend, published, rendering: Arc::new(Semaphore::new(MAX_RENDERED_EVENTS)) }
    }
}

/// The connections of one replica to a store in PostgreSQL.
#[derive(Clone, Debug)]
pub struct Cluster {
    database: Arc<Database>,
}

impl Cluster {
    /// Connects to the database, and creates the schema or migrates an older one. A server on which an acknowledged commit could be
    /// lost, and a schema of a newer version, are rejected unchanged.
    pub async fn connect(options: PostgresOptions) -> Result<Self, StoreError> {
        Ok(Self { database: Arc::new(Database::connect(options).await?) })
    }

    /// Connects for reading only: changes no schema, and becomes no replica. A schema of another version is rejected.
    pub async fn connect_to_read(options: PostgresOptions) -> Result<Self, StoreError> {
        Ok(Self { database: Arc::new(Database::connect_to_read(options).await?) })
    }

    /// Connects as a daemon does, and returns the names of the replicas that are alive. Changes nothing, also where there is no schema
    /// yet. Rejects the same servers and schemas as [`connect`](Self::connect).
    pub async fn examine(options: PostgresOptions) -> Result<Vec<String>, StoreError> {
        Database::examine(options).await
    }

    /// Moves a SQLite store into a schema, which is created if it does not exist. Refresh tokens are written as given here for each
    /// appid, because replicas share them encrypted; those of other appids are left out. All or nothing. Fails if the schema is not
    /// empty, or if a replica is alive.
    ///
    /// Blocks for as long as it takes. To be called within a runtime, on a thread that may block.
    pub fn import(
        options: PostgresOptions,
        source: &ImportSource,
        refresh_tokens: &HashMap<String, String>,
        observer: &CopyObserver,
    ) -> Result<ImportSummary, StoreError> {
        Handle::current().block_on(postgres::import(options, source, refresh_tokens, observer))
    }

    /// Opens all shards for reading, whoever owns them, except those that `is_excluded` selects. Steps that write fail with
    /// [`StoreError::OpenToRead`].
    pub fn shards_to_read(&self, is_excluded: impl Fn(ShardNumber) -> bool) -> Vec<Store> {
        let shards = ShardNumber::all().filter(|shard| !is_excluded(*shard));
        shards.map(|shard| Self::opened(Shard::to_read(&self.database, shard))).collect()
    }

    fn opened(shard: Shard) -> Store {
        Store::new(Arc::clone(shard.published()), Backend::Postgres(Arc::new(shard)))
    }

    /// The id of this replica; a new one at each start.
    pub fn replica(&self) -> Uuid {
        self.database.replica()
    }

    /// Records that this replica is alive, and returns what the database knows about the cluster. To be called every second: leases of the shards that this
    /// replica still owns are extended, those of the others end. `sent_at` is the present time of the monotonic clock.
    ///
    /// Fails with [`StoreError::SameName`] if a replica with the same name has started later. All leases have ended then.
    pub async fn send_heartbeat(
        &self,
        info: &ReplicaInfo,
        sent_at: Duration,
    ) -> Result<Heartbeat, StoreError> {
        self.database.send_heartbeat(info, sent_at).await
    }

    /// Makes this replica the owner of these shards and opens them, as far as no living replica owns them and nobody is writing to
    /// them at this moment. Each is released when its store is closed.
    pub async fn acquire_shards(
        &self,
        info: &ReplicaInfo,
        shards: &[ShardNumber],
    ) -> Result<Vec<(ShardNumber, Store)>, StoreError> {
        let taken = self.database.acquire_shards(info, shards).await?;
        Ok(taken.into_iter().map(|shard| (shard.number(), Self::opened(shard))).collect())
    }

    /// Writes a command for all replicas, and returns its id.
    pub async fn ask_replicas(&self, command: &str) -> Result<Uuid, StoreError> {
        self.database.ask_replicas(command).await
    }

    /// The commands of the last minute that this replica has not answered.
    pub async fn unanswered_commands(&self) -> Result<Vec<(Uuid, String)>, StoreError> {
        self.database.unanswered_commands().await
    }

    /// Writes the answer of this replica to a command.
    pub async fn answer(&self, command: Uuid, answer: &str) -> Result<(), StoreError> {
        self.database.answer(command, answer).await
    }

    /// The answers to a command so far, each with its replica.
    pub async fn answers(&self, command: Uuid) -> Result<Vec<(Uuid, String)>, StoreError> {
        self.database.answers(command).await
    }

    /// The names of the sinks that are stopped or suspended.
    pub async fn stopped_sinks(&self) -> Result<Vec<String>, StoreError> {
        self.database.stopped_sinks().await
    }

    /// What the replicas share about the token of a component.
    pub async fn component_token(&self, component: &str) -> Result<SharedToken, StoreError> {
        self.database.component_token(component).await
    }

    /// Claims the fetch of the token after `generation`, for at most `time`. Returns whether that succeeded: there is no newer token, no
    /// other replica has claimed it, and the last claim is at least `min_interval` ago.
    pub async fn claim_component_token(
        &self,
        component: &str,
        generation: i64,
        min_interval: Duration,
        time: Duration,
    ) -> Result<bool, StoreError> {
        self.database.claim_component_token(component, generation, min_interval, time).await
    }

    /// Publishes the token after `generation` and ends the claim. Without a token, only ends the claim. Does nothing if another replica
    /// has claimed the fetch since.
    pub async fn publish_component_token(
        &self,
        component: &str,
        generation: i64,
        token: Option<SealedToken>,
    ) -> Result<(), StoreError> {
        self.database.publish_component_token(component, generation, token).await
    }

    /// Ends the database sessions of a replica that is not alive. To be called if a shard of it cannot be acquired for several
    /// heartbeats: the rest of a statement was lost on the network, PostgreSQL waits for it, and keeps the shard locked.
    pub async fn end_sessions_of(&self, replica: Uuid) -> Result<(), StoreError> {
        self.database.end_sessions_of(replica).await
    }
}
