//! Backup files. One that is restored can be opened; one that is refused leaves no store.

#![no_main]

use std::{fs, ops::ControlFlow, sync::Arc};

use jiff::Timestamp;
use kfwatch::store::Store;
use kfwatch_fuzz::check_line;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|backup: &[u8]| {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("backup"), directory.path().join("kfwatch.db"));
    fs::write(&from, backup).unwrap();
    match Store::restore(&to, &from, Timestamp::UNIX_EPOCH, &(Arc::new(|_| ControlFlow::Continue(())) as _)) {
        Ok(_) => drop(Store::open_to_read(&to).expect("a restored store can be opened")),
        Err(error) => {
            check_line(&kfwatch::chain(&error));
            assert!(!to.exists(), "a refused backup became the store");
        }
    }
});
