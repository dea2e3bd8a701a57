//! A daemon killed at any moment: the test binary starts itself as a child, and kills it.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use kfwatch::{
    domain::event::EventType,
    store::{RegistrationUpdate, Store, StoredEvent},
};

use crate::support::store::*;

/// Set for the child process: the path of its store.
const CHILD: &str = "KFWATCH_TEST_CRASH_STORE";

const ACCOUNTS: usize = 8;

#[test]
fn acknowledged_commits_survive_kill() {
    if let Some(path) = path_of_child() {
        return commit_until_killed(&path);
    }
    let file = test_file();
    for round in 1..=5 {
        let acknowledged = run_and_kill(&file, round * 40);
        check(&file, &acknowledged);
    }
}

#[test]
fn account_that_left_survives_kill_before_its_removal() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    if let Some(path) = path_of_child() {
        return runtime.block_on(leave_and_wait(&path));
    }
    let file = test_file();
    let mut child = spawn("account_that_left_survives_kill_before_its_removal", &file);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.ends_with(LEFT)));
    child.kill().unwrap();
    child.wait().unwrap();
    runtime.block_on(async {
        let store = Store::open(&file.path).unwrap();
        let registered = store.register(vec![account("c")], vec![], at(1)).await.unwrap().accounts;
        assert_eq!((registered.configured.len(), registered.left.len()), (1, 1));
        assert_eq!((registered.left[0].record, registered.left[0].snapshot.len()), (watched(), 1));
    });
}

const LEFT: &str = "the account left";

async fn leave_and_wait(path: &str) {
    let store = Store::open(path.as_ref()).unwrap();
    let stored = register(&store, "a").await;
    commit(&store, &stored, vec![started("o-1", 1)]).await;
    let update = RegistrationUpdate {
        added: vec![account("c")],
        left: vec![stored.id],
        ..RegistrationUpdate::default()
    };
    store.update_registrations(update, at(0)).await.unwrap();
    println!("{LEFT}");
    std::future::pending().await
}

/// The path of the store, in a child process.
#[expect(clippy::disallowed_methods, reason = "the variable marks the child process")]
fn path_of_child() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// Starts a child that runs only this test.
fn spawn(test: &str, file: &TestFile) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("store::crash::{test}"), "--nocapture"])
        .env(CHILD, &file.path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Starts a child, kills it after so many acknowledgements, and returns all acknowledgements that it printed.
fn run_and_kill(file: &TestFile, acknowledgements: usize) -> Vec<(i64, u64)> {
    let mut child = spawn("acknowledged_commits_survive_kill", file);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let parse = |line: String| {
        let (account, sequence) = line.strip_prefix("acknowledged ")?.split_once(' ')?;
        Some((account.parse().unwrap(), sequence.parse().unwrap()))
    };
    let mut acknowledged: Vec<_> = lines.by_ref().filter_map(parse).take(acknowledgements).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    acknowledged.extend(lines.filter_map(parse));
    acknowledged
}

fn commit_until_killed(path: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = Store::open(path.as_ref()).unwrap();
        let accounts = (0..ACCOUNTS).map(|n| account(&format!("kf{n}"))).collect();
        let mut committing = tokio::task::JoinSet::new();
        for stored in store.register_accounts(accounts).await.unwrap().configured {
            let store = store.clone();
            committing.spawn(async move {
                let mut open = listed(&stored);
                for number in 0.. {
                    let mut changes = vec![started(&format!("o-{number}"), number)];
                    open.insert((format!("o-{number}"), number));
                    if open.len() > 3 {
                        let (openid, createtime) = open.pop_first().unwrap();
                        changes.push(ended(&openid, createtime));
                    }
                    let sequence = commit(&store, &stored, changes).await.sequence;
                    println!("acknowledged {} {sequence}", stored.id.0);
                }
            });
        }
        committing.join_all().await;
    });
}

fn check(file: &TestFile, acknowledged: &[(i64, u64)]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(&file.path).unwrap();
        let events = events(&store).await;
        let accounts = (0..ACCOUNTS).map(|n| account(&format!("kf{n}"))).collect();
        for stored in store.register_accounts(accounts).await.unwrap().configured {
            let own: Vec<StoredEvent> =
                events.iter().filter(|event| event.account == stored.id).cloned().collect();
            assert_eq!(sequences(&own), (1..=own.len() as u64).collect::<Vec<_>>(), "no gaps");
            let promised = acknowledged.iter().filter(|(id, _)| *id == stored.id.0).map(|(_, n)| *n).max();
            assert!(promised.unwrap_or(0) <= own.len() as u64, "acknowledged commits are stored");
            assert_eq!(replayed(&own), listed(&stored), "the snapshot equals the replayed events");
        }
        store.close().await;
    });
}

fn replayed(events: &[StoredEvent]) -> BTreeSet<(String, i64)> {
    let mut open = BTreeSet::new();
    for event in events {
        let started_at: jiff::Timestamp = field(event, "/data/started_at").parse().unwrap();
        let session = (field(event, "/data/openid"), started_at.as_second());
        match event.event_type {
            EventType::SessionStarted => assert!(open.insert(session)),
            EventType::SessionEnded => assert!(open.remove(&session)),
            EventType::StateChanged => {}
        }
    }
    open
}
