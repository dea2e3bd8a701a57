//! A store on a read-only file system.

use std::fs;

use crate::support::{
    backup::{events, grow, home, open_with, run},
    mounts::with_mounts,
    process::{Ended, Home, Process},
};

const READ_ONLY: &str = "the store is read-only: mount its file system for writing";

/// A home whose store is in a directory of its own.
fn home_with_directory() -> Home {
    let home = home().set("KFWATCH__STORE__PATH", "data/kfwatch.db");
    fs::create_dir(home.path("data")).unwrap();
    home
}

/// Runs a command that finds the directory of the store read-only. `None` if nothing can be mounted.
fn run_read_only(home: &Home, arguments: &str) -> Option<Ended> {
    let mounts = "mount --bind data data; mount -o remount,bind,ro data";
    Some(Process::spawn(with_mounts(&home.command(arguments), mounts)?).ended())
}

#[test]
fn closed_store_is_read_without_writing() {
    let home = home_with_directory();
    grow(&home.path("data/kfwatch.db"), 1, 3);
    for arguments in ["events --format json", "sinks", "events dead --sink log", "backup copy.db"] {
        let Some(ended) = run_read_only(&home, arguments) else { return };
        let is_unknown_sink = ended.stderr.contains("there is no sink");
        assert!(ended.code == Some(0) || is_unknown_sink, "{arguments}: {ended:?}");
    }
    let read = run_read_only(&home, "events --format json").unwrap();
    assert_eq!(read.stdout.lines().count(), 3, "{read:?}");
    assert_eq!(events(&home.path("copy.db")), 3);
    for arguments in ["run", "sinks resume log"] {
        let ended = run_read_only(&home, arguments).unwrap();
        assert!(ended.code == Some(1) && ended.stderr.contains(READ_ONLY), "{arguments}: {ended:?}");
    }
    let checked = run_read_only(&home, "check").unwrap();
    assert!(checked.code == Some(1) && checked.stderr.contains(READ_ONLY), "{checked:?}");
}

#[test]
fn log_that_cannot_be_read_is_refused_like_a_start() {
    let home = home_with_directory();
    // As a killed daemon leaves it.
    let store = run(open_with(&home.path("kfwatch.db"), 1, 3));
    for suffix in ["", "-wal"] {
        let name = format!("kfwatch.db{suffix}");
        fs::copy(home.path(&name), home.path("data").join(&name)).unwrap();
    }
    for arguments in ["run", "events", "sinks", "backup copy.db"] {
        let Some(ended) = run_read_only(&home, arguments) else { return };
        assert!(ended.code == Some(1) && ended.stderr.contains(READ_ONLY), "{arguments}: {ended:?}");
    }
    // As a daemon that runs elsewhere has it.
    fs::copy(home.path("kfwatch.db-shm"), home.path("data/kfwatch.db-shm")).unwrap();
    let read = run_read_only(&home, "events --format json").unwrap();
    assert!(read.code == Some(0) && read.stdout.lines().count() == 3, "{read:?}");
    drop(store);
}
