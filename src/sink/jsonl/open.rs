//! Opens and creates the file, and syncs its directory.
//!
//! An existing file keeps its owner and permissions. A new file gets the configured ones before its name, so that a kill never
//! leaves it with the wrong group.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, fchown},
    path::Path,
};

use nix::{
    errno::Errno,
    unistd::{AccessFlags, access},
};

use super::repair::repair;
use crate::file_system;

/// Why nothing can be written to the path, if that is certain before it is opened.
pub fn problem_at(path: &Path) -> Option<&'static str> {
    let file_type = path.metadata().ok()?.file_type();
    if file_type.is_dir() {
        return Some("it is a directory: set path to a file in it");
    }
    let socket = "it is a socket, which no path opens: for standard output, set path to \"-\"";
    file_type.is_socket().then_some(socket)
}

/// Whether this process may write the file, or create it.
pub(super) fn check_writable(path: &Path) -> io::Result<()> {
    if let Some(problem) = problem_at(path) {
        return Err(io::Error::other(problem));
    }
    match access(path, AccessFlags::W_OK) {
        Err(Errno::ENOENT) => {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory = directory.unwrap_or(Path::new("."));
            Ok(access(directory, AccessFlags::W_OK | AccessFlags::X_OK)?)
        }
        checked => Ok(checked?),
    }
}

/// Opens a file for appending, repairs its end, and creates it if it is missing.
pub(super) fn open(path: &Path, mode: u32, group: Option<u32>) -> io::Result<File> {
    if let Some(problem) = problem_at(path) {
        return Err(io::Error::other(problem));
    }
    let file = match to_append().open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => create(path, mode, group)?,
        opened => opened?,
    };
    if file.metadata()?.is_file() {
        repair(&file, path)?;
        // Each time, because the process that created the file may have been killed before this.
        sync_name(path)?;
    }
    Ok(file)
}

/// Whether the path still names this file: it was not moved away or replaced.
pub(super) fn is_still_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), std::fs::metadata(path)) else { return false };
    file_system::identity(&open) == file_system::identity(&named)
}

fn to_append() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    options
}

fn create(path: &Path, mode: u32, group: Option<u32>) -> io::Result<File> {
    if let Ok(target) = std::fs::read_link(path) {
        // The link stays, and the file is created at its target.
        return create(&path.parent().unwrap_or(path).join(target), mode, group);
    }
    let mut partial = OsString::from(".");
    partial.push(path.file_name().unwrap_or_default());
    partial.push(".new");
    let partial = path.with_file_name(partial);
    // A killed process may have left one.
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = to_append().create_new(true).mode(mode).open(&partial)?;
    let named = set_owner(&file, &partial, mode, group).and_then(|()| std::fs::rename(&partial, path));
    if named.is_err() {
        // If this fails, the next creation removes it.
        let _ = std::fs::remove_file(&partial);
    }
    named.map(|()| file)
}

fn set_owner(file: &File, path: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    // Whatever the umask is: the configuration decides who may read it.
    file_system::set_mode(file, path, mode)?;
    // A sandbox may forbid the call. Without a configured group it is not needed.
    if group.is_none() {
        return Ok(());
    }
    match fchown(file, None, group) {
        Err(_) if Some(file.metadata()?.gid()) == group => Ok(()),
        set => set.map_err(|error| file_system::failed("set the group of", path, &error)),
    }
}

/// Makes the name of the file survive a crash.
fn sync_name(path: &Path) -> io::Result<()> {
    // The directory of the file, not of a link to it.
    let path = path.canonicalize()?;
    match file_system::sync_directory(path.parent().unwrap_or(&path)) {
        // kfwatch may own the file in a directory that it may not read.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn file_is_created_at_target_of_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir(path("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere/events.jsonl", path("link.jsonl")).unwrap();
        std::fs::write(path("elsewhere/.events.jsonl.new"), "left").unwrap();
        let file = open(&path("link.jsonl"), 0o662, None).unwrap();
        assert!(is_still_at(&file, &path("elsewhere/events.jsonl")) && path("link.jsonl").is_symlink());
        let created = file.metadata().unwrap();
        assert_eq!((created.len(), created.permissions().mode() & 0o777), (0, 0o662));
        assert!(!path("elsewhere/.events.jsonl.new").exists());
    }
}
