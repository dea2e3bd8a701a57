//! Where the files of the store are: not where commits would be lost.
//!
//! SQLite keeps the newest commits in a second file, the write-ahead log, next to the store. A store that is itself a mount point
//! (as Docker mounts a single file) loses them with the container, so it is rejected. A store with several hard links has a log and
//! a lock for each name, which kfwatch can only warn of. A file that is deleted or replaced while it is open still takes commits,
//! and nobody finds them again, so the writer compares its open files with their paths before each commit.

use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use super::file;
use crate::{
    domain::quantity::counted,
    file_system,
    store::error::{FileChange, StoreError},
};

/// What is mounted where, for this process.
const MOUNT_TABLE: &str = "/proc/self/mountinfo";

/// The files that a connection keeps open: the store, its log and the index of the log.
const OPEN_FILES: [&str; 3] = ["", "-wal", "-shm"];

/// Closing any other descriptor of a file would release the locks that SQLite has on it.
#[cfg(target_os = "linux")]
const WITHOUT_LOCKS: i32 = nix::fcntl::OFlag::O_PATH.bits();
#[cfg(not(target_os = "linux"))]
const WITHOUT_LOCKS: i32 = 0;

/// Rejects a store of which a file is itself a mount point. The path must have no links.
pub(super) fn check(path: &Path) -> Result<(), StoreError> {
    // Without a mount table, nobody knows.
    let table = fs::read(MOUNT_TABLE).unwrap_or_default();
    let mut files = OPEN_FILES.iter().map(|suffix| file::with_suffix(path, suffix));
    match files.find(|file| is_mount_point(&table, file)) {
        Some(file) => {
            let directory = file::directory_of(&file).to_path_buf();
            Err(StoreError::MountPoint { path: file, directory })
        }
        None => Ok(()),
    }
}

/// Returns a warning if the file has other names.
pub(in crate::store) fn hard_link_warning(path: &Path) -> Option<String> {
    let metadata = path.metadata().ok()?;
    let others = metadata.nlink().checked_sub(1).filter(|others| *others > 0)?;
    Some(format!(
        "{} has {} (hard links): a kfwatch or sqlite3 that opens it by another name damages it; remove \
         all but one (find them with find -inum {})",
        path.display(),
        counted(others, "more name"),
        metadata.ino()
    ))
}

/// What keeps this process from opening the store, or from creating it. Changes nothing.
pub(in crate::store) fn problem(path: &Path) -> Option<StoreError> {
    let resolved = match file::resolve(path) {
        Ok(resolved) => resolved,
        Err(error) => return Some(error),
    };
    let problem = check(&resolved).and_then(|()| file::check(&resolved));
    problem.and_then(|()| file::check_writable(&resolved)).err()
}

/// The files that the writer has open.
#[derive(Debug)]
pub(super) struct OpenFiles([(PathBuf, File); OPEN_FILES.len()]);

impl OpenFiles {
    /// The files of a store that has a log, so after its first commit.
    pub(super) fn of(path: &Path) -> Result<Self, StoreError> {
        let [store, log, index] = OPEN_FILES.map(|suffix| {
            let path = file::with_suffix(path, suffix);
            match OpenOptions::new().read(true).custom_flags(WITHOUT_LOCKS).open(&path) {
                Ok(file) => Ok((path, file)),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    Err(StoreError::Displaced { path, change: FileChange::Deleted })
                }
                Err(error) => Err(StoreError::io(&path, error)),
            }
        });
        Ok(Self([store?, log?, index?]))
    }

    /// Fails if a path no longer names its open file. Costs six system calls that read no disk, beside the sync of a commit.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.0.iter().try_for_each(|(path, open)| {
            let displaced = |change| Err(StoreError::Displaced { path: path.clone(), change });
            let open = open.metadata().map_err(|error| StoreError::io(path, error))?;
            match path.metadata() {
                Ok(named) if file_system::identity(&named) == file_system::identity(&open) => Ok(()),
                Ok(_) => displaced(FileChange::Replaced),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    displaced(FileChange::Deleted)
                }
                Err(error) => Err(StoreError::io(path, error)),
            }
        })
    }
}

fn is_mount_point(table: &[u8], path: &Path) -> bool {
    let lines = table.split(|byte| *byte == b'\n');
    // proc_pid_mountinfo(5): the fifth field is the mount point.
    let mut mount_points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    mount_points.any(|mount_point| unescaped(mount_point) == path.as_os_str().as_bytes())
}

/// The mount table has spaces and the like as octal numbers, such as `\040`.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped.filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_by_their_whole_path() {
        let table =
            br"36 35 98:0 /a /data/my\040store\134x/kfwatch.db rw,noatime master:1 - ext4 /dev/root rw
37 35 0:22 / /data rw - tmpfs tmpfs rw
";
        for (path, expected) in [
            (r"/data/my store\x/kfwatch.db", true),
            ("/data", true),
            ("/data/kfwatch.db", false),
            ("/data/my", false),
            ("ext4", false),
            ("", false),
        ] {
            assert_eq!(is_mount_point(table, Path::new(path)), expected, "{path}");
        }
        assert!(!is_mount_point(b"", Path::new("/data")));
    }
}
