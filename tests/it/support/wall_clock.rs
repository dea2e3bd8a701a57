//! The wall clock of a daemon, which a test can set.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicI64, Ordering},
};

use crate::support::{preload::PreloadedLibrary, process::Home};

/// The wall clock of the daemons of one home. The monotonic clock is the machine's.
pub(crate) struct WallClock {
    library: PreloadedLibrary,
    seconds_ahead: AtomicI64,
}

impl WallClock {
    /// Builds the library that is preloaded into the daemons of a home.
    pub(crate) fn build() -> Self {
        Self { library: PreloadedLibrary::compile("wall_clock"), seconds_ahead: AtomicI64::new(0) }
    }

    /// Gives the daemons of `home` this clock.
    pub(crate) fn of(&self, home: Home) -> Home {
        self.library.preload_into(home).set("WALL_CLOCK_FILE", self.file().to_str().unwrap())
    }

    /// Sets it back.
    pub(crate) fn set_back(&self, seconds: i64) {
        let ahead = self.seconds_ahead.fetch_sub(seconds, Ordering::Relaxed) - seconds;
        // Renamed, because a reader must never see half of it.
        let written = self.library.directory().join("next");
        fs::write(&written, ahead.to_string()).unwrap();
        fs::rename(written, self.file()).unwrap();
    }

    /// What it shows, in UNIX milliseconds.
    pub(crate) fn now_ms(&self) -> i64 {
        super::wait::wall_ms() + 1000 * self.seconds_ahead.load(Ordering::Relaxed)
    }

    fn file(&self) -> PathBuf {
        self.library.directory().join("seconds-ahead")
    }
}
