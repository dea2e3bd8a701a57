//! The SQLite file: its modes, its lock, its lease, a full disk, and readers while the daemon runs.

use std::{fs, future::ready, os::unix::fs::PermissionsExt, pin::pin, time::Duration};

use futures_util::{FutureExt, future::join_all};
use kfwatch::{
    domain::{clock::Moment, event::EventType},
    store::{
        AccountId, EventFilter, LogPosition, RegistrationUpdate, StartPosition, Store, StoreError, WriteStats,
    },
};
use rusqlite::Connection;

use crate::support::store::*;

fn now() -> Moment {
    Moment { wall: at(0), monotonic: Duration::ZERO }
}

#[tokio::test]
async fn files_are_readable_by_owner_only() {
    let file = test_file();
    let store = Store::open(&file.path).unwrap();
    register(&store, "a").await;
    for entry in file.directory.path().read_dir().unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
    assert_eq!(file.directory.path().read_dir().unwrap().count(), 4, "file, log, index of the log, lock");
}

#[tokio::test]
async fn second_opener_gets_process_id_of_owner() {
    let file = test_file();
    let store = Store::open(&file.path).unwrap();
    let error = Store::open(&file.path).unwrap_err();
    assert!(matches!(error, StoreError::Locked { pid: Some(pid), .. } if pid == std::process::id()));
    assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error}");
    store.close().await;
    Store::open(&file.path).unwrap();
}

