//! What must survive: accounts with their snapshots, the event log, the cursors of the sinks.
//!
//! An event exists when the transaction commits that also stores the new snapshot. Every method is one business step
//! and one transaction; what a step promises stands at its method, and `tests/store.rs` holds every backend to it.
//! Steps that write pass through one queue to one writer, which commits those that wait together: a caller has its
//! answer after the commit, never before. When a commit fails, nothing of it is stored, every caller of the group is
//! told, and the next group starts afresh.
//!
//! The store decides nothing about sessions: it compares no answers and reads no clock.
//!
//! Today the backend is one SQLite file with one owner. Another one (PostgreSQL, with shards leased to several
//! machines) has to keep: the methods below with their promises; the check of the lease's epoch in the transaction of
//! each commit, so that an owner that was paused writes nothing; event ids that rise within a shard in the order in
//! which readers can see them; and sequences and ids that are never used again.

use std::{collections::HashMap, path::Path, sync::Arc};

use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::{Semaphore, watch};

mod backup;
mod error;
mod event_log;
mod sinks;
mod sqlite;
mod types;

pub use backup::{BackupProblem, BackupSummary, Copied, Observer, Restored};
pub use error::StoreError;
pub use event_log::{EventFilter, EventLog, EventPage};
pub use types::*;

use self::sqlite::{Sqlite, accounts, commit, events, prune, tokens};
use crate::domain::account::Account;

/// Events that are rendered and wait to be committed: some three megabytes. Kf accounts that are seen for the first time bring all
/// their sessions; one that brings more than this waits until no other is rendered.
const MAX_RENDERED_EVENTS: usize = 4096;

/// The open store. Clones share it; when the last one is dropped, what is queued is committed and the file is free.
#[derive(Clone, Debug)]
pub struct Store {
    sqlite: Arc<Sqlite>,
    /// Room for events that are rendered.
    rendering: Arc<Semaphore>,
}

