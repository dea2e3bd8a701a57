//! A disk that, for some files of a daemon, fails with EIO or hangs while a test wants it to.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{preload::PreloadedLibrary, process::Home};

/// An operation that can be made to fail.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DiskFault {
    /// Changing a file's owner: the first process that tries is killed.
    Own,
    /// Writing to files.
    Write,
    /// Syncing written data.
    Sync,
    /// Truncating files.
    Cut,
    /// Reading from files, which hangs.
    Read,
}

/// The failing disk of one home.
pub(crate) struct FailingDisk {
    library: PreloadedLibrary,
}

impl FailingDisk {
    /// Builds the library that is preloaded into the daemons of a home.
    pub(crate) fn build() -> Self {
        Self { library: PreloadedLibrary::compile("failing_disk") }
    }

    /// Puts the files of `home` whose names start with `prefix` on this disk.
    pub(crate) fn under(&self, home: Home, prefix: &str) -> Home {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let prefix = text(&home.path("").canonicalize().unwrap().join(prefix));
        self.library
            .preload_into(home)
            .set("EIO_FLAGS", &text(self.library.directory()))
            .set("EIO_PREFIX", &prefix)
    }

    pub(crate) fn fail(&self, faults: &[DiskFault]) {
        faults.iter().for_each(|fault| fs::write(self.flag(*fault), "").unwrap());
    }

    pub(crate) fn recover(&self) {
        for fault in [DiskFault::Write, DiskFault::Sync, DiskFault::Cut, DiskFault::Read] {
            // Faults that were not set have no flag.
            let _ = fs::remove_file(self.flag(fault));
        }
    }

    fn flag(&self, fault: DiskFault) -> PathBuf {
        self.library.directory().join(match fault {
            DiskFault::Own => "own",
            DiskFault::Write => "write",
            DiskFault::Sync => "sync",
            DiskFault::Cut => "cut",
            DiskFault::Read => "read",
        })
    }
}
