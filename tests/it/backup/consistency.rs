//! The content of backups.

use std::{
    collections::BTreeSet,
    os::unix::fs::{MetadataExt, chown},
    sync::atomic::{AtomicBool, Ordering},
};

use kfwatch::store::Store;

use crate::support::{
    backup::*,
    process::{Home, WeChat, appid, quiet},
    wait::eventually,
};

#[test]
fn backup_during_polling_is_a_consistent_state() {
    let wechat = WeChat::play(quiet(&[("shop", 3)]));
    let home = Home::watching(&wechat, "").without_collectors();
    let _daemon = home.daemon();
    let control = wechat.control();
    for round in 0..4 {
        for kf in 1..=3 {
            let kf = format!("kf{kf}@shop");
            control.open_session(&appid(0), &kf, &format!("o-{round}"), None).unwrap();
            if round > 1 {
                control.close_session(&appid(0), &kf, &format!("o-{}", round - 2)).unwrap();
            }
        }
        let enough = 3 * (round + 1);
        eventually("events of the round", || (events(&home.path("kfwatch.db")) >= enough).then_some(()));
        let ended = home.run(&format!("backup copy-{round}.db"));
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
        let copy = home.path(&format!("copy-{round}.db"));
        let counts =
            format!("3 kf accounts, {} open sessions, {} events", sessions(&copy).len(), events(&copy));
        assert!(ended.stdout.contains(&counts), "{counts}: {ended:?}");
        assert!(ended.stdout.contains("the newest observed at 20"), "{ended:?}");
        assert_eq!(mode(&copy), 0o600);
        assert_consistent(&copy);
    }
}

#[test]
fn backup_during_commits_contains_whole_commits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kfwatch.db");
    run(async {
        let store = Store::open(&path).unwrap();
        let stored = store.register_accounts(accounts(2)).await.unwrap().configured;
        let done = AtomicBool::new(false);
        let committing = async {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                // Both events are in one commit: a copy with only one of them has half a commit.
                commit(&store, &stored[0], vec![started(number), started(number + 1)]).await;
                number += 2;
            }
            number
        };
        let copying = async {
            let mut copies = Vec::new();
            for number in 0..5 {
                let copy = directory.path().join(format!("copy-{number}.db"));
                let (from, to) = (path.clone(), copy.clone());
                let summary = tokio::task::spawn_blocking(move || Store::back_up(&from, &to, &no_observer()));
                let summary = summary.await.unwrap().unwrap();
                assert_eq!(summary.events, u64::try_from(events(&copy)).unwrap());
                copies.push(copy);
            }
            done.store(true, Ordering::Relaxed);
            copies
        };
        let (committed, copies) = tokio::join!(committing, copying);
        let counts: Vec<i64> = copies.iter().map(|copy| events(copy)).collect();
        assert!(counts.is_sorted() && counts.iter().all(|count| count % 2 == 0), "{counts:?}");
        assert!(counts[4] > counts[0] && counts[4] <= committed, "commits went on: {counts:?}");
        copies.iter().for_each(|copy| assert_consistent(copy));
    });
}

#[test]
fn backup_works_without_daemon_and_changes_nothing() {
    let home = home();
    let store = home.path("kfwatch.db");
    grow(&store, 0, 10);
    let before = std::fs::read(&store).unwrap();
    assert_eq!(home.run("backup copy.db").code, Some(0));
    assert_eq!(std::fs::read(&store).unwrap(), before);
    assert_consistent(&home.path("copy.db"));
    assert_eq!(events(&home.path("copy.db")), 10);
}

#[test]
fn store_restored_by_root_keeps_its_owner() {
    let home = home();
    let store = home.path("kfwatch.db");
    grow(&store, 0, 3);
    if chown(&store, Some(4711), Some(4712)).is_err() {
        println!("skipped: only root can change the owner of a file");
        return;
    }
    assert_eq!(home.run("backup copy.db").code, Some(0));
    std::fs::remove_file(home.path("kfwatch.db-lock")).unwrap();
    assert_eq!(home.run("restore copy.db").code, Some(0));
    for name in ["kfwatch.db", "kfwatch.db-lock"] {
        let metadata = home.path(name).metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), mode(&home.path(name))), (4711, 4712, 0o600), "{name}");
    }
}

/// Checks that sequences have no gaps, and that the snapshots match the events.
fn assert_consistent(copy: &std::path::Path) {
    let connection = read(copy);
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let off = "SELECT count(*) FROM accounts
               WHERE sequence <> (SELECT count(*) FROM events WHERE events.account = accounts.id)";
    assert_eq!(number(&connection, off), 0, "an account's sequence is not that of its newest event");
    let mut replayed = BTreeSet::new();
    let mut statement = connection.prepare("SELECT type, json FROM events ORDER BY id").unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let event: serde_json::Value = serde_json::from_str(&row.get::<_, String>(1).unwrap()).unwrap();
        let text = |pointer: &str| event.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        let session = (text("/data/kf_account"), text("/data/openid"));
        match row.get::<_, i64>(0).unwrap() {
            1 => assert!(replayed.insert(session)),
            _ => assert!(replayed.remove(&session)),
        }
    }
    assert_eq!(sessions(copy), replayed);
}

fn sessions(copy: &std::path::Path) -> BTreeSet<(String, String)> {
    let connection = read(copy);
    let mut statement = connection
        .prepare("SELECT kf_account, openid FROM sessions JOIN accounts ON accounts.id = account")
        .unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}
