//! The durable state: accounts with their snapshots, the event log, the cursors of the sinks.
//!
//! An event and the snapshot that it results from are stored in one transaction. Every method is one business step and
//! one transaction. Its doc comment states its guarantees, and the contract tests check every backend against them. Steps
//! that write go through one queue to one writer, which commits the queued steps together. A caller gets its result after
//! the commit, never before. If a commit fails, nothing of it is stored, every caller of the group gets the error, and the
//! next group starts afresh.
//!
//! The store decides nothing about sessions: it compares no responses and reads no clock.
//!
//! The backend is one SQLite file with one owner. Another backend (PostgreSQL, with shards leased to several machines) must
//! provide: the methods below with their guarantees; the check of the lease's epoch in the transaction of each commit, so
//! that an owner that was paused writes nothing; positions that rise within a shard in the order in which readers can see
//! the events; and sequences and positions that are never used again.

use std::{collections::HashMap, path::Path, sync::Arc};

use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::{Semaphore, watch};

mod backup;
mod delivery;
mod error;
mod event_log;
mod sqlite;
mod types;

pub use backup::{BackupProblem, BackupSummary, CopyObserver, CopyProgress, RestoreSummary};
pub use error::StoreError;
pub use event_log::EventLog;
pub use types::*;

use self::sqlite::{Sqlite, accounts, commit, events, prune, tokens};
use crate::domain::account::Account;

/// Events that are rendered and wait for their commit: some three megabytes. The first poll of a kf account has events for
/// all its sessions; one with more events than this limit waits until no other is rendered.
const MAX_RENDERED_EVENTS: usize = 4096;

/// The open store. Clones share it. When the last one is dropped, queued steps are committed and the file is released.
#[derive(Clone, Debug)]
pub struct Store {
    sqlite: Arc<Sqlite>,
    /// One permit for each event that may be rendered.
    rendering: Arc<Semaphore>,
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

    /// Registers the configured accounts, each given once: inserts new ones, updates names of official accounts, and loads
    /// what is stored about all accounts that concern the daemon. Idempotent.
    pub async fn register_accounts(&self, accounts: Vec<Account>) -> Result<RegisteredAccounts, StoreError> {
        self.sqlite.write(move |tx| accounts::register(tx, accounts)).await
    }

    /// Registers additional accounts, each given once, and leaves the present ones as they are. Inserts new ones and loads
    /// what is stored about the others. Returns them in the same order. All or nothing; idempotent.
    pub async fn add_accounts(&self, accounts: Vec<Account>) -> Result<Vec<StoredAccount>, StoreError> {
        self.sqlite.write(move |tx| accounts::add(tx, accounts)).await
    }

    /// Commits the last changes of accounts that leave, each as [`commit_poll`](Self::commit_poll) does, and marks them as
    /// not configured: [`watched_accounts`](Self::watched_accounts) no longer returns them, and their snapshots expire. All
    /// or nothing, for all of them; idempotent; skips unknown accounts.
    pub async fn remove_accounts(&self, leaving: Vec<PollCommit>) -> Result<(), StoreError> {
        self.sqlite.write(move |tx| commit::remove_accounts(tx, &leaving)).await
    }

    /// The accounts that were registered and have not left since, in the order of their first registration.
    pub async fn watched_accounts(&self) -> Result<Vec<Account>, StoreError> {
        self.sqlite.read(accounts::watched).await
    }

    /// All accounts that were ever registered, as they are stored.
    pub async fn stored_accounts(&self) -> Result<Vec<StoredAccount>, StoreError> {
        self.sqlite.read(accounts::stored).await
    }

    /// Commits what one poll changed: numbers and appends its events, applies them to the stored snapshot, and replaces the
    /// account's record. All or nothing.
    ///
    /// A change that the stored snapshot or state already shows makes no event. So a commit whose result was lost (because
    /// its future was dropped, for example) can be repeated.
    pub async fn commit_poll(&self, commit: PollCommit) -> Result<Committed, StoreError> {
        let events = commit.changes.len().min(MAX_RENDERED_EVENTS) as u32;
        // Released when the step has been applied.
        let permits = Arc::clone(&self.rendering).acquire_many_owned(events).await;
        let drafts = commit::drafts(&commit);
        let committed = self.sqlite.write(move |tx| {
            let _permits = permits;
            commit::commit_poll(tx, &commit, drafts)
        });
        let committed = committed.await?;
        committed.ok_or(StoreError::UnknownAccount)
    }

    /// Stores when accounts whose polls changed nothing were last seen. Idempotent; skips unknown accounts.
    pub async fn record_last_seen(&self, updates: Vec<LastSeenUpdate>) -> Result<(), StoreError> {
        self.sqlite.write(move |tx| accounts::record_last_seen(tx, &updates)).await
    }

