//! Places to open a store, and builders of its content.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use kfwatch::{
    domain::{
        account::{Account, AccountState, Conclusion, Transition},
        diff::EndReason,
        event::{Change, OwnedSession},
        tracker::LastSeen,
    },
    store::{
        AccountId, AccountRecord, Committed, EventFilter, LogPosition, PollCommit, PruneLimits,
        SinkRegistration, StartPosition, Store, StoreError, StoredAccount, StoredEvent,
    },
};
use tempfile::TempDir;

use super::postgres::Schema;

/// The location of one test's store, which can be opened again after it was closed.
pub(crate) struct Place {
    open: Box<dyn Fn() -> BoxFuture<'static, Store> + Send + Sync>,
}

impl Place {
    pub(crate) async fn open(&self) -> Store {
        (self.open)().await
    }

    /// Closes and reopens the store, as a restart of the daemon does.
    pub(crate) async fn reopen(&self, store: Store) -> Store {
        store.close().await;
        self.open().await
    }
}

/// A store file in its own directory.
pub(crate) fn sqlite_file() -> Place {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let open = move || {
        let directory = Arc::clone(&directory);
        async move { Store::open(&directory.path().join("kfwatch.db")).unwrap() }.boxed()
    };
    Place { open: Box::new(open) }
}

/// A shard of a schema of its own.
pub(crate) fn postgres_schema() -> Place {
    let schema = Arc::new(Schema::new());
    let open = move || {
        let schema = Arc::clone(&schema);
        async move { schema.open().await }.boxed()
    };
    Place { open: Box::new(open) }
}

pub(crate) const APPID: &str = "wx0123456789abcdef";

/// A store file for tests that read it directly.
pub(crate) struct TestFile {
    pub(crate) directory: TempDir,
    pub(crate) path: PathBuf,
}

pub(crate) fn test_file() -> TestFile {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kfwatch.db");
    TestFile { directory, path }
}

pub(crate) fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_795_000_000_000 + ms).unwrap()
}

pub(crate) fn account(kf_account: &str) -> Account {
    Account { official_account: "shop".into(), appid: APPID.into(), kf_account: kf_account.into() }
}

pub(crate) fn started(openid: &str, createtime: i64) -> Change {
    let session = OwnedSession { openid: openid.into(), createtime };
    Change::SessionStarted { session, observed_at: at(createtime), baseline: false, transferred_from: None }
}

pub(crate) fn ended(openid: &str, createtime: i64) -> Change {
    let session = OwnedSession { openid: openid.into(), createtime };
    let ended_between = [at(createtime), at(createtime + 1)];
    Change::SessionEnded { session, reason: EndReason::Absent, ended_between }
}

pub(crate) fn became(from: AccountState, to: AccountState, ms: i64) -> Change {
    Change::StateChanged {
        transition: Transition { from, to },
        observed_at: at(ms),
        errcode: None,
        source: "configuration",
        binding: None,
    }
}

pub(crate) fn left(ms: i64) -> Change {
    became(AccountState::Ok, AccountState::Unwatched, ms)
}

pub(crate) fn watched() -> AccountRecord {
    AccountRecord {
        state: AccountState::Ok,
        conclusion: Some(Conclusion::Ok),
        last_seen: LastSeen {
            baseline_taken: true,
            keyless: false,
            listed_sent_at: Some(at(1).into()),
            last_success_at: Some(at(2).into()),
        },
    }
}

pub(crate) fn unwatched() -> AccountRecord {
    AccountRecord { state: AccountState::Unwatched, ..watched() }
}

pub(crate) fn poll(stored: &StoredAccount, changes: Vec<Change>) -> PollCommit {
    PollCommit { id: stored.id, account: stored.account.clone(), changes, record: watched() }
}

pub(crate) fn unknown_account() -> PollCommit {
    PollCommit { id: AccountId(4711), account: account("nobody"), changes: vec![], record: watched() }
}

pub(crate) async fn commit(store: &Store, stored: &StoredAccount, changes: Vec<Change>) -> Committed {
    store.commit_poll(poll(stored, changes)).await.unwrap()
}

/// Registers only this account, so that all others become unwatched.
pub(crate) async fn register(store: &Store, kf_account: &str) -> StoredAccount {
    let registered = store.register_accounts(vec![account(kf_account)]).await.unwrap();
    registered.configured.into_iter().next().unwrap()
}

pub(crate) async fn sinks(store: &Store, names: &[&str], start: StartPosition, ms: i64) -> Vec<LogPosition> {
    let sinks = names.iter().map(|name| sink(name, start)).collect();
    let registered = store.register_sinks(sinks, at(ms)).await.unwrap();
    registered.into_iter().map(|sink| sink.cursor).collect()
}

pub(crate) fn sink(name: &str, start: StartPosition) -> SinkRegistration {
    SinkRegistration { name: name.to_owned(), start, destination: None }
}

pub(crate) async fn events(store: &Store) -> Vec<StoredEvent> {
    store.read_events(EventFilter::default(), usize::MAX).await.unwrap().events
}

pub(crate) fn everything_before(ms: i64) -> PruneLimits {
    PruneLimits {
        events_before: at(ms),
        unwatched_before: at(ms),
        sinks_before: at(ms),
        dead_letters_before: at(ms),
        batch: 2,
    }
}

/// The openids and createtimes of a snapshot.
pub(crate) fn listed(stored: &StoredAccount) -> BTreeSet<(String, i64)> {
    stored.snapshot.iter().map(|session| (session.openid.into_owned(), session.createtime)).collect()
}

pub(crate) fn sequences(events: &[StoredEvent]) -> Vec<u64> {
    events.iter().map(|event| event.sequence).collect()
}

pub(crate) fn field(event: &StoredEvent, pointer: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(&event.json).unwrap();
    match json.pointer(pointer).unwrap() {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Returns the error as an operator reads it, with its causes.
pub(crate) fn error_chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
