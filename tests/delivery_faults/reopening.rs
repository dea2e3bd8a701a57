//! SIGHUP, and files that others move, empty and replace.

use std::{fs, path::Path};

use crate::{
    support_delivery::{
        log::EventLog,
        scene::{self, eventually_delivered, eventually_logged, file, home, of_sink, terminate},
    },
    support_ops::{Home, Process, WeChat, eventually, quiet},
};

const REOPENED: &str = "SIGHUP: files of sinks are closed";

fn open(wechat: &WeChat, openid: &str) {
    scene::open(&wechat.control(), "kf1@shop", openid);
}

fn read(home: &Home, name: &str) -> String {
    fs::read_to_string(home.path(name)).unwrap_or_default()
}

fn eventually_written(home: &Home, name: &str, openid: &str) {
    eventually(openid, || read(home, name).contains(openid).then_some(()));
}

/// Whether the process has the file open.
fn has_open(daemon: &Process, path: &Path) -> bool {
    let files = fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap();
    files.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).any(|open| open == path)
}

#[test]
fn at_sighup_a_file_that_was_moved_away_is_closed_at_once_and_a_new_one_made_at_the_next_event() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = home(&wechat, &file("archive", "events.jsonl"));
    let daemon = home.daemon();
    open(&wechat, "oA");
    eventually_written(&home, "events.jsonl", "oA");
    eventually_delivered(&daemon, "archive");
    fs::rename(home.path("events.jsonl"), home.path("events.jsonl.1")).unwrap();
    let moved = home.path("events.jsonl.1").canonicalize().unwrap();
    assert!(has_open(&daemon, &moved));
    daemon.signal("HUP");
    eventually("the file is closed", || (!has_open(&daemon, &moved)).then_some(()));
    assert!(!home.path("events.jsonl").exists(), "there is nothing to write");
    open(&wechat, "oB");
    eventually_written(&home, "events.jsonl", "oB");
    terminate(daemon);
    let files = [read(&home, "events.jsonl.1"), read(&home, "events.jsonl")];
    assert_eq!(EventLog::of(&home).assert_written("archive", &files), 0);
}

#[test]
fn at_sighup_a_file_that_was_emptied_or_spoiled_is_looked_at_again() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = home(&wechat, &file("archive", "events.jsonl"));
    let daemon = home.daemon();
    open(&wechat, "oA");
    eventually_written(&home, "events.jsonl", "oA");
    eventually_delivered(&daemon, "archive");
    // Copied and emptied; something that died in the middle of a line wrote to it, too.
    fs::write(home.path("events.jsonl"), "{\"specversion\":\"1.0\",\"id\":\"53bf").unwrap();
    daemon.signal("HUP");
    eventually_logged(&daemon, REOPENED);
    open(&wechat, "oB");
    eventually_written(&home, "events.jsonl", "oB");
    terminate(daemon);
    let text = read(&home, "events.jsonl");
    assert!(
        text.lines().count() == 1
            && text.starts_with("{\"specversion\":\"1.0\",\"id\":\"")
            && text.ends_with("}\n")
    );
}

#[test]
fn a_sink_that_cannot_open_its_file_takes_sighup_as_well_and_goes_on_when_it_can() {
    let wechat = WeChat::play(quiet(&[("shop", 1)]));
    let home = home(&wechat, &file("archive", "events.jsonl"));
    fs::create_dir(home.path("events.jsonl")).unwrap();
    let daemon = home.daemon();
    open(&wechat, "oA");
    eventually_logged(&daemon, "Delivery stands still and will be tried again");
    daemon.signal("HUP");
    eventually_logged(&daemon, REOPENED);
    assert_eq!(of_sink(&daemon, "archive", "delivered_events_total"), 0.0);
    fs::remove_dir(home.path("events.jsonl")).unwrap();
    eventually_written(&home, "events.jsonl", "oA");
    eventually_logged(&daemon, "Delivery goes on");
    terminate(daemon);
}
