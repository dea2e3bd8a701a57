//! The files of the store: what may be opened, with which mode they are created, and the lock beside them.
//!
//! What can be told from the outside is refused before anything is created.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, Permissions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::store::error::StoreError;

/// Openids are personal data: only the owner may read them.
pub(super) const MODE: u32 = 0o600;

const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The path of a file that belongs to the store: `kfwatch.db-wal` and so on.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Follows links, so that two paths to one file share one lock.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, StoreError> {
    let directory = directory_of(path);
    if !directory.is_dir() {
        return Err(StoreError::NoDirectory(directory.to_path_buf()));
    }
    // What does not exist yet has no other path, and a link to nowhere is refused when it is created.
    Ok(path.canonicalize().unwrap_or_else(|_| path.to_path_buf()))
}

/// Refuses what is no SQLite file at all. What does not exist, or is empty, may become one.
pub(super) fn check(path: &Path) -> Result<(), StoreError> {
    match path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io(path, error)),
        // To open a pipe would wait for its other end.
        Ok(metadata) if !metadata.is_file() => return Err(StoreError::NotAFile(path.to_path_buf())),
        Ok(_) => {}
    }
    let file = File::open(path).map_err(|error| StoreError::io(path, error))?;
    let mut header = Vec::with_capacity(SQLITE_MAGIC.len());
    file.take(SQLITE_MAGIC.len() as u64)
        .read_to_end(&mut header)
        .map_err(|error| StoreError::io(path, error))?;
    if header.is_empty() && beside(path, "-wal").metadata().is_ok_and(|wal| wal.len() > 0) {
        // SQLite would delete the log, and with it the last commits of a file that was emptied by mistake.
        return Err(StoreError::corrupt("the file is empty, but its write-ahead log is not"));
    }
    if !header.is_empty() && header != SQLITE_MAGIC {
        return Err(StoreError::Foreign { path: path.to_path_buf(), what: "no SQLite file" });
    }
    Ok(())
}

/// The directory that holds a file.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What was created, renamed or removed there survives a crash from now on.
pub(super) fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

/// Replaces what has the other name, and sees to it that this survives a crash.
pub(super) fn rename_for_good(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::rename(from, to)?;
    sync_directory_of(to)
}

/// Keeps a second daemon out until it is dropped. The file stays then: removing it could remove another daemon's.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        let lock_path = beside(path, "-lock");
        let mut file = open_private(&lock_path, OpenOptions::new().create(true).truncate(false))
            .map_err(|error| StoreError::io(&lock_path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // An unreadable pid makes the message poorer, no more.
                file.read_to_string(&mut pid).ok();
                return Err(StoreError::Locked { path: path.to_path_buf(), pid: pid.trim().parse().ok() });
            }
            Err(TryLockError::Error(error)) => return Err(StoreError::io(&lock_path, error)),
        }
        write_pid(&mut file).map_err(|error| StoreError::io(&lock_path, error))?;
        Ok(Self(file))
    }
}

impl Drop for Lock {
    /// Closing the file is not enough: a child process between its fork and its exec still has it open, and with it the
    /// lock.
    fn drop(&mut self) {
        // If it fails, closing the file releases the lock all the same, once the last child has let go of it.
        self.0.unlock().ok();
    }
}

fn write_pid(lock: &mut File) -> std::io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

/// Creates the file for SQLite to fill; SQLite gives its other files the same mode. Says whether there is nothing in
/// the file.
pub(super) fn create_if_missing(path: &Path) -> Result<bool, StoreError> {
    match open_private(path, OpenOptions::new().create_new(true)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let opened = OpenOptions::new().read(true).write(true).open(path);
            let file = opened.map_err(|error| StoreError::io(path, error))?;
            let metadata = file.metadata().map_err(|error| StoreError::io(path, error))?;
            Ok(metadata.len() == 0)
        }
        Err(error) => Err(StoreError::io(path, error)),
    }
}

pub(super) fn open_private(path: &Path, options: &mut OpenOptions) -> std::io::Result<File> {
    let existed = path.exists();
    let file = options.read(true).write(true).mode(MODE).open(path)?;
    if !existed {
        // The umask may have taken bits away.
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_lock_is_free_though_a_child_process_still_has_the_file_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kfwatch.db");
        let lock = Lock::take(&path).unwrap();
        let inherited = lock.0.try_clone().unwrap();
        assert!(matches!(Lock::take(&path), Err(StoreError::Locked { .. })));
        drop(lock);
        Lock::take(&path).unwrap();
        drop(inherited);
    }
}
