//! How many changed accounts per second the store commits, and how fast it restores a million sessions.
//!
//! Two baselines alternate with it in the same run: bare SQLite transactions that store as much with the same settings, and a
//! file to which as many bytes are written and synced.

#![expect(clippy::unwrap_used, reason = "a bench that cannot continue ends")]

use std::{io::Write, path::Path, time::Instant};

use kfwatch::store::Store;
use rusqlite::{Connection, params};

#[path = "support/median.rs"]
mod median;
#[path = "support/report.rs"]
mod report;
#[path = "support/turnover.rs"]
mod turnover;

use median::median;
use report::Report;
use turnover::{EVENT_BYTES, ROW_BYTES, commit_all, registered, turnover};

const ACCOUNTS: usize = 10_000;
const ROUNDS: i64 = 5;
const SESSIONS_RESTORED: i64 = 1_000_000;

const APPID: &str = "wx0123456789abcdef";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let mut report = Report::new();
    runtime.block_on(async {
        for in_flight in [64, 256, 1000] {
            commits(in_flight, &mut report).await;
        }
        restore(&mut report).await;
    });
    report.print();
}

async fn commits(in_flight: usize, report: &mut Report) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("kfwatch.db")).unwrap();
    let accounts = registered(&store, APPID, ACCOUNTS).await;
    let mut bare = bare_sqlite(&directory.path().join("bare.db"));
    let mut file = std::fs::File::create(directory.path().join("bare.log")).unwrap();
    let mut rates = [const { Vec::new() }; 3];
    for round in 0..=ROUNDS {
        let commits = accounts.iter().map(|stored| turnover(stored, round)).collect();
        let measured = [
            rate(commit_all(&store, commits, in_flight)).await,
            rate(async { bare_transactions(&mut bare, in_flight) }).await,
            rate(async { synced_writes(&mut file, in_flight) }).await,
        ];
        // In the first round sessions only start, so it is not counted.
        if round > 0 {
            rates.iter_mut().zip(measured).for_each(|(rates, measured)| rates.push(measured));
        }
    }
    // Check that everything was committed.
    let accounts = ACCOUNTS as i64;
    // In the first round no session exists that could end.
    assert_eq!(store.committed().borrow().0, (1 + 2 * ROUNDS) * accounts);
    let bare: i64 = bare.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
    assert_eq!(bare, 2 * (1 + ROUNDS) * accounts);
    let [ours, sqlite, file] = rates.map(|rates| median(&rates));
    let what = format!("changed accounts committed, {in_flight} in flight");
    let figure = format!("{ours:.0}/s");
    // As many polls as the daemon has in flight by default, and as many commits as a group may have.
    let target = if in_flight >= 256 { "≥ 30000/s" } else { "" };
    let baseline = format!("bare SQLite, {in_flight} a transaction: {sqlite:.0}/s");
    report.row([&what, &figure, &baseline], Some(sqlite / ours), target);
    report.row(["", "", &format!("write + fdatasync of the bytes: {file:.0}/s")], Some(file / ours), "");
}

/// Returns the accounts per second.
async fn rate(work: impl Future<Output = ()>) -> f64 {
    let begun = Instant::now();
    work.await;
    ACCOUNTS as f64 / begun.elapsed().as_secs_f64()
}

fn bare_sqlite(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    connection.pragma_update(None, "synchronous", "FULL").unwrap();
    connection.pragma_update(None, "wal_autocheckpoint", 4096).unwrap();
    let tables = "CREATE TABLE accounts (id INTEGER PRIMARY KEY, row BLOB NOT NULL);
                  CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, json TEXT NOT NULL);";
    connection.execute_batch(tables).unwrap();
    let mut insert = connection.prepare("INSERT INTO accounts (row) VALUES (zeroblob(?1))").unwrap();
    connection.execute_batch("BEGIN").unwrap();
    for _ in 0..ACCOUNTS {
        insert.execute([ROW_BYTES as i64]).unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
    drop(insert);
    connection
}

/// Changes one row and inserts two rows for each account.
fn bare_transactions(connection: &mut Connection, in_flight: usize) {
    let (row, json) = (vec![1_u8; ROW_BYTES], "x".repeat(EVENT_BYTES / 2));
    for first in (0..ACCOUNTS).step_by(in_flight) {
        let tx = connection.transaction().unwrap();
        let mut update = tx.prepare_cached("UPDATE accounts SET row = ?2 WHERE id = ?1").unwrap();
        let mut insert = tx.prepare_cached("INSERT INTO events (json) VALUES (?1)").unwrap();
        for account in first..ACCOUNTS.min(first + in_flight) {
            update.execute(params![account as i64 + 1, row]).unwrap();
            insert.execute([&json]).unwrap();
            insert.execute([&json]).unwrap();
        }
        drop((update, insert));
        tx.commit().unwrap();
    }
}

fn synced_writes(file: &mut std::fs::File, in_flight: usize) {
    let group = vec![b'x'; (EVENT_BYTES + ROW_BYTES) * in_flight];
    for _ in 0..ACCOUNTS.div_ceil(in_flight) {
        file.write_all(&group).unwrap();
        file.sync_data().unwrap();
    }
}

async fn restore(report: &mut Report) {
    let mut all = Vec::new();
    for sessions in [SESSIONS_RESTORED / 10, SESSIONS_RESTORED] {
        let (ours, scan) = restored(sessions).await;
        all.push(ours);
        let baseline = format!("bare SQLite scan of the rows: {scan:.3} s");
        let target = if sessions == SESSIONS_RESTORED { "≤ 2 s" } else { "" };
        let what = format!("{sessions} sessions restored");
        report.row([&what, &format!("{ours:.3} s"), &baseline], Some(ours / scan), target);
    }
    report.row(["the cost grows", "", "10 times the sessions"], Some(all[1] / all[0]), "≤ 11");
}

/// Returns the seconds until the store is open and its accounts, of a hundred sessions each, are registered; and the seconds of
/// a scan of the rows.
async fn restored(sessions: i64) -> (f64, f64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kfwatch.db");
    let count = usize::try_from(sessions).unwrap() / 100;
    let store = Store::open(&path).unwrap();
    registered(&store, APPID, count).await;
    store.close().await;
    drop(store);
    // Directly into the table, because their events would take a minute.
    let connection = Connection::open(&path).unwrap();
    let fill = "WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n + 1 < ?1)
                INSERT INTO sessions (account, openid, createtime)
                SELECT 1 + n / 100, printf('oDF3iY9P32sK_5GgYi%010d', n), 1795000000 FROM n";
    connection.execute(fill, [sessions]).unwrap();
    let (mut ours, mut scans) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let begun = Instant::now();
        let store = Store::open(&path).unwrap();
        let accounts = registered(&store, APPID, count).await;
        ours.push(begun.elapsed().as_secs_f64());
        let restored: usize = accounts.iter().map(|stored| stored.snapshot.len()).sum();
        assert_eq!(restored as i64, sessions);
        store.close().await;
        let begun = Instant::now();
        scan(&connection);
        scans.push(begun.elapsed().as_secs_f64());
    }
    (median(&ours), median(&scans))
}

fn scan(connection: &Connection) {
    let mut select = connection.prepare("SELECT account, openid, createtime FROM sessions").unwrap();
    let mut rows = select.query([]).unwrap();
    let mut bytes = 0;
    while let Some(row) = rows.next().unwrap() {
        bytes += row.get_ref(1).unwrap().as_str().unwrap().len();
        std::hint::black_box((row.get::<_, i64>(0).unwrap(), row.get::<_, i64>(2).unwrap()));
    }
    std::hint::black_box(bytes);
}
