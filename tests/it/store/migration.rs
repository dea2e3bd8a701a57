//! Stores of older versions: migrated completely or not at all, after a copy was made.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use kfwatch::store::{LogPosition, Store, StoreError};
use rusqlite::Connection;
use secrecy::ExposeSecret;

use crate::support::{disk::SmallDisk, store::*};

/// A store of version 1: an account with a session, its events, a sink, and a token fetch.
fn version_1() -> TestFile {
    let file = test_file();
    fill_version_1(&file.path);
    file
}

fn fill_version_1(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    connection.execute_batch(include_str!("version_1.sql")).unwrap();
    connection
        .execute_batch(
            "PRAGMA application_id = 0x6b667761;
             PRAGMA user_version = 1;
             INSERT INTO lease VALUES (0, 'host', 7);
             INSERT INTO accounts VALUES
                 (1, 'shop', 'wx0123456789abcdef', 'a', 1, 2, 'ok', 'ok', 1, 0, 1795000000001, 1795000000002, NULL);
             INSERT INTO sessions VALUES (1, 'o-1', 11);
             INSERT INTO events VALUES (41, 1, 1, 1, 11, x'01', 1795000000001, '{}');
             INSERT INTO events VALUES (42, 1, 2, 1, 12, x'02', 1795000000002, '{}');
             INSERT INTO sinks VALUES ('log', 41, NULL);
             INSERT INTO token_fetches VALUES ('wx0123456789abcdef', 1795000000003);",
        )
        .unwrap();
}

fn version(path: &Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
}

/// Returns the backup copies in the store's directory.
fn copies(file: &TestFile) -> Vec<PathBuf> {
    let entries = file.directory.path().read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut copies: Vec<PathBuf> =
        entries.filter(|path| path.to_str().unwrap().contains("-backup")).collect();
    copies.sort();
    copies
}

#[tokio::test]
async fn store_of_version_1_keeps_everything() {
    let file = version_1();
    let store = Store::open(&file.path).unwrap();
    let ids: Vec<i64> = events(&store).await.iter().map(|event| event.id.0).collect();
    assert_eq!(ids, [41, 42]);
    assert_eq!(store.sink("log").await.unwrap().backlog.events, 1);
    assert_eq!(store.token_fetches().await.unwrap()["wx0123456789abcdef"], at(3));
    let account = register(&store, "a").await;
    assert_eq!(listed(&account), [("o-1".to_owned(), 11)].into());
    assert_eq!(commit(&store, &account, vec![ended("o-1", 11)]).await.sequence, 3);

    store.store_refresh_token("wx0123456789abcdef", &"refresh".into(), at(4)).await.unwrap();
    store.close().await;
    let store = Store::open(&file.path).unwrap();
    assert_eq!(store.refresh_tokens().await.unwrap()["wx0123456789abcdef"].expose_secret(), "refresh");
    assert_eq!(copies(&file).len(), 1, "a store of this version is not migrated again");
}

#[tokio::test]
async fn store_of_version_3_keeps_stopped_sinks_and_dead_letters() {
    let file = version_1();
    let connection = Connection::open(&file.path).unwrap();
    connection.execute_batch(include_str!("version_2.sql")).unwrap();
    connection.execute_batch(include_str!("version_3.sql")).unwrap();
    connection
        .execute_batch(
            "PRAGMA user_version = 3;
             UPDATE sinks SET destination = 'there', stopped_at = 1795000000004, stopped_reason = 'gone';
             INSERT INTO dead_letters VALUES ('log', 40, 1, 1, 1, 1795000000001, '{}', 'no', 1795000000002);",
        )
        .unwrap();
    drop(connection);
    let store = Store::open(&file.path).unwrap();
    let log = store.sinks().await.unwrap().remove(0);
    assert_eq!((log.state.stop_reason(), log.backlog.dead_letters, log.backlog.events), (Some("gone"), 1, 1));
    let letter = store.dead_letters("log", LogPosition::BEGINNING, 9).await.unwrap().remove(0);
    assert_eq!((letter.event.id, letter.reason.as_str(), letter.retry), (LogPosition(40), "no", false));
    assert_eq!(copies(&file), [file.directory.path().join("kfwatch.db-backup-v3")]);
}

#[tokio::test]
async fn migration_copy_is_a_sound_older_store() {
    let file = version_1();
    Store::open(&file.path).unwrap().close().await;
    assert!(version(&file.path) > 1);
    let copy = file.directory.path().join("kfwatch.db-backup-v1");
    assert_eq!(copies(&file), std::slice::from_ref(&copy));
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(version(&copy), 1);
    let connection = Connection::open(&copy).unwrap();
    let text = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(text("PRAGMA integrity_check"), "ok");
    assert_eq!(text("SELECT group_concat(id) FROM events"), "41,42");
    drop(connection);
    // The copy can replace the store.
    fs::copy(&copy, &file.path).unwrap();
    Store::open(&file.path).unwrap().close().await;
}

#[tokio::test]
async fn copy_is_never_overwritten() {
    let file = version_1();
    let copy = file.directory.path().join("kfwatch.db-backup-v1");
    fs::write(&copy, "an earlier copy").unwrap();
    fs::write(file.directory.path().join("kfwatch.db-backup-partial"), "cut short by a crash").unwrap();
    Store::open(&file.path).unwrap().close().await;
    assert_eq!(fs::read(&copy).unwrap(), b"an earlier copy");
    assert_eq!(copies(&file), [copy, file.directory.path().join("kfwatch.db-backup-v1-2")]);
}

#[tokio::test]
async fn failed_migration_leaves_store_unchanged() {
    let file = version_1();
    // A table that an operator added conflicts with the migration.
    Connection::open(&file.path).unwrap().execute_batch("CREATE TABLE refresh_tokens (x)").unwrap();
    let error = Store::open(&file.path).unwrap_err();
    assert!(error_chain(&error).contains("refresh_tokens already exists"), "{}", error_chain(&error));
    assert_eq!(version(&file.path), 1);
    assert!(copies(&file).is_empty(), "a daemon that restarts repeatedly must not fill the disk");
    Connection::open(&file.path).unwrap().execute_batch("DROP TABLE refresh_tokens").unwrap();
    Store::open(&file.path).unwrap().close().await;
}

#[test]
fn reader_does_not_migrate() {
    let file = version_1();
    let error = Store::open_to_read(&file.path).unwrap_err();
    assert!(matches!(error, StoreError::Older { found: 1, .. }));
    assert!(error.to_string().contains("start the daemon once"), "{error}");
    assert_eq!((version(&file.path), copies(&file).len()), (1, 0));
}

#[tokio::test]
async fn full_disk_prevents_migration_harmlessly() {
    let Some(disk) = SmallDisk::mount(2) else { return };
    let path = disk.path().join("kfwatch.db");
    fill_version_1(&path);
    let grow = "UPDATE events SET json = hex(zeroblob(100000))";
    Connection::open(&path).unwrap().execute_batch(grow).unwrap();
    disk.fill();
    // Leaves room for the WAL but not for a copy.
    let ballast = fs::OpenOptions::new().write(true).open(disk.path().join("ballast")).unwrap();
    ballast.set_len(ballast.metadata().unwrap().len() - 200_000).unwrap();
    drop(ballast);
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(!disk.path().join("kfwatch.db-backup-v1").exists());
    disk.free_space();
    assert_eq!(version(&path), 1);
    let store = Store::open(&path).unwrap();
    assert_eq!(events(&store).await.len(), 2);
    store.close().await;
}
