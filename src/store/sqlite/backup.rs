//! The copy that is made before a store is migrated, for those who want to go back.
//!
//! It lies beside the store, has its name only once it is whole, and is never overwritten: an operator may have gone
//! back to an older version and come here again. Only a copy whose migration failed is removed, because the store is
//! then as it was, and a daemon that is started again and again would fill the disk with copies.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use rusqlite::Connection;

use super::file;
use crate::store::error::StoreError;

/// The most copies of one version that are kept.
const MAX_COPIES: u32 = 100;

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
    connection.execute("VACUUM INTO ?1", [name])?;
    File::open(partial).and_then(|file| file.sync_all()).map_err(io)
}

/// Gives the whole copy the first name that is free.
fn name(version: i64, path: &Path, partial: &Path) -> Result<PathBuf, StoreError> {
    let first = format!("-backup-v{version}");
    let names = (2..=MAX_COPIES).map(|number| format!("{first}-{number}"));
    let mut copies = std::iter::once(first.clone()).chain(names).map(|suffix| file::beside(path, &suffix));
    let Some(copy) = copies.find(|copy| copy.symlink_metadata().is_err()) else {
        return Err(StoreError::TooManyBackups(file::beside(path, &first)));
    };
    rename_for_good(partial, &copy).map_err(|error| StoreError::io(&copy, error))?;
    Ok(copy)
}

/// The name, too, has to survive a crash.
fn rename_for_good(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    let directory = to.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}
