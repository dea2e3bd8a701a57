//! The copy that is made before a store is migrated, for those who want to go back.
//!
//! It lies beside the store and is never overwritten: an operator may have gone back to an older version and come here
//! again. Only a copy whose migration failed is removed, because the store is then as it was, and a daemon that is
//! started again and again would fill the disk with copies.

use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use rusqlite::Connection;

use super::file;
use crate::store::error::StoreError;

/// The most copies of one version that are kept.
const MAX_COPIES: u32 = 100;

/// Makes a copy of a store of this version, and then migrates the store.
pub(super) fn before(
    version: i64,
    path: &Path,
    connection: &mut Connection,
    migrate: impl FnOnce(&mut Connection, i64) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let copy = reserve(version, path)?;
    let migrated = fill(&copy, connection).and_then(|()| migrate(connection, version));
    match &migrated {
        Ok(()) => tracing::info!(
            "Migrated the store from schema {version}; what it was before is in {}",
            copy.display()
        ),
        // Were it to stay, it would be in nobody's way but that of the disk.
        Err(_) => drop(fs::remove_file(&copy)),
    }
    migrated
}

/// Creates an empty file under the first name that is free.
fn reserve(version: i64, path: &Path) -> Result<PathBuf, StoreError> {
    for number in 1..=MAX_COPIES {
        let more = if number == 1 { String::new() } else { format!("-{number}") };
        let copy = file::beside(path, &format!("-backup-v{version}{more}"));
        match file::open_private(&copy, OpenOptions::new().create_new(true)) {
            Ok(_) => return Ok(copy),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StoreError::io(&copy, error)),
        }
    }
    let copies = file::beside(path, &format!("-backup-v{version}"));
    Err(StoreError::TooManyBackups(copies))
}

/// Fills the file with all that is committed, and syncs it.
fn fill(copy: &Path, connection: &Connection) -> Result<(), StoreError> {
    let Some(name) = copy.to_str() else {
        return Err(StoreError::Unsuitable(format!("{} is not UTF-8", copy.display())));
    };
    connection.execute("VACUUM INTO ?1", [name])?;
    let io = |error| StoreError::io(copy, error);
    File::open(copy).and_then(|file| file.sync_all()).map_err(io)?;
    // The name, too, has to survive a crash. A path of a file has a directory.
    let directory = copy.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all()).map_err(io)
}
