//! Copies of the store: on demand (`kfwatch backup`), and before a migration, so that an operator can go back.
//!
//! One reading transaction makes the copy. Commits continue meanwhile; only the write-ahead log grows. A copy gets its name
//! when it is complete and synced, and never overwrites a file.
//!
//! The copy before a migration lies next to the store. It is removed only if its migration fails: the store is then
//! unchanged, and a daemon that restarts again and again would fill the disk with copies.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};
use tempfile::NamedTempFile;

use super::{
    connection::{connect_to_read, open_for_reading},
    events, file, prune, schema,
};
use crate::{
    file_system,
    store::{
        backup::{BackupProblem, BackupSummary, CopyObserver, CopyProgress},
        convert,
        error::StoreError,
        types::LogPosition,
    },
};

/// The prefix of the name of an incomplete copy.
const PARTIAL: &str = ".kfwatch-backup-";

/// Instructions of SQLite's virtual machine between two calls of the observer: some milliseconds.
const INSTRUCTIONS_PER_REPORT: i32 = 100_000;

/// Copies the store to a new file, with or without a running daemon.
pub(in crate::store) fn back_up(
    store: &Path,
    to: &Path,
    observer: &CopyObserver,
) -> Result<BackupSummary, StoreError> {
    let connection = open_for_reading(store)?;
    let problem = |problem| StoreError::backup(to, problem);
    if to.symlink_metadata().is_ok() {
        return Err(problem(BackupProblem::Exists));
    }
    if !file::directory_of(to).is_dir() {
        return Err(problem(BackupProblem::NoDirectory));
    }
    // Removed when it is dropped before it has its name.
    let partial = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(file::directory_of(to));
    let partial = partial.map_err(|error| StoreError::io(to, error).for_copy(to))?;
    copy_observed(connection, partial.path(), observer).map_err(|error| match error {
        // The store is damaged, not the copy.
        StoreError::Corrupt { .. } => error,
        error => error.for_copy(to),
    })?;
    let summary = check_and_sync(partial.path()).map_err(|error| error.for_copy(to))?;
    name_new_file(partial, to).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => problem(BackupProblem::Exists),
        _ => StoreError::io(to, error).for_copy(to),
    })?;
    file::sync_directory_of(to).map_err(|error| StoreError::io(to, error).for_copy(to))?;
    Ok(summary)
}

/// Fills the empty file, and lets the observer watch and stop the copy.
fn copy_observed(
    mut connection: Connection,
    partial: &Path,
    observer: &CopyObserver,
) -> Result<(), StoreError> {
    // The umask may have removed bits.
    file_system::set_mode_of(partial, file::MODE).map_err(|error| StoreError::io(partial, error))?;
    let total_bytes = prune::used_bytes(&connection)?;
    let (observer, watched) = (Arc::clone(observer), partial.to_path_buf());
    connection.progress_handler(
        INSTRUCTIONS_PER_REPORT,
        Some(move || {
            let bytes = watched.metadata().map_or(0, |metadata| metadata.len());
            observer(CopyProgress { bytes, total_bytes }).is_break()
        }),
    )?;
    vacuum_into(&connection, partial)
}

/// Renames the file to a name that is free.
fn name_new_file(partial: NamedTempFile, to: &Path) -> io::Result<()> {
    let Err(persisting) = partial.persist_noclobber(to) else { return Ok(()) };
    let error = persisting.error;
    if error.kind() != ErrorKind::PermissionDenied && !file_system::is_unsupported(&error) {
        return Err(error);
    }
    // The file system can neither rename without replacing nor make hard links. An empty file takes the name first.
    OpenOptions::new().write(true).create_new(true).open(to)?;
    persisting.file.persist(to).map(drop).map_err(|persisting| persisting.error)
}

fn check_and_sync(partial: &Path) -> Result<BackupSummary, StoreError> {
    let copy = connect_to_read(partial)?;
    schema::require_current(partial, &copy)?;
    schema::check_whole(&copy)?;
    File::open(partial).and_then(|file| file.sync_all()).map_err(|error| StoreError::io(partial, error))?;
    summary(partial, &copy)
}

/// Summarizes the content of a store of this version.
pub(super) fn summary(path: &Path, connection: &Connection) -> Result<BackupSummary, StoreError> {
    let count = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
    };
    let newest = "SELECT observed_at FROM events ORDER BY id DESC LIMIT 1";
    let newest: Option<i64> = connection.query_row(newest, [], |row| row.get(0)).optional()?;
    let newest_event: Option<Timestamp> = convert::optional_time(newest)?;
    Ok(BackupSummary {
        bytes: path.metadata().map_err(|error| StoreError::io(path, error))?.len(),
        accounts: count("accounts")?,
        open_sessions: count("sessions")?,
        events: events::count_after(connection, LogPosition::BEGINNING)?,
        newest_event,
    })
}

/// Copies a store of this older version, then migrates the store. Its lock must be held.
pub(super) fn migrate(version: i64, path: &Path, connection: &mut Connection) -> Result<(), StoreError> {
    let partial = file::with_suffix(path, "-backup-partial");
    let copy = copy_private(&partial, connection).and_then(|()| name_copy(version, path, &partial));
    // It still exists only if the copy failed.
    fs::remove_file(&partial).ok();
    let copy = copy?;
    let migrated = schema::migrate(connection, version);
    match &migrated {
        Ok(()) => tracing::info!(
            "Migrated the store from schema {version}; the previous version is in {}",
            copy.display()
        ),
        Err(_) => drop(fs::remove_file(&copy)),
    }
    migrated
}

/// Copies everything committed to a new file, and syncs it.
fn copy_private(partial: &Path, connection: &Connection) -> Result<(), StoreError> {
    let io = |error| StoreError::io(partial, error);
    file::remove_if_exists(partial).map_err(io)?;
    // SQLite itself would create it readable by others.
    file::open_private(partial, OpenOptions::new().create_new(true)).map_err(io)?;
    vacuum_into(connection, partial)?;
    File::open(partial).and_then(|file| file.sync_all()).map_err(io)
}

/// Fills an empty file.
fn vacuum_into(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let Some(name) = path.to_str() else {
        return Err(StoreError::Unsuitable(format!("{} is not UTF-8", path.display())));
    };
    connection.execute("VACUUM INTO ?1", [name])?;
    Ok(())
}

/// Renames the complete copy to the first free name.
fn name_copy(version: i64, path: &Path, partial: &Path) -> Result<PathBuf, StoreError> {
    let suffix = format!("-backup-v{version}");
    let free = file::numbered_names(path, &suffix).find(|copy| copy.symlink_metadata().is_err());
    let copy = free.ok_or_else(|| StoreError::TooManyBackups(file::with_suffix(path, &suffix)))?;
    file::rename_and_sync(partial, &copy).map_err(|error| StoreError::io(&copy, error))?;
    Ok(copy)
}
