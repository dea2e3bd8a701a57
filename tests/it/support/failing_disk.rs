//! A disk that fails with EIO, or hangs, when a test wants it, for some files of a daemon.

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;

use crate::support::process::Home;

/// What fails while it is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// Saying whose a file is: the first who is about to is killed.
    Own,
    /// Writing to files.
    Write,
    /// Syncing what was written.
    Sync,
    /// Making files shorter.
    Cut,
    /// Reading from files, which hangs.
    Read,
}

/// The failing disk of one home.
pub(crate) struct FailingDisk {
    directory: TempDir,
}

impl FailingDisk {
    /// Builds what is preloaded into the daemons of a home.
    pub(crate) fn build() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(directory.path().join("eio.so"));
        let built = compiler.arg("tests/it/support/failing_disk.c").status().unwrap();
        assert!(built.success(), "cc: {built}");
        Self { directory }
    }

    /// The home whose files with this beginning of their names are on it.
    pub(crate) fn under(&self, home: Home, prefix: &str) -> Home {
        let path = |path: PathBuf| path.to_str().unwrap().to_owned();
        let prefix = path(home.path("").canonicalize().unwrap().join(prefix));
        home.set("LD_PRELOAD", &path(self.directory.path().join("eio.so")))
            .set("EIO_FLAGS", &path(self.directory.path().to_path_buf()))
            .set("EIO_PREFIX", &prefix)
    }

    pub(crate) fn fail(&self, troubles: &[Trouble]) {
        troubles.iter().for_each(|trouble| fs::write(self.flag(*trouble), "").unwrap());
    }

    pub(crate) fn mend(&self) {
        for trouble in [Trouble::Write, Trouble::Sync, Trouble::Cut, Trouble::Read] {
            // Those that did not fail have no flag.
            let _ = fs::remove_file(self.flag(trouble));
        }
    }

    fn flag(&self, trouble: Trouble) -> PathBuf {
        self.directory.path().join(match trouble {
            Trouble::Own => "own",
            Trouble::Write => "write",
            Trouble::Sync => "sync",
            Trouble::Cut => "cut",
            Trouble::Read => "read",
        })
    }
}