impl Store {
    /// Opens the store, or creates it with mode 0600. Takes the lock that keeps a second daemon out and raises the
    /// epoch of the shard's lease, so that a former owner that still runs writes nothing any more. A store of an older
    /// version is migrated, after a copy of it was made beside it (`kfwatch.db-backup-v1`). A file that is not a sound
    /// store of a known version is refused and left as it is.
    ///
    /// Blocks for as long as the file system takes.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::of(Sqlite::open(path)?))
    }

    /// Opens an existing store to look into it, with or without a daemon beside: takes no lock, raises no epoch, and migrates
    /// nothing. Refuses the same files as [`open`](Self::open), and one of an older version. What would write fails with
    /// [`StoreError::OpenToRead`].
    pub fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::of(Sqlite::open_to_read(path)?))
    }

    /// Makes a copy of the store in a new file, as it was at one moment, while a daemon runs on it or not. The daemon goes
    /// on committing; its write-ahead log grows meanwhile. The file has mode 0600 and gets its name when it is whole,
    /// checked and synced; when this fails, nothing is left of it.
    ///
    /// Blocks for as long as it takes.
    pub fn back_up(path: &Path, to: &Path, observer: &Observer) -> Result<BackupSummary, StoreError> {
        sqlite::backup::take(path, to, observer)
    }

    /// Puts a backup in the store's place, while no daemon runs on it. The store before is kept beside it, and if this fails
    /// or is killed, it still is the store. Sequences, ids of events and the epoch of the lease go on behind all that were
    /// used since the backup was made; the rest is as of the backup. One of an older version is migrated.
    ///
    /// Blocks for as long as it takes.
    pub fn restore(
        path: &Path,
        from: &Path,
        now: Timestamp,
        observer: &Observer,
    ) -> Result<Restored, StoreError> {
        sqlite::restore::restore(path, from, now, observer)
    }

    /// Brings the configured accounts in, each given once: inserts those not seen before, takes over changed names of
    /// official accounts, and loads what is stored of all that concern the daemon. Idempotent.
    pub async fn register_accounts(&self, accounts: Vec<Account>) -> Result<RegisteredAccounts, StoreError> {
        self.sqlite.write(move |tx| accounts::register(tx, accounts)).await
    }

    /// Brings accounts in, each given once, that are watched from now on beside the present ones, which stay as they are:
    /// inserts those not seen before, takes the others up again with what is stored of them. Gives them in the same
    /// order. All or nothing; idempotent.
    pub async fn add_accounts(&self, accounts: Vec<Account>) -> Result<Vec<StoredAccount>, StoreError> {
        self.sqlite.write(move |tx| accounts::add(tx, accounts)).await
    }

    /// Commits what leaving makes of accounts, each as [`commit_poll`](Self::commit_poll) does, and lets them count as
    /// configured no longer: they are not among [`watched_accounts`](Self::watched_accounts) any more, and their
    /// snapshots are kept only for a time. All or nothing, for all of them; idempotent; unknown accounts are passed over.
    pub async fn remove_accounts(&self, leaving: Vec<PollCommit>) -> Result<(), StoreError> {
        self.sqlite.write(move |tx| commit::remove_accounts(tx, &leaving)).await
    }

    /// The accounts that were brought in and have not left since, in the order in which they first came; without their
    /// snapshots. Changes nothing.
    pub async fn watched_accounts(&self) -> Result<Vec<Account>, StoreError> {
        self.sqlite.read(accounts::watched).await
    }

    /// All accounts that were ever brought in, as they are stored. Changes nothing.
    pub async fn stored_accounts(&self) -> Result<Vec<StoredAccount>, StoreError> {
        self.sqlite.read(accounts::stored).await
    }

    /// Commits what one poll changed: numbers and appends its events, moves the stored snapshot along with them, and
    /// replaces the account's record. All or nothing.
    ///
    /// A change that the stored snapshot or state already shows makes no event. So a commit whose answer was lost
    /// (its future was dropped, say) can be repeated.
    pub async fn commit_poll(&self, commit: PollCommit) -> Result<Committed, StoreError> {
        let events = commit.changes.len().min(MAX_RENDERED_EVENTS) as u32;
        // Given back when the step has been applied.
        let room = Arc::clone(&self.rendering).acquire_many_owned(events).await;
        let drafts = commit::drafts(&commit);
        let committed = self.sqlite.write(move |tx| {
            let _room = room;
            commit::commit_poll(tx, &commit, drafts)
        });
        let committed = committed.await?;
        committed.ok_or(StoreError::UnknownAccount)
    }

    /// Stores when accounts whose polls changed nothing were last seen. Idempotent; unknown accounts are passed over.
    pub async fn record_sightings(&self, sightings: Vec<LastSeenUpdate>) -> Result<(), StoreError> {
        self.sqlite.write(move |tx| accounts::record_sightings(tx, &sightings)).await
    }

    /// The events after `after` in the order of their ids, at most `limit`.
    pub async fn read_events_after(
        &self,
        after: LogPosition,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.sqlite.read(move |connection| events::read_after(connection, after, limit)).await
    }

    /// Those of these events that the log has, in the order of the log.
    pub async fn read_these_events(&self, ids: Vec<LogPosition>) -> Result<Vec<StoredEvent>, StoreError> {
        self.sqlite.read(move |connection| events::read_these(connection, &ids)).await
    }

    /// The first events that match, at most `limit`, and how far was looked; one consistent view of the log.
    pub async fn read_events(&self, filter: EventFilter, limit: usize) -> Result<EventPage, StoreError> {
        self.sqlite.read(move |connection| events::read_matching(connection, &filter, limit)).await
    }

    /// Remembers across restarts when an access token of the official account was last fetched.
    pub async fn record_token_fetch(&self, appid: &str, at: Timestamp) -> Result<(), StoreError> {
        let appid = appid.to_owned();
        self.sqlite.write(move |tx| tokens::record_fetch(tx, &appid, at)).await
    }

    /// When an access token was last fetched, by appid.
    pub async fn token_fetches(&self) -> Result<HashMap<String, Timestamp>, StoreError> {
        self.sqlite.read(tokens::fetches).await
    }

    /// Keeps the refresh token of the official account for good, in place of a former one. Idempotent.
    pub async fn store_refresh_token(
        &self,
        appid: &str,
        token: &SecretString,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let (appid, token) = (appid.to_owned(), token.clone());
        self.sqlite.write(move |tx| tokens::store_refresh_token(tx, &appid, &token, at)).await
    }

    /// The refresh tokens that are kept, by appid.
    pub async fn refresh_tokens(&self) -> Result<HashMap<String, SecretString>, StoreError> {
        self.sqlite.read(tokens::refresh_tokens).await
    }

    /// Removes what has outlived its time, in small transactions between which polls are committed: events that every
    /// present sink has delivered (but for suspended ones, whose gap grows), snapshots of unwatched accounts, dead letters, removed
    /// sinks. Ids and sequences are not used again. When it fails half way, what was removed so far stays removed, and
    /// the next call goes on.
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

    /// One step towards a smaller store: removes the oldest events that every present sink has delivered, however young they
    /// are; suspended sinks hold nothing back, and their gap grows. To be repeated until there is enough room.
    pub async fn make_room(&self, limits: RoomLimits) -> Result<Room, StoreError> {
        self.sqlite.write(move |tx| prune::make_room(tx, limits)).await
    }

    /// How many events the log has. Reading it costs the same however many that is.
    pub async fn count_events(&self) -> Result<u64, StoreError> {
        self.sqlite.read(|connection| events::count_after(connection, LogPosition::BEGINNING)).await
    }

    /// How many bytes of the file are in use, and a wake-up whenever that changes. What was removed leaves room in the file that
    /// is used again, so that the file does not grow beyond the most that was ever in use.
    pub fn used_bytes(&self) -> watch::Receiver<u64> {
        self.sqlite.used_bytes()
    }

    /// The newest committed event, and a wake-up whenever there is a newer one.
    pub fn committed(&self) -> watch::Receiver<LogPosition> {
        self.sqlite.committed()
    }

    /// How writing goes.
    pub fn writes(&self) -> Writes {
        self.sqlite.writes()
    }

    /// The size of the file and its write-ahead log on the disk.
    pub fn size_bytes(&self) -> u64 {
        self.sqlite.size_bytes()
    }

    /// For tests: lets the file grow to so many pages and no further, like a disk that is full then.
    #[doc(hidden)]
    pub async fn limit_pages(&self, pages: u32) -> Result<(), StoreError> {
        self.sqlite.write(move |tx| sqlite::limit_pages(tx, pages)).await
    }

    /// Commits all that is queued, folds the write-ahead log into the file, and frees the file for another owner. Later
    /// calls fail with [`StoreError::Closed`]. Idempotent.
    pub async fn close(&self) {
        self.sqlite.close().await;
    }

    fn of(sqlite: Sqlite) -> Self {
        Self { sqlite: Arc::new(sqlite), rendering: Arc::new(Semaphore::new(MAX_RENDERED_EVENTS)) }
    }
}
