//! What the errors of SQLite and of its files mean for the store.

use std::{io, path::Path, sync::Arc};

use rusqlite::ErrorCode;

use crate::store::{
    backup::BackupProblem,
    error::{Cause, StoreError},
};

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        let unreadable = matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..)
        );
        let source: Cause = Arc::new(error);
        match code {
            Some(ErrorCode::DiskFull) => Self::Full { source },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { source },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt { source },
            None if unreadable => Self::Corrupt { source },
            _ => Self::Unavailable { source },
        }
    }
}

impl StoreError {
    pub(super) fn backup(path: &Path, problem: BackupProblem) -> Self {
        Self::Backup { path: path.to_path_buf(), problem }
    }

    /// Turns an error of the store into one of a copy, whose remedies differ.
    pub(super) fn for_copy(self, path: &Path) -> Self {
        let problem = match self {
            Self::NoDirectory(_) => BackupProblem::NoDirectory,
            Self::Missing(_) => BackupProblem::Missing,
            Self::NotAFile(_) => BackupProblem::Foreign("no regular file"),
            Self::Permission { .. } => BackupProblem::NoPermission,
            Self::Foreign { what, .. } => BackupProblem::Foreign(what),
            Self::Corrupt { source } => BackupProblem::Damaged(source.to_string()),
            Self::Full { .. } => BackupProblem::Full,
            Self::Unavailable { source } if was_interrupted(&source) => BackupProblem::Stopped,
            Self::Unavailable { source } | Self::ReadOnly { source } => {
                BackupProblem::Unavailable(source.to_string())
            }
            Self::Newer { found, known, .. } => {
                return Self::Newer { path: path.to_path_buf(), found, known };
            }
            other => return other,
        };
        Self::backup(path, problem)
    }

    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                Self::Permission { path: path.to_path_buf(), source: Arc::new(error) }
            }
            io::ErrorKind::NotFound => Self::NoDirectory(path.parent().unwrap_or(path).to_path_buf()),
            io::ErrorKind::IsADirectory => Self::NotAFile(path.to_path_buf()),
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { source: Arc::new(error) },
            io::ErrorKind::StorageFull => Self::Full { source: Arc::new(error) },
            _ => Self::Unavailable { source: Arc::new(error) },
        }
    }
}

fn was_interrupted(cause: &Cause) -> bool {
    let error = cause.downcast_ref::<rusqlite::Error>();
    error.and_then(rusqlite::Error::sqlite_error_code) == Some(ErrorCode::OperationInterrupted)
}
