//! Refused commands: one line of error, nothing changed, and no file left.

use std::{fs, os::unix::fs::PermissionsExt};

use rusqlite::Connection;

use crate::support::{backup::*, disk::SmallDisk, process::Home, wait::eventually};

/// Asserts exit code 1, one line that contains these texts, and unchanged files.
fn refused(home: &Home, command: &str, expected: &[&str]) {
    let (store, before) = (home.path("kfwatch.db"), listing(home));
    let content = fs::read(&store).ok();
    let ended = home.run(command);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{command}: {ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{command}: {ended:?}");
    for text in expected {
        assert!(ended.stderr.contains(text), "{command}: {text:?} is not in {ended:?}");
    }
    assert_eq!(listing(home), before, "{command}");
    assert_eq!(fs::read(&store).ok(), content, "{command}");
}

fn home_with_store() -> Home {
    let home = home();
    grow(&home.path("kfwatch.db"), 0, 200);
    home
}

#[test]
fn backup_refuses_existing_files_and_missing_directories() {
    let home = home_with_store();
    fs::write(home.path("dear.db"), "dear to somebody").unwrap();
    refused(&home, "backup dear.db", &["dear.db", "overwrites nothing"]);
    refused(&home, "backup kfwatch.db", &["overwrites nothing"]);
    refused(&home, "backup missing/copy.db", &["missing/copy.db", "directory does not exist"]);
    fs::remove_file(home.path("kfwatch.db")).unwrap();
    refused(&home, "backup copy.db", &["there is no store at"]);
}

#[test]
fn backup_refuses_store_of_another_version() {
    let home = home_with_store();
    let connection = Connection::open(home.path("kfwatch.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    refused(&home, "backup copy.db", &["newer kfwatch (schema 99", "upgrade"]);

    fs::remove_file(home.path("kfwatch.db")).unwrap();
    let connection = Connection::open(home.path("kfwatch.db")).unwrap();
    connection.execute_batch(include_str!("../store/version_1.sql")).unwrap();
    connection.execute_batch("PRAGMA application_id = 0x6b667761; PRAGMA user_version = 1").unwrap();
    drop(connection);
    refused(&home, "backup copy.db", &["older kfwatch (schema 1", "start the daemon once"]);
}

#[test]
fn backup_detects_damaged_store() {
    let home = home_with_store();
    let mut content = fs::read(home.path("kfwatch.db")).unwrap();
    let middle = content.len() / 2;
    // Damages events, which a daemon does not read at startup.
    content[middle..middle + 8192].fill(0xa5);
    fs::write(home.path("kfwatch.db"), content).unwrap();
    refused(&home, "backup copy.db", &["the store is damaged", "restore a backup"]);
}

#[test]
fn commands_on_the_store_need_no_secrets() {
    let home = home_with_store();
    home.write(
        "config.toml",
        "include = \"accounts.d/*.toml\"\n[[official_accounts]]\nname = \"shop\"\nappid = \"wx0000000000000000\"\n\
         kf_accounts = [\"kf1@shop\"]\ntoken.secret_file = \"/run/credentials/kfwatch.service/shop\"\n\
         [[sinks]]\nname = \"bus\"\ntype = \"nats\"\nurl = \"nats://127.0.0.1\"\nnkey_file = \"missing\"\n",
    );
    for command in ["backup good.db", "restore good.db", "events", "sinks"] {
        let ended = home.run(command);
        assert_eq!(ended.code, Some(0), "{command}: {ended:?}");
    }
    for command in ["run", "check", "poll"] {
        let ended = home.run(command);
        assert_eq!(ended.code, Some(78), "{command}: {ended:?}");
        assert!(ended.stderr.contains("/run/credentials/kfwatch.service/shop"), "{command}: {ended:?}");
    }
}

#[test]
fn restore_refuses_unsound_backups() {
    let home = home_with_store();
    assert_eq!(home.run("backup good.db").code, Some(0));
    fs::write(home.path("text.db"), "a text that is longer than the header\n").unwrap();
    fs::write(home.path("empty.db"), "").unwrap();
    Connection::open(home.path("notes.db")).unwrap().execute_batch("CREATE TABLE notes (text)").unwrap();
    let good = fs::read(home.path("good.db")).unwrap();
    fs::write(home.path("cut.db"), &good[..good.len() / 2]).unwrap();
    let mut garbage = good.clone();
    let length = garbage.len();
    garbage[length / 2..length / 2 + 8192].fill(0xa5);
    fs::write(home.path("garbage.db"), garbage).unwrap();
    fs::write(home.path("newer.db"), &good).unwrap();
    Connection::open(home.path("newer.db")).unwrap().pragma_update(None, "user_version", 99).unwrap();
    fs::write(home.path("live.db"), &good).unwrap();
    fs::write(home.path("live.db-wal"), "commits").unwrap();

    refused(&home, "restore nowhere.db", &["nowhere.db", "no such file"]);
    refused(&home, "restore text.db", &["text.db", "not a backup of kfwatch"]);
    refused(&home, "restore empty.db", &["empty.db", "not a backup of kfwatch"]);
    refused(&home, "restore notes.db", &["notes.db", "another program"]);
    refused(&home, "restore cut.db", &["cut.db", "damaged", "use another one"]);
    refused(&home, "restore garbage.db", &["garbage.db", "damaged", "use another one"]);
    refused(&home, "restore newer.db", &["newer.db", "schema 99", "upgrade"]);
    refused(&home, "restore live.db", &["live.db", "a log next to it"]);
    refused(&home, "restore kfwatch.db", &["the store itself"]);
    assert_eq!(home.run("restore good.db").code, Some(0));
}

#[test]
fn restore_names_processes_that_use_the_store() {
    let home = home_with_store();
    assert_eq!(home.run("backup good.db").code, Some(0));
    let daemon = home.daemon();
    let ended = home.run("restore good.db");
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains(&format!("process {}", daemon.id())), "{ended:?}");
    assert!(kept(&home.path("")).is_empty());
    daemon.signal("TERM");
    daemon.ended();

    let reader = read(&home.path("kfwatch.db"));
    reader.execute_batch("BEGIN; SELECT * FROM events LIMIT 1").unwrap();
    let ended = home.run("restore good.db");
    assert!(ended.stderr.contains("open in another program"), "{ended:?}");
    assert!(kept(&home.path("")).is_empty());
    drop(reader);
    assert_eq!(home.run("restore good.db").code, Some(0));
}

#[test]
fn restore_refuses_to_replace_foreign_file() {
    let home = home_with_store();
    assert_eq!(home.run("backup good.db").code, Some(0));
    fs::remove_file(home.path("kfwatch.db")).unwrap();
    Connection::open(home.path("kfwatch.db")).unwrap().execute_batch("CREATE TABLE notes (text)").unwrap();
    refused(&home, "restore good.db", &["another program", "store.path"]);
}

#[test]
fn restore_keeps_damaged_store_with_its_wal() {
    let home = home_with_store();
    assert_eq!(home.run("backup good.db").code, Some(0));
    fs::write(home.path("kfwatch.db"), "what a broken disk has left of it").unwrap();
    fs::write(home.path("kfwatch.db-wal"), "commits").unwrap();
    let ended = home.run("restore good.db");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(events(&home.path("kfwatch.db")), 200);
    let kept = kept(&home.path(""));
    assert_eq!(fs::read(&kept[0]).unwrap(), b"what a broken disk has left of it");
    let log = format!("{}-wal", kept[0].display());
    assert_eq!(fs::read(log).unwrap(), b"commits");
    grow(&home.path("kfwatch.db"), 1_000, 1);
}

#[test]
fn full_disk_leaves_no_partial_backup() {
    let Some(disk) = SmallDisk::mount(2) else { return };
    let home = home_with_store();
    assert_eq!(home.run("backup good.db").code, Some(0));
    let copy = disk.path().join("copy.db");
    disk.fill();
    let before = list(disk.path());
    refused(&home, &format!("backup {}", copy.display()), &["copy.db", "the disk is full"]);
    assert_eq!(list(disk.path()), before);

    disk.free_space();
    let store = disk.path().join("kfwatch.db");
    grow(&store, 0, 300);
    let config = fs::read_to_string(home.path("config.toml")).unwrap();
    home.write("config.toml", &format!("{config}[store]\npath = \"{}\"\n", store.display()));
    disk.fill();
    let before = list(disk.path());
    refused(&home, "restore good.db", &["the disk is full"]);
    assert_eq!(list(disk.path()), before);
    disk.free_space();
    assert_eq!(events(&store), 300);
    assert_eq!(home.run("restore good.db").code, Some(0));
    assert_eq!(events(&store), 200);
}

#[test]
fn interrupted_backup_leaves_no_file() {
    let home = home();
    grow(&home.path("kfwatch.db"), 0, 60_000);
    let before = listing(&home);
    // Repeats until a signal comes before the backup is done.
    eventually("an interrupted backup", || {
        let backup = home.spawn("backup copy.db");
        let partial = || listing(&home).into_iter().find(|(name, _)| name.starts_with(".kfwatch-backup-"));
        let begun = || partial().map(Some).or_else(|| home.path("copy.db").exists().then_some(None));
        if let Some((partial, _)) = eventually("a copy that has begun", begun) {
            // `None` if it has been renamed by now.
            let mode = home.path(&partial).metadata().map(|metadata| metadata.permissions().mode() & 0o777);
            assert!(mode.is_err() || mode.is_ok_and(|mode| mode == 0o600));
        }
        backup.signal("TERM");
        let ended = backup.ended();
        match ended.code {
            Some(0) => fs::remove_file(home.path("copy.db")).unwrap(),
            _ => assert!(ended.code == Some(1) && ended.stderr.contains("stopped"), "{ended:?}"),
        }
        assert_eq!(listing(&home), before);
        (ended.code == Some(1)).then_some(())
    });
}
