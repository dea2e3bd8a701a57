//! File systems that cannot sync directories, set permissions or make hard links.

use std::fs;

use crate::support::{
    backup::{events, grow, home as home_with_account, kept},
    delivery::{self, eventually_logged, file, times_logged},
    poor_file_system::PoorFileSystem,
    process::{Home, WeChat, quiet},
    wait::eventually,
};

const NO_SYNC: &str = "The file system cannot sync a directory";

/// A WeChat with an open session, and a home that writes its events to a file.
fn stage(disk: &PoorFileSystem, variable: &str, value: &str) -> (WeChat, Home) {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    delivery::open(&wechat.control(), "kf1@shop", "oA");
    let home = delivery::home(&wechat, &file("archive", "events.jsonl"));
    (wechat, disk.lacking(home, variable, value))
}

fn eventually_written(home: &Home) {
    eventually("the event", || {
        fs::read_to_string(home.path("events.jsonl")).unwrap_or_default().contains("oA").then_some(())
    });
}

#[test]
fn directory_that_cannot_be_synced_is_reported_once() {
    let disk = PoorFileSystem::build();
    for errno in ["22", "95"] {
        let (wechat, home) = stage(&disk, "LACKS_SYNC", errno);
        let daemon = home.daemon();
        eventually_written(&home);
        // The sink opens, and syncs, a second file.
        fs::rename(home.path("events.jsonl"), home.path("events.jsonl.1")).unwrap();
        daemon.signal("HUP");
        delivery::open(&wechat.control(), "kf1@shop", "oA2");
        eventually_written(&home);
        let log = daemon.terminate().stderr;
        assert_eq!(times_logged(&log, NO_SYNC), 1, "{log}");
        for arguments in ["backup copy.db", "restore copy.db"] {
            let ended = home.run(arguments);
            assert_eq!(ended.code, Some(0), "{arguments}: {ended:?}");
        }
    }
}

#[test]
fn failing_sync_of_directory_is_an_error_that_names_it() {
    let disk = PoorFileSystem::build();
    let (_wechat, home) = stage(&disk, "LACKS_SYNC", "5");
    let daemon = home.daemon();
    eventually_logged(&daemon, "events.jsonl: cannot sync the directory ");
    assert_eq!(delivery::sink_metric(&daemon, "archive", "delivered_events_total"), 0.0);
    daemon.terminate();
    let ended = home.run("backup copy.db");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("cannot sync the directory ") && ended.stderr.contains("Input/output error")
    );
}

#[test]
fn refused_permissions_are_accepted_if_file_is_private_anyway() {
    let disk = PoorFileSystem::build();
    let (_wechat, home) = stage(&disk, "LACKS_MODES", "0600");
    let daemon = home.daemon();
    eventually_written(&home);
    // A new socket is always more open than that.
    eventually_logged(&daemon, "This daemon accepts no commands while it runs: ");
    eventually_logged(&daemon, "kfwatch.db-control: cannot set the permissions of ");
    daemon.terminate();
    assert_eq!(home.run("backup copy.db").code, Some(0));
}

#[test]
fn refused_permissions_of_open_file_are_an_error_that_names_it() {
    let disk = PoorFileSystem::build();
    let home = disk.lacking(home_with_account(), "LACKS_MODES", "0755");
    let ended = home.run("run");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for expected in [
        "cannot set the permissions of ",
        "kfwatch.db-lock to 0600: ",
        "its file system gives every file 0755",
    ] {
        assert!(ended.stderr.contains(expected), "{ended:?}");
    }
}

#[test]
fn restore_keeps_replaced_store_without_hard_links() {
    let disk = PoorFileSystem::build();
    let home = disk.lacking(home_with_account(), "LACKS_LINKS", "1");
    let store = home.path("kfwatch.db");
    grow(&store, 1, 2);
    assert_eq!(home.run("backup copy.db").code, Some(0));
    grow(&store, 3, 1);
    let ended = home.run("restore copy.db");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(events(&store), 2);
    let kept = kept(&home.path(""));
    assert_eq!(kept.len(), 1);
    assert_eq!(events(&kept[0]), 3);
}