    /// The events after `after` in the order of the log, at most `limit`.
    pub async fn read_events_after(
        &self,
        after: LogPosition,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.sqlite.read(move |connection| events::read_after(connection, after, limit)).await
    }

    /// The events at these positions that the log still has, in the order of the log. For dispatchers.
    pub async fn read_events_at(&self, positions: Vec<LogPosition>) -> Result<Vec<StoredEvent>, StoreError> {
        self.sqlite.read_for_delivery(move |connection| events::read_by_id(connection, &positions)).await
    }

    /// The first matching events, at most `limit`, and how far the log was scanned. For dispatchers.
    pub async fn read_events(&self, filter: EventFilter, limit: usize) -> Result<EventPage, StoreError> {
        self.sqlite
            .read_for_delivery(move |connection| events::read_matching(connection, &filter, limit))
            .await
    }

    /// Stores when an access token of the official account was last fetched.
    pub async fn record_token_fetch(&self, appid: &str, at: Timestamp) -> Result<(), StoreError> {
        let appid = appid.to_owned();
        self.sqlite.write(move |tx| tokens::record_fetch(tx, &appid, at)).await
    }

    /// When an access token was last fetched, by appid.
    pub async fn token_fetches(&self) -> Result<HashMap<String, Timestamp>, StoreError> {
        self.sqlite.read(tokens::fetches).await
    }

    /// Stores the refresh token of the official account and replaces the previous one. Idempotent.
    pub async fn store_refresh_token(
        &self,
        appid: &str,
        token: &SecretString,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let (appid, token) = (appid.to_owned(), token.clone());
        self.sqlite.write(move |tx| tokens::store_refresh_token(tx, &appid, &token, at)).await
    }

    /// The stored refresh tokens, by appid.
    pub async fn refresh_tokens(&self) -> Result<HashMap<String, SecretString>, StoreError> {
        self.sqlite.read(tokens::refresh_tokens).await
    }

    /// Removes what is older than the limits, in small transactions between which polls are committed: events that every
    /// configured sink has delivered (suspended ones miss them), snapshots of unwatched accounts, dead letters, removed sinks.
    /// Positions and sequences are not used again. If it fails halfway, the next call continues.
    pub async fn prune(&self, limits: PruneLimits) -> Result<Pruned, StoreError> {
        let mut total = Pruned::default();
        loop {
            let batch = self.sqlite.write(move |tx| prune::prune_batch(tx, limits)).await?;
            total += batch.pruned;
            if !batch.more {
                return Ok(total);
            }
        }
    }

    /// Removes one batch of the oldest events that every configured sink has delivered (suspended ones miss them), whatever
    /// their age. Call it again until there is enough room.
    pub async fn make_room(&self, limit: SizeLimit) -> Result<RoomOutcome, StoreError> {
        self.sqlite.write(move |tx| prune::make_room(tx, limit)).await
    }

    /// The number of events in the log. The cost does not grow with that number.
    pub async fn count_events(&self) -> Result<u64, StoreError> {
        self.sqlite.read(|connection| events::count_after(connection, LogPosition::BEGINNING)).await
    }

    /// The used bytes of the file, and a wake-up whenever they change. Free pages are used again, so that the file does not
    /// grow beyond the most that was ever used.
    pub fn used_bytes(&self) -> watch::Receiver<u64> {
        self.sqlite.used_bytes()
    }

    /// The newest committed event, and a wake-up whenever there is a newer one.
    pub fn committed(&self) -> watch::Receiver<LogPosition> {
        self.sqlite.committed()
    }

    /// How transactions succeed.
    pub fn write_stats(&self) -> WriteStats {
        self.sqlite.write_stats()
    }

    /// The size of the file and its write-ahead log on the disk.
    pub fn size_bytes(&self) -> u64 {
        self.sqlite.size_bytes()
    }

    /// For tests: limits the size of the file to so many pages, like a full disk.
    #[doc(hidden)]
    pub async fn limit_pages(&self, pages: u32) -> Result<(), StoreError> {
        self.sqlite.write(move |tx| sqlite::limit_pages(tx, pages)).await
    }

    /// Commits queued steps, checkpoints the write-ahead log, and releases the file to another owner. Later calls fail with
    /// [`StoreError::Closed`]. Idempotent.
    pub async fn close(&self) {
        self.sqlite.close().await;
    }

    fn from_sqlite(sqlite: Sqlite) -> Self {
        Self { sqlite: Arc::new(sqlite), rendering: Arc::new(Semaphore::new(MAX_RENDERED_EVENTS)) }
    }
}
