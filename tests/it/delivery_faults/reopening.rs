//! SIGHUP, and files that other programs move, truncate and replace.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use crate::support::{
    delivery::{self, eventually_delivered, eventually_logged, file, home, sink_metric, times_logged},
    event_log::EventLog,
    failing_disk::{DiskFault, FailingDisk},
    process::{Home, Process, WeChat, quiet},
    wait::eventually,
};

const REOPENED: &str = "SIGHUP: sinks reopen their files";

fn open(wechat: &WeChat, openid: &str) {
    delivery::open(&wechat.control(), "kf1@shop", openid);
}

fn read(home: &Home, name: &str) -> String {
    fs::read_to_string(home.path(name)).unwrap_or_default()
}

fn eventually_written(home: &Home, name: &str, openid: &str) {
    eventually(openid, || read(home, name).contains(openid).then_some(()));
}

/// A daemon that has written `oA` to `events.jsonl` and keeps the file open.
fn daemon_with_first_event() -> (WeChat, Home, Process) {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = home(&wechat, &file("archive", "events.jsonl"));
    let daemon = home.daemon();
    open(&wechat, "oA");
    eventually_written(&home, "events.jsonl", "oA");
    eventually_delivered(&daemon, "archive");
    (wechat, home, daemon)
}

/// Whether the process has the file open.
fn has_open(daemon: &Process, path: &Path) -> bool {
    let files = fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap();
    files.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).any(|open| open == path)
}

#[test]
fn sighup_closes_moved_file_and_next_event_creates_one() {
    let (wechat, home, daemon) = daemon_with_first_event();
    fs::rename(home.path("events.jsonl"), home.path("events.jsonl.1")).unwrap();
    let moved = home.path("events.jsonl.1").canonicalize().unwrap();
    assert!(has_open(&daemon, &moved));
    daemon.signal("HUP");
    eventually("the file is closed", || (!has_open(&daemon, &moved)).then_some(()));
    assert!(!home.path("events.jsonl").exists(), "there is nothing to write");
    open(&wechat, "oB");
    eventually_written(&home, "events.jsonl", "oB");
    daemon.terminate();
    let files = [read(&home, "events.jsonl.1"), read(&home, "events.jsonl")];
    assert_eq!(EventLog::of(&home).assert_written("archive", &files), 0);
}

#[test]
fn sighup_rereads_truncated_or_damaged_file() {
    let (wechat, home, daemon) = daemon_with_first_event();
    // Copied and truncated. A program that was killed in the middle of a line has also written to it, and the power
    // failed.
    let left = "{\"specversion\":\"1.0\",\"id\":\"53bf".to_owned() + &"\0".repeat(100_000);
    fs::write(home.path("events.jsonl"), &left).unwrap();
    daemon.signal("HUP");
    eventually_logged(&daemon, REOPENED);
    open(&wechat, "oB");
    eventually_written(&home, "events.jsonl", "oB");
    let log = daemon.terminate().stderr;
    assert_eq!(times_logged(&log, &format!("Removed {} bytes of a partial line", left.len())), 1, "{log}");
    let text = read(&home, "events.jsonl");
    assert!(
        text.lines().count() == 1
            && text.starts_with("{\"specversion\":\"1.0\",\"id\":\"")
            && text.ends_with("}\n")
    );
}

#[test]
fn sighup_retries_file_that_could_not_be_opened() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = home(&wechat, &file("archive", "events.jsonl"));
    fs::create_dir(home.path("events.jsonl")).unwrap();
    let daemon = home.daemon();
    open(&wechat, "oA");
    eventually_logged(&daemon, "Delivery failed and will be retried");
    daemon.signal("HUP");
    eventually_logged(&daemon, REOPENED);
    assert_eq!(sink_metric(&daemon, "archive", "delivered_events_total"), 0.0);
    fs::remove_dir(home.path("events.jsonl")).unwrap();
    eventually_written(&home, "events.jsonl", "oA");
    eventually_logged(&daemon, "Delivery recovered");
    daemon.terminate();
}

#[test]
fn killed_creation_leaves_file_with_group_and_permissions() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let group = nix::unistd::Group::from_gid(nix::unistd::getegid()).unwrap().unwrap();
    let owned = format!("mode = \"0662\"\ngroup = \"{}\"", group.name);
    let disk = FailingDisk::build();
    let home = disk.under(home(&wechat, &(file("archive", "events.jsonl") + &owned)), "");
    let daemon = home.daemon();
    disk.fail(&[DiskFault::Own]);
    open(&wechat, "oA");
    assert_eq!(daemon.ended().code, None, "it is killed");
    assert!(!home.path("events.jsonl").exists(), "its owner is not set yet");
    let daemon = home.daemon();
    eventually_written(&home, "events.jsonl", "oA");
    daemon.terminate();
    let made = fs::metadata(home.path("events.jsonl")).unwrap();
    assert_eq!((made.mode() & 0o777, made.gid()), (0o662, group.gid.as_raw()));
    let left = fs::read_dir(home.path(""))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("events.jsonl."));
    assert_eq!(left.count(), 0, "nothing is left of the first attempt");
}
