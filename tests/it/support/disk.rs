//! A disk that is small enough to be filled.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// A small file system in memory. It is unmounted on drop, even if a file on it is still open.
pub(crate) struct SmallDisk {
    directory: TempDir,
    /// The command prefix that allows mounting and unmounting.
    right: &'static [&'static str],
}

impl SmallDisk {
    /// Mounts a disk of this size. Returns `None` if neither this user nor sudo may mount, and says so on standard
    /// error directly, because the test harness hides the output of tests that pass.
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

    /// Writes ballast until the disk is full.
    pub(crate) fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
    }

    pub(crate) fn free_space(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // If it fails, the directory remains. Nothing can be done about that here.
        with(self.right, "umount").arg("--lazy").arg(self.path()).status().ok();
    }
}

fn with(right: &[&str], program: &str) -> Command {
    let mut words = right.iter().copied().chain([program]);
    let mut command = Command::new(words.next().unwrap_or(program));
    command.args(words);
    command
}
