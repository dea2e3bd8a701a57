//! The file behind a path: opened, created, synced by its name.
//!
//! One that is there is taken as it is; whoever put it there chose its owner and its permissions. One that is created has the
//! configured ones before it has its name, so that no kill leaves it to the wrong group.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::Path,
};

use super::repair::repair;

/// Opens a file to append to, ends it with a whole line, and makes it if there is none.
pub(super) fn open(path: &Path, mode: u32, group: Option<u32>) -> io::Result<File> {
    let file = match to_append().open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => create(path, mode, group)?,
        opened => opened?,
    };
    if file.metadata()?.is_file() {
        repair(&file, path)?;
        // At each opening: whoever created the file may have been killed before this, or have failed at it.
        sync_name(path)?;
    }
    Ok(file)
}

/// Whether it was not moved away or replaced.
pub(super) fn is_still_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), std::fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

fn to_append() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    options
}

fn create(path: &Path, mode: u32, group: Option<u32>) -> io::Result<File> {
    if let Ok(target) = std::fs::read_link(path) {
        // The link stays, and the file is made where it points.
        return create(&path.parent().unwrap_or(path).join(target), mode, group);
    }
    let mut unnamed = OsString::from(".");
    unnamed.push(path.file_name().unwrap_or_default());
    unnamed.push(".new");
    let unnamed = path.with_file_name(unnamed);
    // A kill may have left one.
    match std::fs::remove_file(&unnamed) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = to_append().create_new(true).mode(mode).open(&unnamed)?;
    let named = own(&file, mode, group).and_then(|()| std::fs::rename(&unnamed, path));
    if named.is_err() {
        // At worst it is in the way of nobody.
        let _ = std::fs::remove_file(&unnamed);
    }
    named.map(|()| file)
}

fn own(file: &File, mode: u32, group: Option<u32>) -> io::Result<()> {
    // Whatever the umask is: the configuration says who may read it.
    file.set_permissions(Permissions::from_mode(mode))?;
    // A sandbox may forbid the call, which is no reason to fail where no group is asked for.
    if group.is_some() { fchown(file, None, group) } else { Ok(()) }
}

/// The name must survive a crash as well as the content.
fn sync_name(path: &Path) -> io::Result<()> {
    // Of the file itself, should a link lead there.
    let path = path.canonicalize()?;
    match File::open(path.parent().unwrap_or(&path)) {
        // It may be one in which kfwatch owns a file and sees nothing else.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        opened => opened?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_where_a_link_points_and_replaces_what_a_kill_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir(path("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere/events.jsonl", path("link.jsonl")).unwrap();
        std::fs::write(path("elsewhere/.events.jsonl.new"), "left").unwrap();
        let file = open(&path("link.jsonl"), 0o662, None).unwrap();
        assert!(is_still_at(&file, &path("elsewhere/events.jsonl")) && path("link.jsonl").is_symlink());
        let made = file.metadata().unwrap();
        assert_eq!((made.len(), made.permissions().mode() & 0o777), (0, 0o662));
        assert!(!path("elsewhere/.events.jsonl.new").exists());
    }
}
