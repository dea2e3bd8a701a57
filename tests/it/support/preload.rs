//! Libraries that change what the system does for kfwatch.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::support::process::Home;

/// A compiled library, in a directory of its own.
pub(crate) struct PreloadedLibrary {
    directory: TempDir,
    path: PathBuf,
}

impl PreloadedLibrary {
    /// Compiles a C file of this directory, given without `.c`.
    pub(crate) fn compile(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("preloaded.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&path);
        let built = compiler.arg(format!("tests/it/support/{name}.c")).status().unwrap();
        assert!(built.success(), "cc: {built}");
        Self { directory, path }
    }

    /// Where a test and the library may exchange files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Loads the library into all processes of `home`.
    pub(crate) fn preload_into(&self, home: Home) -> Home {
        home.set("LD_PRELOAD", self.path.to_str().unwrap())
    }
}