#[tokio::test]
async fn reader_blocks_no_daemon_and_sees_commits() {
    let file = test_file();
    let missing = Store::open_to_read(&file.path).unwrap_err();
    assert!(matches!(missing, StoreError::Missing(_)) && !file.path.exists());
    Store::open(&file.path).unwrap().close().await;
    let reader = Store::open_to_read(&file.path).unwrap();
    let store = Store::open(&file.path).unwrap();
    let account = register(&store, "a").await;
    commit(&store, &account, vec![started("o-1", 1)]).await;
    assert_eq!(events(&reader).await.len(), 1);
    assert!(matches!(reader.record_token_fetch("wx0", at(1)).await, Err(StoreError::OpenToRead)));
    store.close().await;
    Store::open(&file.path).unwrap().close().await;
    reader.close().await;
    assert!(matches!(reader.count_events().await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn dropped_store_commits_queue_and_releases_file() {
    let file = test_file();
    let store = Store::open(&file.path).unwrap();
    let account = register(&store, "a").await;
    commit(&store, &account, vec![started("o-1", 1)]).await;
    drop(store);
    let store = Store::open(&file.path).unwrap();
    assert_eq!(events(&store).await.len(), 1);
}

#[tokio::test]
async fn lost_lease_prevents_writes() {
    let file = test_file();
    let store = Store::open(&file.path).unwrap();
    let account = register(&store, "a").await;
    let other = Connection::open(&file.path).unwrap();
    other.execute("UPDATE lease SET epoch = epoch + 1", []).unwrap();
    let failed = store.commit_poll(poll(&account, vec![started("o-1", 1)])).await;
    assert!(matches!(failed, Err(StoreError::LeaseLost)));
    assert!(matches!(store.record_token_fetch("wx0", at(1)).await, Err(StoreError::LeaseLost)));
    let count =
        |table| other.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0));
    assert_eq!((count("events"), count("sessions"), count("token_fetches")), (Ok(0), Ok(0), Ok(0)));
    assert!(!store.lease().is_trusted(now()));
    assert!(matches!(store.lost().now_or_never(), Some(StoreError::LeaseLost)));
    // The epoch never returns, but what is lost stays lost.
    other.execute("UPDATE lease SET epoch = epoch - 1", []).unwrap();
    assert!(matches!(store.record_token_fetch("wx0", at(1)).await, Err(StoreError::LeaseLost)));
}

#[tokio::test]
async fn lost_lease_is_noticed_without_commits() {
    let file = test_file();
    let store = Store::open(&file.path).unwrap();
    let mut lost = pin!(store.lost());
    assert!((&mut lost).now_or_never().is_none());
    assert!(store.lease().is_trusted(now()));
    let other = Connection::open(&file.path).unwrap();
    other.execute("UPDATE lease SET epoch = epoch + 1", []).unwrap();
    assert!(matches!(lost.await, StoreError::LeaseLost));
    assert!(!store.lease().is_trusted(now()));
    assert_eq!(store.write_stats(), WriteStats::default(), "a look is no commit");
}

/// Commits resume when the file is back, and until then no other process has its events.
#[tokio::test]
async fn store_that_was_moved_away_is_not_lost() {
    let file = test_file();
    let store = Store::open(&file.path).unwrap();
    let account = register(&store, "a").await;
    let elsewhere = file.path.with_extension("elsewhere");
    fs::rename(&file.path, &elsewhere).unwrap();
    let mut lost = pin!(store.lost());
    let failed = store.commit_poll(poll(&account, vec![started("o-1", 1)])).await;
    assert!(failed.is_err_and(|error| error.is_displaced()));
    assert!((&mut lost).now_or_never().is_none() && store.lease().is_trusted(now()));
    fs::rename(&elsewhere, &file.path).unwrap();
    commit(&store, &account, vec![started("o-1", 1)]).await;
    store.close().await;
    assert!(matches!(lost.await, StoreError::Closed));
}

#[tokio::test]
async fn store_opened_to_read_has_no_lease() {
    let file = test_file();
    Store::open(&file.path).unwrap().close().await;
    let reader = Store::open_to_read(&file.path).unwrap();
    assert!(!reader.lease().is_trusted(now()));
    assert!(matches!(reader.lost().await, StoreError::OpenToRead));
}

#[tokio::test]
async fn failed_update_of_registrations_changes_nothing() {
    let file = test_file();
    let store = Store::open(&file.path).unwrap();
    let stays = register(&store, "a").await;
    sinks(&store, &["log"], StartPosition::Now, 0).await;
    let other = Connection::open(&file.path).unwrap();
    let fault = "CREATE TRIGGER fault BEFORE INSERT ON sinks WHEN NEW.name = 'crm' BEGIN SELECT RAISE(ABORT, 'fault'); END";
    other.execute_batch(fault).unwrap();
    let update = RegistrationUpdate {
        added: vec![account("b")],
        left: vec![stays.id],
        sinks: Some(vec![sink("crm", StartPosition::Now)]),
        keeps_other_sinks: false,
    };
    store.update_registrations(update.clone(), at(1)).await.unwrap_err();
    store.register(vec![account("b")], update.sinks.clone().unwrap(), at(1)).await.unwrap_err();
    assert_eq!(store.watched_accounts().await.unwrap(), [account("a")]);
    assert_eq!(store.stored_accounts().await.unwrap(), [stays]);
    assert_eq!(store.sink("log").await.unwrap().removed_at, None);
    other.execute_batch("DROP TRIGGER fault").unwrap();
    store.update_registrations(update, at(1)).await.unwrap();
    assert_eq!(store.watched_accounts().await.unwrap(), [account("b")]);
}

/// The descriptors that this process has of the store and of the files next to it.
#[cfg(target_os = "linux")]
fn open_files(file: &TestFile) -> usize {
    let directory = file.directory.path().canonicalize().unwrap();
    let links = fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| fs::read_link(entry.path()));
    links.flatten().filter(|link| link.starts_with(&directory)).count()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn closed_store_keeps_no_file_open() {
    let file = test_file();
    let mut closed = Vec::new();
    for epoch in 1..=3 {
        let store = Store::open(&file.path).unwrap();
        assert!(open_files(&file) > 0);
        store.close().await;
        closed.push(store);
        assert_eq!(open_files(&file), 0);
        let connection = Connection::open(&file.path).unwrap();
        assert_eq!(connection.query_row("SELECT epoch FROM lease", [], |row| row.get(0)), Ok(epoch));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_stores_nothing_partially_and_recovers() {
    let file = test_file();
    let store = Store::open(&file.path).unwrap();
    let account = register(&store, "a").await;
    commit(&store, &account, vec![started("o-0", 0)]).await;
    store.limit_pages(1).await.unwrap(); // SQLite uses the current size if that is larger
    let long = "o".repeat(4096);
    let many = vec![started("o-1", 1), ended("o-0", 0), started(&long, 2), started(&long, 3)];
    let (concurrent, failed) = tokio::join!(
        store.commit_poll(poll(&account, vec![started("o-9", 9)])),
        store.commit_poll(poll(&account, many.clone())),
    );
    assert!(matches!(failed, Err(StoreError::Full { .. })), "{failed:?}");
    assert_eq!(store.write_stats(), WriteStats { failures: 1, last_succeeded: false });
    let survived = 1 + usize::from(concurrent.is_ok());
    assert_eq!(events(&store).await.len(), survived);
    assert_eq!(register(&store, "a").await.snapshot.len(), survived);

    store.limit_pages(u32::MAX - 1).await.unwrap();
    let done = commit(&store, &account, many).await;
    assert_eq!(store.write_stats(), WriteStats { failures: 1, last_succeeded: true });
    assert_eq!(done.sequence as usize, survived + 4);
    let all: Vec<u64> = (1..=done.sequence).collect();
    assert_eq!(sequences(&events(&store).await), all);
}

#[tokio::test]
async fn failed_group_commit_fails_every_caller() {
    let file = test_file();
    let store = Store::open(&file.path).unwrap();
    let account = register(&store, "a").await;
    let other = Connection::open(&file.path).unwrap();
    other
        .execute_batch(
            "CREATE TRIGGER fault BEFORE INSERT ON sessions WHEN NEW.openid = 'o-bad'
             BEGIN SELECT RAISE(ABORT, 'fault'); END",
        )
        .unwrap();
    // While another connection writes, the first group waits, and the rest queues up into the second.
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut commits = pin!(join_all((0..20).map(|n| {
        let openid = if n == 19 { "o-bad".to_owned() } else { format!("o-{n}") };
        store.commit_poll(poll(&account, vec![started(&openid, 1)]))
    })));
    tokio::select! {
        biased;
        _ = &mut commits => panic!("committed while another connection writes"),
        () = ready(()) => {}
    }
    other.execute_batch("COMMIT").unwrap();
    let outcomes = commits.await;
    let stored = outcomes.iter().take_while(|outcome| outcome.is_ok()).count();
    assert!(stored < 20 && outcomes[stored..].iter().all(Result::is_err), "{outcomes:?}");
    assert_eq!(
        events(&store).await.len(),
        stored,
        "failed commits store nothing, successful ones are stored"
    );
    commit(&store, &account, vec![started("o-after", 1)]).await;
}

#[tokio::test]
async fn event_log_is_readable_while_daemon_runs() {
    let file = test_file();
    let store = Store::open(&file.path).unwrap();
    let registered = store.register_accounts(vec![account("a"), account("b")]).await.unwrap().configured;
    commit(&store, &registered[0], vec![started("o-1", 1), started("o-2", 2), ended("o-1", 1)]).await;
    commit(&store, &registered[1], vec![started("o-3", 3)]).await;
    let reader = Store::open_to_read(&file.path).unwrap();
    let ids = async |filter: EventFilter, limit| {
        let page = reader.read_events(filter, limit).await.unwrap();
        (page.events.iter().map(|event| event.id.0).collect::<Vec<_>>(), page.next)
    };
    let all = EventFilter::default;
    assert_eq!(ids(all(), 9).await, (vec![1, 2, 3, 4], LogPosition(4)));
    assert_eq!(ids(all(), 2).await, (vec![1, 2], LogPosition(2)));
    assert_eq!(ids(EventFilter { after: LogPosition(4), ..all() }, 9).await, (vec![], LogPosition(4)));
    assert_eq!(ids(EventFilter { since: Some(at(3)), ..all() }, 9).await.0, [4]);
    assert_eq!(
        ids(EventFilter { types: vec![EventType::SessionEnded], ..all() }, 9).await,
        (vec![3], LogPosition(4))
    );
    let accounts = reader.account_names().await.unwrap();
    assert_eq!(accounts[1], (registered[1].id, account("b")));
    let of = |ids: &[AccountId]| EventFilter { accounts: Some(ids.to_vec()), ..all() };
    assert_eq!(ids(of(&[registered[1].id]), 9).await.0, [4]);
    assert_eq!(ids(of(&[]), 9).await, (vec![], LogPosition(4)));
    commit(&store, &registered[1], vec![ended("o-3", 3)]).await;
    assert_eq!(
        ids(EventFilter { after: LogPosition(4), ..all() }, 9).await.0,
        [5],
        "a follower sees new events"
    );
}

#[tokio::test]
async fn event_log_is_readable_without_daemon() {
    let file = test_file();
    let store = Store::open(&file.path).unwrap();
    let account = register(&store, "a").await;
    commit(&store, &account, vec![started("o-1", 1)]).await;
    assert!(store.size_bytes() > 0);
    store.close().await;
    let reader = Store::open_to_read(&file.path).unwrap();
    assert_eq!(reader.read_events(EventFilter::default(), 9).await.unwrap().events.len(), 1);
}
