//! A restore that is killed at any moment.

use std::{fs, path::Path, time::Instant};

use crate::support::backup::*;

/// Events of the backup, and of the store that it replaces. The last events of the latter are only in its write-ahead
/// log.
const BACKED_UP: i64 = 20_000;
const PRESENT: i64 = 20_500;

/// The number of kills.
const KILLS: u32 = 60;

/// The store as a killed daemon leaves it: the file, and a log with its last commits.
fn present_store(directory: &Path) -> [(&'static str, Vec<u8>); 2] {
    let path = directory.join("kfwatch.db");
    run(async {
        let store = open_with(&path, BACKED_UP, PRESENT - BACKED_UP).await;
        let files =
            ["kfwatch.db", "kfwatch.db-wal"].map(|name| (name, fs::read(directory.join(name)).unwrap()));
        store.close().await;
        files
    })
}

#[test]
fn killed_restore_leaves_the_old_store_or_the_new() {
    let home = home();
    let (directory, path) = (home.path(""), home.path("kfwatch.db"));
    grow(&path, 0, BACKED_UP);
    assert_eq!(home.run("backup backup.db").code, Some(0));
    let image = present_store(&directory);
    let put = || image.iter().for_each(|(name, content)| fs::write(home.path(name), content).unwrap());
    put();
    assert_eq!(events(&path), PRESENT);
    fs::remove_file(&path).unwrap();
    put();
    let begun = Instant::now();
    assert_eq!(home.run("restore backup.db").code, Some(0));
    let mut whole = begun.elapsed();

    let (mut old, mut new) = (0, 0);
    for kill in 0..KILLS {
        kept(&directory).iter().for_each(|kept| fs::remove_file(kept).unwrap());
        fs::remove_file(&path).unwrap();
        put();
        let mut restore = home.spawn("restore backup.db");
        let share = 1.6 * f64::from(kill) / f64::from(KILLS);
        let deadline = Instant::now() + whole.mul_f64(share);
        while Instant::now() < deadline && restore.is_running() {
            std::thread::yield_now();
        }
        // Ended by SIGKILL.
        drop(restore);
        let connection = rusqlite::Connection::open(&path).unwrap();
        let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        let found = number(&connection, "SELECT count(*) FROM events");
        let restores = number(&connection, "SELECT restores FROM lease");
        drop(connection);
        assert_eq!(sound, "ok");
        match restores {
            0 => assert_eq!(found, PRESENT, "the old store lacks commits"),
            _ => assert_eq!(found, BACKED_UP, "the new store is not what was backed up"),
        }
        if restores > 0 {
            new += 1;
            assert_eq!(kept(&directory).iter().map(|kept| events(kept)).max(), Some(PRESENT));
        } else {
            old += 1;
            if share > 1.0 {
                // Other programs make a restore slower than the first one.
                whole *= 2;
            }
            // What a killed restore leaves does not disturb the next one.
            assert_eq!(home.run("restore backup.db").code, Some(0));
            assert_eq!(kept(&directory).len(), 1);
            let partial = home.path("kfwatch.db-restore-partial");
            assert!(!partial.exists());
        }
    }
    println!(
        "killed {KILLS} times: {old} times the old store, {new} times the new one; a whole restore: {whole:?}"
    );
    assert!(old > 0 && new > 0);
}
