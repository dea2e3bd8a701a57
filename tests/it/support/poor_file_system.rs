//! A file system that lacks operations, for all files of the kfwatch of a home.

use crate::support::{preload::PreloadedLibrary, process::Home};

pub(crate) struct PoorFileSystem(PreloadedLibrary);

impl PoorFileSystem {
    pub(crate) fn build() -> Self {
        Self(PreloadedLibrary::compile("poor_file_system"))
    }

    /// Takes something away from the file system of a home: one of the variables that the library reads.
    pub(crate) fn lacking(&self, home: Home, variable: &str, value: &str) -> Home {
        self.0.preload_into(home).set(variable, value)
    }
}
