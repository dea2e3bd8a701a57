//! Configurations. What follows a line `# included` is the text of a file that the configuration includes.

#![no_main]

use std::{cell::LazyCell, fs, path::Path};

use kfwatch::config::{Config, Environment};
use kfwatch_fuzz::check_mistakes;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

const MARK: &[u8] = b"\n# included\n";

thread_local! {
    static DIRECTORY: LazyCell<TempDir> = LazyCell::new(|| tempfile::tempdir().unwrap());
}

fuzz_target!(|input: &[u8]| {
    DIRECTORY.with(|directory| {
        let environment = Environment::default();
        let included = input.windows(MARK.len()).position(|window| window == MARK);
        let result = match included {
            Some(at) => {
                let main = directory.path().join("config.toml");
                fs::write(directory.path().join("included.toml"), &input[at + MARK.len()..]).unwrap();
                fs::write(&main, &input[..at]).unwrap();
                Config::load(&main, &environment)
            }
            None => match std::str::from_utf8(input) {
                Ok(text) => Config::from_toml(text, Path::new("/nonexistent"), &environment),
                Err(_) => return,
            },
        };
        if let Err(mistakes) = result {
            check_mistakes(&mistakes);
        }
    });
});
