//! A file system that lacks operations, for all files of the kfwatch of a home.

use std::process::Command;

use tempfile::TempDir;

use crate::support::process::Home;

/// The library that is preloaded.
pub(crate) struct PoorFileSystem {
    directory: TempDir,
}

impl PoorFileSystem {
    pub(crate) fn build() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(directory.path().join("poor.so"));
        let built = compiler.arg("tests/it/support/poor_file_system.c").status().unwrap();
        assert!(built.success(), "cc: {built}");
        Self { directory }
    }

    /// Takes something away from the file system of a home: one of the variables that the library reads.
    pub(crate) fn lacking(&self, home: Home, variable: &str, value: &str) -> Home {
        let library = self.directory.path().join("poor.so");
        home.set("LD_PRELOAD", library.to_str().unwrap()).set(variable, value)
    }
}
