//! Stores with content, and functions that read a store file.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use kfwatch::{
    domain::{
        account::{Account, AccountState, Conclusion},
        event::{Change, OwnedSession},
        tracker::LastSeen,
    },
    store::{AccountRecord, CopyObserver, PollCommit, Store, StoredAccount},
};
use rusqlite::{Connection, OpenFlags};

use crate::support::process::Home;

pub(crate) fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_795_000_000_000 + ms).unwrap()
}

pub(crate) fn no_observer() -> CopyObserver {
    std::sync::Arc::new(|_| std::ops::ControlFlow::Continue(()))
}

pub(crate) fn accounts(count: usize) -> Vec<Account> {
    let account = |n| Account {
        official_account: "shop".into(),
        appid: "wx0000000000000000".into(),
        kf_account: format!("kf{n}@shop").into(),
    };
    (1..=count).map(account).collect()
}

pub(crate) fn started(number: i64) -> Change {
    let session = OwnedSession { openid: format!("o-{number}").into(), createtime: number };
    Change::SessionStarted { session, observed_at: at(number), baseline: false, transferred_from: None }
}

pub(crate) async fn commit(store: &Store, stored: &StoredAccount, changes: Vec<Change>) {
    let last_seen = LastSeen { baseline_taken: true, ..LastSeen::default() };
    let record = AccountRecord { state: AccountState::Ok, conclusion: Some(Conclusion::Ok), last_seen };
    let commit = PollCommit { id: stored.id, account: stored.account.clone(), changes, record };
    store.commit_poll(commit).await.unwrap();
}

/// Opens the store, commits `count` more sessions numbered from `first`, and closes it.
pub(crate) fn grow(path: &Path, first: i64, count: i64) {
    run(async {
        let store = open_with(path, first, count).await;
        store.close().await;
    });
}

/// Like [`grow`], but leaves the store open.
pub(crate) async fn open_with(path: &Path, first: i64, count: i64) -> Store {
    let store = Store::open(path).unwrap();
    let registered = store.register_accounts(accounts(1)).await.unwrap().configured;
    commit(&store, &registered[0], (first..first + count).map(started).collect()).await;
    store
}

pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(work)
}

/// Opens the file read-only: takes no lock and changes nothing.
pub(crate) fn read(path: &Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

pub(crate) fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

pub(crate) fn events(path: &Path) -> i64 {
    number(&read(path), "SELECT count(*) FROM events")
}

pub(crate) fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

/// Returns the names and sizes of the files in the directory of the configuration.
pub(crate) fn listing(home: &Home) -> Vec<(String, u64)> {
    list(home.path("").as_path())
}

pub(crate) fn list(directory: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let mut names: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
        .filter(|(name, _)| !["-lock", "-shm", "-wal"].iter().any(|end| name.ends_with(end)))
        .collect();
    names.sort();
    names
}

/// Returns the stores that restores have kept.
pub(crate) fn kept(directory: &Path) -> Vec<PathBuf> {
    let names = list(directory).into_iter().map(|(name, _)| name);
    names.filter(|name| name.contains("-before-restore-")).map(|name| directory.join(name)).collect()
}

/// A home whose configuration has one kf account and an API address without a server. Its store is `kfwatch.db`.
pub(crate) fn home() -> Home {
    let home = Home::new();
    home.write("shop.secret", "5ec2e700000000000000000000000000\n");
    home.write(
        "config.toml",
        "[[official_accounts]]\nname = \"shop\"\nappid = \"wx0000000000000000\"\nkf_accounts = [\"kf1@shop\"]\n\
         token = { source = \"stable\", secret_file = \"shop.secret\" }\n[api]\nbase_url = \"http://127.0.0.1:9\"\n\
         [web]\nlisten = \"127.0.0.1:0\"\n",
    );
    home
}
