//! What is told of backups: how far one has come, what it holds, what is wrong with it.

use std::{ops::ControlFlow, path::PathBuf, sync::Arc};

use jiff::Timestamp;

/// How far a copy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Bytes that are written.
    pub bytes: u64,
    /// About how many it will be.
    pub of: u64,
}

/// Hears now and then how far a copy has come, and may stop it.
pub type Observer = Arc<dyn Fn(Copied) -> ControlFlow<()> + Send + Sync>;

/// What a copy of a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    /// The size of the file.
    pub bytes: u64,
    /// Kf accounts that were ever watched.
    pub accounts: u64,
    /// Sessions in their snapshots.
    pub open_sessions: u64,
    /// Events in the log.
    pub events: u64,
    /// When the newest of them was observed; none without events.
    pub newest_event: Option<Timestamp>,
}

/// What a restore has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What the store holds now.
    pub summary: BackupSummary,
    /// The store itself, links followed.
    pub path: PathBuf,
    /// Where the store before is kept, if there was one.
    pub kept: Option<PathBuf>,
}

/// Why a copy could not be made, or cannot be put in the store's place.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BackupProblem {
    /// Nothing is ever overwritten.
    #[error("it exists already, and a backup overwrites nothing: give another name")]
    Exists,
    /// The directory that should hold it is missing.
    #[error("its directory does not exist: create it, or give another name")]
    NoDirectory,
    /// It may not be read, or not be created.
    #[error("no permission: run as a user who may read and write there")]
    NoPermission,
    /// The disk is full.
    #[error("the disk is full: make room; nothing was changed")]
    Full,
    /// Somebody stopped it.
    #[error("stopped; nothing was changed")]
    Stopped,
    /// There is no such file.
    #[error("there is no such file")]
    Missing,
    /// It is the store.
    #[error("this is the store itself, not a backup of it")]
    IsTheStore,
    /// Its log belongs to it: without that it lacks the newest commits.
    #[error(
        "there is a log beside it ({0}): it is a store in use or was copied with cp; open it with sqlite3 once, which \
         folds the log in, or use a file that `kfwatch backup` made"
    )]
    HasLog(&'static str),
    /// Another kind of file.
    #[error("this is not a backup of kfwatch: {0}")]
    Foreign(&'static str),
    /// Its content is damaged.
    #[error("this backup is damaged ({0}): use another one")]
    Damaged(String),
    /// It cannot be read or written.
    #[error("it cannot be read or written: {0}")]
    Unavailable(String),
}
