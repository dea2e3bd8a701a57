//! Progress, summaries and problems of backups and restores.

use std::{ops::ControlFlow, path::PathBuf, sync::Arc};

use jiff::Timestamp;

/// The progress of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyProgress {
    /// Written so far.
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
#[expect(missing_docs, reason = "each message says what happened")]
pub enum BackupProblem {
    #[error("it exists already, and a backup overwrites nothing: give another name")]
    Exists,
    #[error("its directory does not exist: create it, or give another name")]
    NoDirectory,
    #[error("no permission: run as a user who may read and write there")]
    NoPermission,
    #[error("the disk is full: free some space; nothing was changed")]
    Full,
    #[error("stopped; nothing was changed")]
    Stopped,
    #[error("there is no such file")]
    Missing,
    #[error("this is the store itself, not a backup of it")]
    IsTheStore,
    // Without the log it lacks the newest commits.
    #[error(
        "there is a log next to it ({0}): it is a store in use or was copied with cp; open it once with sqlite3, which \
         checkpoints the log, or use a file that `kfwatch backup` made"
    )]
    HasLog(&'static str),
    #[error("this is not a backup of kfwatch: {0}")]
    Foreign(&'static str),
    #[error("this backup is damaged ({0}): use another one")]
    Damaged(String),
    #[error("it cannot be read or written: {0}")]
    Unavailable(String),
}
