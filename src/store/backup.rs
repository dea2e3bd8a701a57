//! Progress, summaries and problems of backups and restores.

use std::{ops::ControlFlow, path::PathBuf, sync::Arc};

use jiff::Timestamp;

/// The progress of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyProgress {
    /// Bytes that are written.
    pub bytes: u64,
    /// The approximate size of the complete copy.
    pub total_bytes: u64,
}

/// Receives the progress of a copy now and then, and may stop it.
pub type CopyObserver = Arc<dyn Fn(CopyProgress) -> ControlFlow<()> + Send + Sync>;

/// What a copy of a store contains.
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
    /// When the newest event was observed; `None` without events.
    pub newest_event: Option<Timestamp>,
}

/// The result of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreSummary {
    /// What the store contains now.
    pub summary: BackupSummary,
    /// The path of the store, with links resolved.
    pub path: PathBuf,
    /// Where the previous store is kept, if there was one.
    pub kept: Option<PathBuf>,
}

/// Why a copy could not be made, or cannot replace the store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BackupProblem {
    /// A backup overwrites nothing.
    #[error("it exists already, and a backup overwrites nothing: give another name")]
    Exists,
    /// Its directory is missing.
    #[error("its directory does not exist: create it, or give another name")]
    NoDirectory,
    /// It may not be read or created.
    #[error("no permission: run as a user who may read and write there")]
    NoPermission,
    /// The disk is full.
    #[error("the disk is full: make room; nothing was changed")]
    Full,
    /// The observer stopped it.
    #[error("stopped; nothing was changed")]
    Stopped,
    /// There is no such file.
    #[error("there is no such file")]
    Missing,
    /// It is the store.
    #[error("this is the store itself, not a backup of it")]
    IsTheStore,
    /// It has a write-ahead log or a journal: without that it lacks the newest commits.
    #[error(
        "there is a log next to it ({0}): it is a store in use or was copied with cp; open it once with sqlite3, which \
         checkpoints the log, or use a file that `kfwatch backup` made"
    )]
    HasLog(&'static str),
    /// It is another kind of file.
    #[error("this is not a backup of kfwatch: {0}")]
    Foreign(&'static str),
    /// Its content is damaged.
    #[error("this backup is damaged ({0}): use another one")]
    Damaged(String),
    /// It cannot be read or written.
    #[error("it cannot be read or written: {0}")]
    Unavailable(String),
}
