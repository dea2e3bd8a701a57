//! Files that are not a kfwatch store are refused with an error that says what to do, and are left unchanged.

use std::{fs, path::Path};

use kfwatch::store::{Store, StoreError};
use rusqlite::Connection;

use crate::support::store::*;

/// Opens the file, which must fail and change nothing in it; returns the error and its text.
fn refused(path: &Path) -> (StoreError, String) {
    let before = fs::read(path).unwrap();
    let error = Store::open(path).unwrap_err();
    assert_eq!(fs::read(path).unwrap(), before, "the file was changed");
    let text = error_chain(&error);
    assert!(!text.contains('\n'), "{text}");
    assert!(Store::open_to_read(path).is_err());
    (error, text)
}

/// A store with some events, closed.
async fn store_file() -> TestFile {
    let file = test_file();
    let store = Store::open(&file.path).unwrap();
    let account = register(&store, "a").await;
    commit(&store, &account, (0..200).map(|n| started(&format!("o-{n}"), n)).collect()).await;
    store.close().await;
    file
}

fn change(file: &TestFile, sql: &str) {
    let connection = Connection::open(&file.path).unwrap();
    connection.execute_batch(sql).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}

#[tokio::test]
async fn newer_schema_is_refused() {
    let file = store_file().await;
    change(&file, "PRAGMA user_version = 99");
    let (error, text) = refused(&file.path);
    assert!(matches!(error, StoreError::Newer { found: 99, known: 4, .. }));
    assert!(text.contains("upgrade"), "{text}");
}

#[tokio::test]
async fn newer_schema_in_wal_is_refused() {
    let file = store_file().await;
    let connection = Connection::open(&file.path).unwrap();
    connection.execute_batch("PRAGMA user_version = 99").unwrap();
    let (error, _) = refused(&file.path);
    assert!(matches!(error, StoreError::Newer { found: 99, .. }));
}

#[test]
fn file_of_another_program_is_refused() {
    let file = test_file();
    change(&file, "CREATE TABLE notes (text)");
    let (error, text) = refused(&file.path);
    assert!(matches!(error, StoreError::Foreign { .. }));
    assert!(text.contains("another program"), "{text}");
}

#[test]
fn text_file_is_refused() {
    for content in ["x", "a text that is longer than the header of a database\n"] {
        let file = test_file();
        fs::write(&file.path, content).unwrap();
        let (error, text) = refused(&file.path);
        assert!(matches!(error, StoreError::Foreign { .. }));
        assert!(text.contains("correct store.path"), "{text}");
    }
}

#[tokio::test]
async fn truncated_file_is_refused() {
    for keep in [50, 4096, 4096 * 3, 4096 * 7 + 100] {
        let file = store_file().await;
        fs::OpenOptions::new().write(true).open(&file.path).unwrap().set_len(keep).unwrap();
        let (error, text) = refused(&file.path);
        assert!(matches!(error, StoreError::Corrupt { .. }), "{keep}: {text}");
        assert!(text.contains("restore a backup"), "{text}");
    }
}

#[tokio::test]
async fn empty_file_with_wal_is_refused() {
    let file = store_file().await;
    fs::write(&file.path, "").unwrap();
    let log = file.path.with_extension("db-wal");
    fs::write(&log, "commits").unwrap();
    let (error, _) = refused(&file.path);
    assert!(matches!(error, StoreError::Corrupt { .. }));
    assert_eq!(fs::read(&log).unwrap(), b"commits");
}

#[tokio::test]
async fn garbage_in_tables_is_refused() {
    let file = store_file().await;
    let mut content = fs::read(&file.path).unwrap();
    content[4096..4096 * 6].fill(0xa5);
    fs::write(&file.path, content).unwrap();
    let (error, text) = refused(&file.path);
    assert!(matches!(error, StoreError::Corrupt { .. }), "{text}");
}

#[tokio::test]
async fn missing_tables_are_refused() {
    let file = store_file().await;
    change(&file, "DROP TABLE sinks");
    let (error, text) = refused(&file.path);
    assert!(matches!(error, StoreError::Corrupt { .. }));
    assert!(text.contains("sinks is missing"), "{text}");
}

#[tokio::test]
async fn unknown_values_are_reported_as_damage() {
    let file = store_file().await;
    change(&file, "UPDATE accounts SET state = 'asleep'");
    let store = Store::open(&file.path).unwrap();
    let error = store.register_accounts(vec![]).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

#[test]
fn empty_file_becomes_a_store() {
    let file = test_file();
    fs::write(&file.path, "").unwrap();
    Store::open(&file.path).unwrap();
}

#[test]
fn unusable_store_paths_are_refused() {
    let file = test_file();
    let missing = file.directory.path().join("missing/kfwatch.db");
    let error = Store::open(&missing).unwrap_err();
    assert!(matches!(&error, StoreError::NoDirectory(path) if path.ends_with("missing")));
    assert!(!missing.parent().unwrap().exists());
    for other in [file.directory.path(), Path::new("/dev/null")] {
        assert!(matches!(Store::open(other).unwrap_err(), StoreError::NotAFile(_)));
    }
    assert!(matches!(Store::open_to_read(&file.path), Err(StoreError::Missing(_))));
    assert!(!file.path.exists(), "reading creates nothing");
}

/// A kill while the store is created leaves a rollback journal, which a reader cannot play back.
#[tokio::test]
async fn rollback_journal_of_killed_process_is_played_back() {
    let file = store_file().await;
    let connection = Connection::open(&file.path).unwrap();
    let unfinished = "PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1; BEGIN; CREATE TABLE spilled (x); \
                      INSERT INTO spilled WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 1000) \
                      SELECT randomblob(1000) FROM n";
    connection.execute_batch(unfinished).unwrap();
    let killed = test_file();
    fs::copy(&file.path, &killed.path).unwrap();
    let journal = |file: &TestFile| file.path.with_extension("db-journal");
    assert!(fs::copy(journal(&file), journal(&killed)).unwrap() > 0);
    let store = Store::open(&killed.path).unwrap();
    assert_eq!(store.count_events().await.unwrap(), 200);
    assert!(!journal(&killed).exists());
}
