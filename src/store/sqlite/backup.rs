//! Copies of the store: on demand (`kfwatch backup`), and before a migration, for those who want to go back.
//!
//! A copy is made by one reading transaction, which keeps nobody from committing; only the write-ahead log grows meanwhile.
//! It has its name only once it is whole and synced, and never overwrites anything.
//!
//! That before a migration lies beside the store. Only a copy whose migration failed is removed, because the store is
//! then as it was, and a daemon that is started again and again would fill the disk with copies.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};

use super::{convert, events, file, open_for_reading, schema};
use crate::store::{
    backup::{BackupProblem, BackupSummary, Copied, Observer},
    error::StoreError,
    types::LogPosition,
};

/// The name of a copy on demand while it is not whole begins so.
const PARTIAL: &str = ".kfwatch-backup-";

/// Steps of SQLite's machine between two looks at how far a copy has come: some milliseconds.
const STEPS_BETWEEN_LOOKS: i32 = 100_000;

/// The most copies of one version that are kept.
const MAX_COPIES: u32 = 100;

/// Makes a copy of the store, beside a daemon that may be running.
pub(in crate::store) fn take(
    store: &Path,
    to: &Path,
    observer: &Observer,
) -> Result<BackupSummary, StoreError> {
    let connection = open_for_reading(store)?;
    let problem = |problem| StoreError::backup(to, problem);
    if to.symlink_metadata().is_ok() {
        return Err(problem(BackupProblem::Exists));
    }
    if !file::directory_of(to).is_dir() {
        return Err(problem(BackupProblem::NoDirectory));
    }
    // Removed when it is dropped without having got its name.
    let partial = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(file::directory_of(to));
    let partial = partial.map_err(|error| StoreError::io(to, error).of_copy(to))?;
    fill_private(connection, partial.path(), observer).map_err(|error| match error {
        // What it is made of.
        StoreError::Corrupt { .. } => error,
        error => error.of_copy(to),
    })?;
    let summary = check_and_sync(partial.path()).map_err(|error| error.of_copy(to))?;
    partial.persist_noclobber(to).map_err(|persisting| match persisting.error.kind() {
        ErrorKind::AlreadyExists => problem(BackupProblem::Exists),
        _ => StoreError::io(to, persisting.error).of_copy(to),
    })?;
    file::sync_directory_of(to).map_err(|error| StoreError::io(to, error).of_copy(to))?;
    Ok(summary)
}

/// Fills the empty file, and lets the observer watch and stop it.
fn fill_private(mut connection: Connection, partial: &Path, observer: &Observer) -> Result<(), StoreError> {
    let Some(name) = partial.to_str() else {
        return Err(StoreError::Unsuitable(format!("{} is not UTF-8", partial.display())));
    };
    // The umask may have taken bits away.
    let private = fs::set_permissions(partial, Permissions::from_mode(file::MODE));
    private.map_err(|error| StoreError::io(partial, error))?;
    let of = connection.query_row(
        "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
        [],
        |row| row.get::<_, i64>(0),
    )?;
    let (observer, watched) = (Arc::clone(observer), partial.to_path_buf());
    connection.progress_handler(
        STEPS_BETWEEN_LOOKS,
        Some(move || {
            let bytes = watched.metadata().map_or(0, |metadata| metadata.len());
            observer(Copied { bytes, of: of.unsigned_abs() }).is_break()
        }),
    )?;
    vacuum_into(&connection, name)
}

fn check_and_sync(partial: &Path) -> Result<BackupSummary, StoreError> {
    let copy = super::connect_to_read(partial)?;
    schema::require_current(partial, &copy)?;
    schema::check_whole(&copy)?;
    File::open(partial).and_then(|file| file.sync_all()).map_err(|error| StoreError::io(partial, error))?;
    summary(partial, &copy)
}

/// What a store of this version holds.
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

/// Makes a copy of a store of this version, and then migrates the store. The store's lock is held meanwhile.
pub(super) fn before(
    version: i64,
    path: &Path,
    connection: &mut Connection,
    migrate: impl FnOnce(&mut Connection, i64) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let partial = file::beside(path, "-backup-partial");
    let copy = fill(&partial, connection).and_then(|()| name(version, path, &partial));
    // There is none left when it has its name; otherwise it would be in nobody's way but that of the disk.
    fs::remove_file(&partial).ok();
    let copy = copy?;
    let migrated = migrate(connection, version);
    match &migrated {
        Ok(()) => tracing::info!(
            "Migrated the store from schema {version}; what it was before is in {}",
            copy.display()
        ),
        Err(_) => drop(fs::remove_file(&copy)),
    }
    migrated
}

/// Fills a new file with all that is committed, and syncs it.
fn fill(partial: &Path, connection: &Connection) -> Result<(), StoreError> {
    let io = |error| StoreError::io(partial, error);
    let Some(name) = partial.to_str() else {
        return Err(StoreError::Unsuitable(format!("{} is not UTF-8", partial.display())));
    };
    match fs::remove_file(partial) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    // SQLite itself would create it readable by others.
    file::open_private(partial, OpenOptions::new().create_new(true)).map_err(io)?;
    vacuum_into(connection, name)?;
    File::open(partial).and_then(|file| file.sync_all()).map_err(io)
}

/// Fills a file that is empty.
fn vacuum_into(connection: &Connection, name: &str) -> Result<(), StoreError> {
    connection.execute("VACUUM INTO ?1", [name])?;
    Ok(())
}

/// Gives the whole copy the first name that is free.
fn name(version: i64, path: &Path, partial: &Path) -> Result<PathBuf, StoreError> {
    let first = format!("-backup-v{version}");
    let names = (2..=MAX_COPIES).map(|number| format!("{first}-{number}"));
    let mut copies = std::iter::once(first.clone()).chain(names).map(|suffix| file::beside(path, &suffix));
    let Some(copy) = copies.find(|copy| copy.symlink_metadata().is_err()) else {
        return Err(StoreError::TooManyBackups(file::beside(path, &first)));
    };
    file::rename_for_good(partial, &copy).map_err(|error| StoreError::io(&copy, error))?;
    Ok(copy)
}
