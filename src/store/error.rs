//! Errors of the store, distinguished as far as a caller or an operator can do something about them.
//!
//! Each caller of a failed group of commits gets the error, so errors can be cloned.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{backup::BackupProblem, import::ImportProblem};

/// What went wrong, and what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what happened")]
pub enum StoreError {
    #[error("the directory {} does not exist: mount its file system, or create it for a new store", .0.display())]
    NoDirectory(PathBuf),
    #[error(
        "{} is a link to {}, which does not exist: mount its file system or correct the link; for a new store, create an empty \
         file there",
        link.display(), target.display()
    )]
    DanglingLink { link: PathBuf, target: PathBuf },
    #[error(
        "{} is itself a mount point: mount the directory {} instead, because SQLite keeps the newest commits in other files next \
         to it",
        path.display(), directory.display()
    )]
    MountPoint { path: PathBuf, directory: PathBuf },
    #[error("{} was {change} while it was open, so nothing is stored any more: {}", path.display(), how_to_continue(path))]
    Displaced { path: PathBuf, change: FileChange },
    #[error("there is no store at {}: start the daemon first, or set store.path to its file", .0.display())]
    Missing(PathBuf),
    #[error("{} is not a regular file: set store.path to a file", .0.display())]
    NotAFile(PathBuf),
    #[error("no permission to read and write {}: run as its owner, or change the owner of the file and its directory", path.display())]
    Permission { path: PathBuf, source: Arc<io::Error> },
    #[error("the store is read-only: mount its file system for writing")]
    ReadOnly { source: Cause },
    // Another store would let both daemons watch the same accounts.
    #[error("{} is in use by {}: stop it first, or let it run", path.display(), owner(*pid))]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error("{} was written by a newer kfwatch (schema {found}, this one knows {known}): upgrade kfwatch; an older backup would lose what happened since", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("{} was written by an older kfwatch (schema {found}, this one reads {known}): start the daemon once, which migrates it", path.display())]
    Older { path: PathBuf, found: i64, known: i64 },
    #[error("there are too many copies {}-*: keep the newest, and move the others away", .0.display())]
    TooManyBackups(PathBuf),
    #[error(
        "{} is not a store of kfwatch ({what}): if it is a damaged one, restore a backup with `kfwatch restore FILE`; \
         otherwise correct store.path",
        path.display()
    )]
    Foreign { path: PathBuf, what: &'static str },
    #[error(
        "the store is damaged: restore a backup with `kfwatch restore FILE`; without one, move the file away with its -wal and \
         -shm, and start with a new store"
    )]
    Corrupt { source: Cause },
    #[error("the disk of the store is full: free some space; commits then resume by themselves")]
    Full { source: Cause },
    #[error("the store cannot be read or written: check its disk and file system")]
    Unavailable { source: Cause },
    #[error(
        "the database cannot be reached: check its server and the network; kfwatch connects again by itself"
    )]
    Unreachable { source: Cause },
    #[error("the database is a standby, which cannot be written to: connect to the primary")]
    NotPrimary,
    #[error(
        "the database has lost {events} events that it had acknowledged: a standby without them was promoted; the next polls report \
         sessions that are still open again; set synchronous_standby_names to prevent this"
    )]
    EventsLost { events: u64 },
    #[error("the database cannot keep a store safely: {0}")]
    WrongServer(String),
    #[error("no encrypted connection to the database: {0}")]
    Tls(String),
    #[error(
        "the database refused the login or a statement: check the name of the database, the role, its password and its \
         privileges"
    )]
    DatabaseRefused { source: Cause },
    #[error(
        "the database rejected what is to be stored: make sure that nothing else writes to the schema; otherwise report this \
         message as a bug"
    )]
    Rejected { source: Cause },
    #[error(
        "the schema {schema} was written by a newer kfwatch (schema {found}, this one knows {known}): upgrade kfwatch"
    )]
    NewerSchema { schema: String, found: i32, known: i32 },
    #[error(
        "another replica is called {name}, too (its page: {address}), and started later, so this one has to stop: give each \
         replica a cluster.name of its own"
    )]
    SameName { name: String, address: String },
    #[error("{}: {problem}", path.display())]
    Backup { path: PathBuf, problem: BackupProblem },
    #[error("{place}: {problem}")]
    Import { place: String, problem: ImportProblem },
    #[error("{} is open in another program: end every `kfwatch events` and sqlite3 that reads it first", .0.display())]
    BeingRead(PathBuf),
    #[error("this build cannot keep a store safely: {0}")]
    Unsuitable(String),
    #[error(
        "another kfwatch has taken over the store or this part of it: this one stores nothing more there"
    )]
    LeaseLost,
    #[error("the store can write no more, because of a bug: the log says where it panicked; restart kfwatch")]
    WriterPanicked,
    #[error("the store was opened only for reading")]
    OpenToRead,
    #[error("the store is closed")]
    Closed,
    #[error("the account is not registered in the store")]
    UnknownAccount,
    #[error("the sink is not registered in the store")]
    UnknownSink,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileChange {
    /// Nothing has its name.
    Deleted,
    /// Another file has its name.
    Replaced,
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deleted => "deleted or moved away",
            Self::Replaced => "replaced by another file",
        })
    }
}

/// A cause that several callers share.
pub(crate) type Cause = Arc<dyn std::error::Error + Send + Sync>;

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another kfwatch".to_owned(), |pid| format!("another kfwatch (process {pid})"))
}

fn how_to_continue(displaced: &Path) -> &'static str {
    let name = displaced.as_os_str().as_encoded_bytes();
    if name.ends_with(b"-wal") || name.ends_with(b"-shm") {
        "stop kfwatch, but not with kill -9: at its end it saves what the log contains; then start it again"
    } else {
        "stop kfwatch, put the file back or accept the loss of what it contained, and start kfwatch again"
    }
}

impl StoreError {
    /// Whether a file of the store was deleted or replaced. The store itself logs that.
    pub fn is_displaced(&self) -> bool {
        matches!(self, Self::Displaced { .. })
    }

    /// Whether the store, or this part of it, belongs to nobody or to another process by now.
    pub fn is_no_longer_owned(&self) -> bool {
        matches!(self, Self::Closed | Self::LeaseLost)
    }

    /// `place` is what the problem is about: a file, or a schema.
    pub(super) fn import(place: impl fmt::Display, problem: ImportProblem) -> Self {
        Self::Import { place: place.to_string(), problem }
    }

    pub(super) fn corrupt(what: impl Into<String>) -> Self {
        let what: String = what.into();
        let source: Box<dyn std::error::Error + Send + Sync> = what.into();
        Self::Corrupt { source: source.into() }
    }
}
