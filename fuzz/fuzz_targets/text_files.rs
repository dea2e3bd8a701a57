//! Files that the configuration names: secrets, keys, headers, credentials, tokens and certificates. Each is read with the
//! same content. No message shows any of it.

#![no_main]

use std::{cell::LazyCell, fs, os::unix::fs::PermissionsExt};

use kfwatch::{
    config::{Config, Environment},
    tls::TlsRoots,
    wechat::token::read_token_file,
};
use kfwatch_fuzz::{check_line, check_mistakes};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// Every kind of file, in one configuration each, because the first unusable one of a table may hide others.
const CONFIG: &str = include_str!("text_files.toml");

/// The length of an AppSecret. Messages contain shorter lines, such as the first line of a certificate.
const MIN_TELLING_BYTES: usize = 32;

thread_local! {
    static DIRECTORY: LazyCell<TempDir> = LazyCell::new(|| {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.toml"), CONFIG).unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        directory
    });
}

fuzz_target!(|content: &[u8]| {
    DIRECTORY.with(|directory| {
        let file = directory.path().join("file");
        fs::write(&file, content).unwrap();
        let mut messages = String::new();
        if let Err(mistakes) = Config::load(&directory.path().join("config.toml"), &Environment::default()) {
            check_mistakes(&mistakes);
            messages = mistakes.to_string();
        }
        for pointer in [None, Some("/access_token")] {
            if let Err(problem) = read_token_file(&file, pointer) {
                check_line(&problem);
                messages.push_str(&problem);
            }
        }
        if let Err(error) = TlsRoots::from_file(&file) {
            let error = kfwatch::chain(&error);
            check_line(&error);
            messages.push_str(&error);
        }
        let shown = std::str::from_utf8(content).is_ok_and(|text| {
            text.lines().map(str::trim).any(|line| line.len() >= MIN_TELLING_BYTES && messages.contains(line))
        });
        assert!(!shown, "a message shows what is in the file: {messages}");
    });
});
