//! The files of the store: which may be opened, the mode of new ones, and the lock file.
//!
//! A file that is recognizably wrong is rejected before anything is created.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    unistd::{AccessFlags, access},
};

use crate::{file_system, store::error::StoreError};

/// Openids are personal data: only the owner may read them.
pub(super) const MODE: u32 = 0o600;

/// How many copies with the same name and a number are kept at most.
const MAX_COPIES: u32 = 100;

const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The path of a file that belongs to the store, such as `kfwatch.db-wal`.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Resolves links, so that two paths to one file share one lock. The file may be missing, unless a link names it.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, StoreError> {
    if let Some(link) = path.ancestors().find(|path| is_dangling_link(path)) {
        let target = fs::read_link(link).map_err(|error| StoreError::io(link, error))?;
        let target = directory_of(link).join(target);
        return Err(StoreError::DanglingLink { link: link.to_path_buf(), target });
    }
    let directory = directory_of(path);
    if !directory.is_dir() {
        return Err(StoreError::NoDirectory(directory.to_path_buf()));
    }
    // A missing file has no other path.
    Ok(path.canonicalize().unwrap_or_else(|_| path.to_path_buf()))
}

/// Like [`resolve`], for a file that must exist.
pub(in crate::store) fn resolve_existing(path: &Path) -> Result<PathBuf, StoreError> {
    match resolve(path) {
        Ok(resolved) => match resolved.try_exists() {
            Ok(true) => Ok(resolved),
            Ok(false) => Err(StoreError::Missing(path.to_path_buf())),
            // It may exist in a directory that belongs to another user.
            Err(error) => Err(StoreError::io(path, error)),
        },
        Err(StoreError::NoDirectory(_)) => Err(StoreError::Missing(path.to_path_buf())),
        refused => refused,
    }
}

fn is_dangling_link(path: &Path) -> bool {
    path.is_symlink() && path.metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Rejects files that are not SQLite files. A missing or empty file may become one.
pub(super) fn check(path: &Path) -> Result<(), StoreError> {
    match path.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io(path, error)),
        // Opening a pipe would wait for its other end.
        Ok(metadata) if !metadata.is_file() => return Err(StoreError::NotAFile(path.to_path_buf())),
        Ok(_) => {}
    }
    let file = File::open(path).map_err(|error| StoreError::io(path, error))?;
    let mut header = Vec::with_capacity(SQLITE_MAGIC.len());
    file.take(SQLITE_MAGIC.len() as u64)
        .read_to_end(&mut header)
        .map_err(|error| StoreError::io(path, error))?;
    if header.is_empty() && has_content(&with_suffix(path, "-wal")) {
        // SQLite would delete the log, and with it the last commits of a file that was truncated by mistake.
        return Err(StoreError::corrupt("the file is empty, but its write-ahead log is not"));
    }
    if !header.is_empty() && header != SQLITE_MAGIC {
        return Err(StoreError::Foreign { path: path.to_path_buf(), what: "no SQLite file" });
    }
    Ok(())
}

/// Fails if this file cannot be written, or if none can be created next to it.
pub(super) fn check_writable(path: &Path) -> Result<(), StoreError> {
    [directory_of(path), path].into_iter().try_for_each(|path| match access(path, AccessFlags::W_OK) {
        Err(errno @ (Errno::EROFS | Errno::EACCES)) => Err(StoreError::io(path, errno.into())),
        // Other errors follow with the first file.
        _ => Ok(()),
    })
}

/// Whether the file exists and is not empty.
pub(super) fn has_content(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.len() > 0)
}

/// The directory of a file.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the creation, renaming or removal of a file survive a crash.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    file_system::sync_directory(directory_of(path))
}

/// Renames a file, replaces the one of that name, and makes this survive a crash.
pub(super) fn rename_and_sync(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to).map_err(|error| file_system::failed("rename", from, &error))?;
    sync_directory_of(to)
}

/// Gives a file a second name, or makes a copy of it where the file system has no hard links.
pub(super) fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied || file_system::is_unsupported(&error) => {
            let copied = fs::copy(from, to).and_then(|_| File::open(to)?.sync_all());
            copied.map_err(|error| file_system::failed("copy", from, &error))
        }
        linked => linked.map_err(|error| file_system::failed("link", from, &error)),
    }
}

/// Removes a file. Succeeds if there is none.
pub(super) fn remove_if_exists(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `path` with the suffix, then with `-2` to `-100` added to it: the names for several copies.
pub(super) fn numbered_names(path: &Path, suffix: &str) -> impl Iterator<Item = PathBuf> {
    let numbers = (2..=MAX_COPIES).map(|number| format!("-{number}"));
    std::iter::once(String::new())
        .chain(numbers)
        .map(move |number| with_suffix(path, &(suffix.to_owned() + &number)))
}

/// Keeps a second daemon out until it is dropped. The file stays: removing it could remove the lock of another daemon.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        let lock_path = with_suffix(path, "-lock");
        let file = open_private(&lock_path, OpenOptions::new().create(true).truncate(false))
            .map_err(|error| StoreError::io(&lock_path, error))?;
        let mut lock = Self::of_open_file(file, path)?;
        write_pid(&mut lock.0).map_err(|error| StoreError::io(&lock_path, error))?;
        Ok(lock)
    }

    fn of_open_file(mut file: File, path: &Path) -> Result<Self, StoreError> {
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Without the pid the message is less helpful.
                file.read_to_string(&mut pid).ok();
                Err(StoreError::Locked { path: path.to_path_buf(), pid: pid.trim().parse().ok() })
            }
            Err(TryLockError::Error(error)) => {
                let lock_path = with_suffix(path, "-lock");
                Err(StoreError::io(&lock_path, file_system::failed("lock", &lock_path, &error)))
            }
        }
    }
}

/// Fails if another process has locked the store. Only for a process that could not run beside that one anyway: for a moment, it has
/// the lock itself.
pub(in crate::store) fn check_free(path: &Path) -> Result<(), StoreError> {
    let path = resolve(path)?;
    let lock_path = with_suffix(&path, "-lock");
    match OpenOptions::new().read(true).write(true).open(&lock_path) {
        Ok(file) => Lock::of_open_file(file, &path).map(|_| ()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io(&lock_path, error)),
    }
}

impl Drop for Lock {
    /// Closing the file is not enough: a child process between its fork and its exec still has it open, and so keeps the
    /// lock.
    fn drop(&mut self) {
        // If it fails, the lock is released when the last child has closed the file.
        self.0.unlock().ok();
    }
}

fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

/// Creates the file for SQLite to fill; SQLite gives its other files the same mode. Returns whether the file is empty.
pub(super) fn create_if_missing(path: &Path) -> Result<bool, StoreError> {
    match open_private(path, OpenOptions::new().create_new(true)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let opened = OpenOptions::new().read(true).write(true).open(path);
            let file = opened.map_err(|error| StoreError::io(path, error))?;
            let metadata = file.metadata().map_err(|error| StoreError::io(path, error))?;
            Ok(metadata.len() == 0)
        }
        Err(error) => Err(StoreError::io(path, error)),
    }
}

pub(super) fn open_private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let existed = path.exists();
    let file = options.read(true).write(true).mode(MODE).open(path)?;
    if !existed {
        // The umask may have removed bits.
        file_system::set_mode(&file, path, MODE)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_lock_is_free_while_child_has_file_open() {
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
