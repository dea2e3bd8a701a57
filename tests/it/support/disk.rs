//! A disk so small that it can be filled.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// A small file system in memory. Dropping it unmounts it, even while something is still open on it.
pub(crate) struct SmallDisk {
    directory: TempDir,
    /// What gives the right to mount and unmount.
    right: &'static [&'static str],
}

impl SmallDisk {
    /// Of so many megabytes. None where neither this user nor sudo may mount: said on standard error, past the test harness,
    /// which shows nothing of a test that passes.
    pub(crate) fn mount(megabytes: usize) -> Option<SmallDisk> {
        let directory = tempfile::tempdir().unwrap();
        let user = directory.path().metadata().unwrap();
        let options = format!("size={megabytes}m,mode=0700,uid={},gid={}", user.uid(), user.gid());
        for right in [&[][..], &["sudo", "-n"]] {
            let mut mount = with(right, "mount");
            mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory.path());
            if mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
                return Some(SmallDisk { directory, right });
            }
        }
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let skipped = "SKIPPED, not passed: no small disk could be mounted, which needs root or sudo";
        std::io::stderr().write_all(format!("{test}: {skipped}\n").as_bytes()).unwrap();
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes ballast until nothing more fits.
    pub(crate) fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
    }

    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Were it to fail, the directory would stay behind: nothing to be done about it here.
        with(self.right, "umount").arg("--lazy").arg(self.path()).status().ok();
    }
}

fn with(right: &[&str], program: &str) -> Command {
    let mut words = right.iter().copied().chain([program]);
    let mut command = Command::new(words.next().unwrap_or(program));
    command.args(words);
    command
}
