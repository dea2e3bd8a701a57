//! The wall clock of a daemon, which a test can set.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicI64, Ordering},
};

use tempfile::TempDir;

use crate::support::process::Home;

/// The wall clock of the daemons of one home. The monotonic clock is the machine's.
pub(crate) struct WallClock {
    directory: TempDir,
    seconds_ahead: AtomicI64,
}

impl WallClock {
    /// Builds the library that is preloaded into the daemons of a home.
    pub(crate) fn build() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(directory.path().join("clock.so"));
        let built = compiler.arg("tests/it/support/wall_clock.c").status().unwrap();
        assert!(built.success(), "cc: {built}");
        Self { directory, seconds_ahead: AtomicI64::new(0) }
    }

    /// Gives the daemons of `home` this clock.
    pub(crate) fn of(&self, home: Home) -> Home {
        let path = |path: PathBuf| path.to_str().unwrap().to_owned();
        home.set("LD_PRELOAD", &path(self.directory.path().join("clock.so")))
            .set("WALL_CLOCK_FILE", &path(self.file()))
    }

    /// Sets it back.
    pub(crate) fn set_back(&self, seconds: i64) {
        let ahead = self.seconds_ahead.fetch_sub(seconds, Ordering::Relaxed) - seconds;
        // Renamed, because a reader must never see half of it.
        let written = self.directory.path().join("next");
        fs::write(&written, ahead.to_string()).unwrap();
        fs::rename(written, self.file()).unwrap();
    }

    /// What it shows, in UNIX milliseconds.
    pub(crate) fn now_ms(&self) -> i64 {
        super::wait::wall_ms() + 1000 * self.seconds_ahead.load(Ordering::Relaxed)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("seconds-ahead")
    }
}
