//! What a restore brings back, and that no sequence is used for two events.

use std::{collections::BTreeMap, fs};

use kfwatch::store::{SinkRegistration, StartPosition, Store};
use serde_json::Value;

use crate::support::{
    backup::*,
    process::{Home, WeChat, appid, quiet},
    wait::eventually,
};

/// A file sink.
const ARCHIVE: &str = "[[sinks]]\nname = \"archive\"\ntype = \"jsonl\"\npath = \"events.jsonl\"\n";

/// Returns all delivered events.
fn delivered(home: &Home) -> Vec<Value> {
    let text = fs::read_to_string(home.path("events.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn text(event: &Value, pointer: &str) -> String {
    event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Returns the deliveries of a start or end of this customer's session.
fn of<'a>(events: &'a [Value], kind: &str, openid: &str) -> Vec<&'a Value> {
    let is = |event: &&Value| text(event, "/type").ends_with(kind) && text(event, "/data/openid") == openid;
    events.iter().filter(is).collect()
}

fn sequence(event: &Value) -> u64 {
    text(event, "/sequence").parse().unwrap()
}

fn assert_unique_sequences(deliveries: &[Value]) {
    let mut numbered = BTreeMap::new();
    for event in deliveries {
        let number = (text(event, "/source"), sequence(event));
        let other = numbered.insert(number, event).filter(|other| other != &event);
        assert_eq!(other, None, "one sequence for two events: {event}");
    }
}

#[test]
fn restore_returns_backup_and_repeats_no_sequence() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let home = Home::watching(&wechat, ARCHIVE).without_collectors();
    let both = fs::read_to_string(home.path("config.toml")).unwrap();
    let first_only = both.replace(", \"kf2@shop\"", "");
    assert_ne!(both, first_only, "{both}");
    home.write("config.toml", &first_only);
    let control = wechat.control();
    let open = |kf: &str, openid: &str| control.open_session(&appid(0), kf, openid, None).unwrap();
    let close = |kf: &str, openid: &str| control.close_session(&appid(0), kf, openid).unwrap();
    let wait_for = |kind: &str, openid: &str, times: usize| {
        eventually(&format!("{openid} {kind}"), || {
            (of(&delivered(&home), kind, openid).len() >= times).then_some(())
        });
    };

    let daemon = home.daemon();
    open("kf1@shop", "oA");
    wait_for("started", "oA", 1);
    assert_eq!(home.run("backup backup.db").code, Some(0));
    // Events that the backup does not have, among them those of another kf account.
    daemon.signal("TERM");
    daemon.ended();
    home.write("config.toml", &both);
    open("kf2@shop", "oN");
    let daemon = home.daemon();
    close("kf1@shop", "oA");
    open("kf1@shop", "oC");
    open("kf1@shop", "oD");
    wait_for("started", "oD", 1);
    close("kf1@shop", "oD");
    wait_for("ended", "oD", 1);
    for (kind, openid) in [("ended", "oA"), ("started", "oC"), ("started", "oN")] {
        wait_for(kind, openid, 1);
    }
    daemon.signal("TERM");
    daemon.ended();
    let epoch = |path| number(&read(path), "SELECT epoch FROM lease");
    let (store, before) = (home.path("kfwatch.db"), delivered(&home));
    let (known, last_epoch) = (events(&store), epoch(&store));

    let ended = home.run("restore backup.db");
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert_eq!((events(&store), mode(&store)), (1, 0o600));
    assert!(epoch(&store) > last_epoch);
    let kept = kept(&home.path(""));
    assert_eq!((kept.len(), events(&kept[0]), mode(&kept[0])), (1, known, 0o600));
    assert!(ended.stdout.contains(kept[0].file_name().unwrap().to_str().unwrap()), "{ended:?}");

    let _daemon = home.daemon();
    for (kind, openid) in [("ended", "oA"), ("started", "oC"), ("started", "oN")] {
        wait_for(kind, openid, 2);
    }
    open("kf1@shop", "oE");
    wait_for("started", "oE", 1);
    let all = delivered(&home);
    assert_unique_sequences(&all);
    for (kind, openid) in [("ended", "oA"), ("started", "oC"), ("started", "oN")] {
        let twice = of(&all, kind, openid);
        assert_eq!(text(twice[0], "/id"), text(twice[1], "/id"), "{kind} {openid}");
        assert!(sequence(twice[1]) > 1_000_000 && sequence(twice[0]) < 1_000_000);
    }
    assert_eq!(of(&all, "started", "oD").len(), 1, "it started and ended after the backup");
    assert!(before.iter().all(|event| all.contains(event)));
}

#[test]
fn event_ids_are_new_after_restores() {
    let directory = tempfile::tempdir().unwrap();
    let [path, backup] = ["kfwatch.db", "backup.db"].map(|name| directory.path().join(name));
    grow(&path, 0, 5);
    for round in 1..4_u64 {
        fs::remove_file(&backup).ok();
        Store::back_up(&path, &backup, &no_observer()).unwrap();
        grow(&path, 1_000, 7);
        let used = number(&read(&path), "SELECT max(id) FROM events");
        let restored = Store::restore(&path, &backup, at(0), &no_observer()).unwrap();
        assert_eq!(restored.summary.events, 3 + 2 * round);
        run(async {
            let more = 1_000 * i64::try_from(round).unwrap();
            let store = open_with(&path, more, 2).await;
            let sink =
                |name: &str, start| SinkRegistration { name: name.to_owned(), start, destination: None };
            let sinks = vec![sink("all", StartPosition::Beginning), sink("new", StartPosition::Now)];
            store.register_sinks(sinks, at(0)).await.unwrap();
            assert_eq!(store.sink("all").await.unwrap().backlog.events, 5 + 2 * round);
            let newest =
                number(&read(&path), "SELECT min(id) FROM (SELECT id FROM events ORDER BY id DESC LIMIT 2)");
            assert!(newest > used, "{newest} was used before ({used})");
            store.close().await;
        });
    }
}

#[test]
fn copied_store_and_kept_store_can_be_restored() {
    let directory = tempfile::tempdir().unwrap();
    let [path, copy] = ["kfwatch.db", "copy.db"].map(|name| directory.path().join(name));
    grow(&path, 0, 5);
    fs::copy(&path, &copy).unwrap();
    grow(&path, 10, 2);
    let restored = Store::restore(&path, &copy, at(0), &no_observer()).unwrap();
    assert_eq!(events(&path), 5);
    let again = Store::restore(&path, &restored.kept.unwrap(), at(0), &no_observer()).unwrap();
    assert_eq!((again.summary.events, events(&path)), (7, 7));
    grow(&path, 20, 1);
    assert_eq!(kept(directory.path()).len(), 2);
}

#[test]
fn restored_backup_of_older_version_is_migrated() {
    let directory = tempfile::tempdir().unwrap();
    let [path, backup] = ["kfwatch.db", "backup.db"].map(|name| directory.path().join(name));
    let connection = rusqlite::Connection::open(&backup).unwrap();
    connection.execute_batch(include_str!("../store/version_1.sql")).unwrap();
    connection.execute_batch("PRAGMA application_id = 0x6b667761; PRAGMA user_version = 1").unwrap();
    drop(connection);
    let restored = Store::restore(&path, &backup, at(0), &no_observer()).unwrap();
    assert_eq!((restored.kept, restored.summary.events), (None, 0));
    grow(&path, 0, 3);
    assert_eq!(number(&read(&path), "SELECT min(sequence) FROM events"), 1_000_001);
    assert_eq!(number(&read(&backup), "PRAGMA user_version"), 1, "the backup is only read");
}
