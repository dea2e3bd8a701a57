//! Operations that not every file system has: syncing a directory, setting permissions. And what tells two files apart.
//!
//! SMB shares, FUSE and older network file systems refuse them with EINVAL, EPERM or EOPNOTSUPP. If the data is safe all the same,
//! kfwatch continues. Any other error names the operation and the file: "Invalid argument" alone names neither.

use std::{
    fs::{self, File, Metadata, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// The permission bits of a mode.
const PERMISSIONS: u32 = 0o777;

/// Makes the creation, renaming or removal of a file in this directory survive a crash. Warns once if the file system cannot do that.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    static IS_REPORTED: AtomicBool = AtomicBool::new(false);
    match File::open(directory).and_then(|opened| opened.sync_all()) {
        Err(error) if is_unsupported(&error) => {
            if !IS_REPORTED.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    directory = %directory.display(),
                    "The file system cannot sync a directory ({error}): after a power failure, the newest files may be missing"
                );
            }
            Ok(())
        }
        synced => synced.map_err(|error| failed("sync the directory", directory, &error)),
    }
}

/// Sets the permissions of an open file. Succeeds if the file system refuses that and the file is not open to more users anyway.
pub(crate) fn set_mode(file: &File, path: &Path, mode: u32) -> io::Result<()> {
    let set = file.set_permissions(Permissions::from_mode(mode));
    check_mode(set, || file.metadata(), path, mode)
}

/// Like [`set_mode`], for what cannot be opened.
pub(crate) fn set_mode_of(path: &Path, mode: u32) -> io::Result<()> {
    let set = fs::set_permissions(path, Permissions::from_mode(mode));
    check_mode(set, || path.metadata(), path, mode)
}

/// What distinguishes a file from all others that exist: device and inode.
pub(crate) fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Whether the file system has no such operation.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported)
}

/// An error of the same kind that names the operation, written as in "sync the directory".
pub(crate) fn failed(operation: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {operation} {}: {error}", path.display()))
}

fn check_mode(
    set: io::Result<()>,
    metadata: impl Fn() -> io::Result<Metadata>,
    path: &Path,
    mode: u32,
) -> io::Result<()> {
    let Err(error) = set else { return Ok(()) };
    if error.kind() != ErrorKind::PermissionDenied && !is_unsupported(&error) {
        return Err(failed("set the permissions of", path, &error));
    }
    let found = metadata()?.permissions().mode() & PERMISSIONS;
    if found & !mode == 0 {
        return Ok(());
    }
    // Of another kind than EPERM, whose remedy is another user.
    Err(io::Error::other(format!(
        "cannot set the permissions of {} to {mode:04o}: {error}; its file system gives every file {found:04o}: mount it with \
         stricter ones (for SMB: file_mode={mode:04o}), or use another file system",
        path.display()
    )))
}
