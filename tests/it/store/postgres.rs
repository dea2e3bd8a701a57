//! The store in PostgreSQL: owners that were replaced, answers that are lost, and servers that are refused.

use std::{collections::BTreeSet, fs};

use futures_util::{FutureExt, future::BoxFuture};
use kfwatch::store::{
    DeadLetter, LastSeenUpdate, LogPosition, PollCommit, RegistrationUpdate, SinkRegistration, SizeLimit,
    StartPosition, Store, StoreError, StoredAccount, StoredEvent,
};

use crate::support::{
    postgres::{Proxy, Schema},
    store::*,
};

mod import;
mod leases;
mod servers;
mod tokens;

contract!(
    #[ignore = "needs PostgreSQL; tests/run.sh runs it"]
    contract,
    crate::support::store::postgres_schema
);

/// A method that writes, called with some arguments.
type Write = fn(Store, Stored) -> BoxFuture<'static, Result<(), StoreError>>;

/// What the store contains when the method is called: kf account "a" with two sessions, a sink that has received everything and is
/// suspended, and one that has received the first event and refused it.
#[derive(Clone)]
struct Stored {
    account: StoredAccount,
    event: StoredEvent,
}

fn letter(event: StoredEvent) -> DeadLetter {
    DeadLetter { sink: "log".to_owned(), event, reason: "no\0".to_owned(), died_at: at(0), retry: false }
}

fn other_sinks() -> Vec<SinkRegistration> {
    vec![sink("other", StartPosition::Now)]
}

/// Every method that writes. All of them change something in what [`Stored`] describes.
const WRITES: [(&str, Write); 18] = [
    ("register", |store, _| {
        async move { store.register(vec![account("b")], other_sinks(), at(9)).await.map(drop) }.boxed()
    }),
    ("update_registrations", |store, stored| {
        let left = vec![stored.account.id];
        let update = RegistrationUpdate {
            added: vec![account("b")],
            left,
            sinks: Some(other_sinks()),
            keeps_other_sinks: false,
        };
        async move { store.update_registrations(update, at(9)).await.map(drop) }.boxed()
    }),
    ("record_last_seen", |store, stored| {
        let seen = LastSeenUpdate {
            id: stored.account.id,
            listed_sent_at: Some(at(99).into()),
            last_success_at: None,
        };
        async move { store.record_last_seen(vec![seen]).await }.boxed()
    }),
    ("commit_poll", |store, stored| {
        let commit = poll(&stored.account, vec![started("o-2", 2), ended("o-1", 1)]);
        async move { store.commit_poll(commit).await.map(drop) }.boxed()
    }),
    ("remove_accounts", |store, stored| {
        let leaving = PollCommit { record: unwatched(), ..poll(&stored.account, vec![left(100)]) };
        async move { store.remove_accounts(vec![leaving]).await }.boxed()
    }),
    ("advance_cursor", |store, _| async move { store.advance_cursor("log", LogPosition(2)).await }.boxed()),
    ("rewind_cursor", |store, _| async move { store.rewind_cursor("all", at(0)).await.map(drop) }.boxed()),
    ("stop_sink", |store, _| async move { store.stop_sink("log", "410", at(0)).await }.boxed()),
    ("suspend_sink", |store, _| async move { store.suspend_sink("log", "full", at(0)).await }.boxed()),
    ("resume_sink", |store, _| async move { store.resume_sink("all").await.map(drop) }.boxed()),
    ("add_dead_letter", |store, stored| {
        let letter = DeadLetter { sink: "all".to_owned(), ..letter(stored.event) };
        async move { store.add_dead_letter(letter).await.map(drop) }.boxed()
    }),
    ("retry_dead_letters", |store, _| async move { store.retry_dead_letters("log").await.map(drop) }.boxed()),
    ("remove_dead_letter", |store, stored| {
        async move { store.remove_dead_letter("log", stored.event.id).await }.boxed()
    }),
    ("drop_dead_letters", |store, _| async move { store.drop_dead_letters("log").await.map(drop) }.boxed()),
    ("prune", |store, _| async move { store.prune(everything_before(1_000)).await.map(drop) }.boxed()),
    ("prune_to_size", |store, _| {
        async move { store.prune_to_size(SizeLimit { bytes: 0, batch: 1 }).await.map(drop) }.boxed()
    }),
    ("record_token_fetch", |store, _| async move { store.record_token_fetch("wx", at(0)).await }.boxed()),
    ("store_refresh_token", |store, _| {
        async move { store.store_refresh_token("wx", &"token".into(), at(0)).await }.boxed()
    }),
];

/// Methods that only read.
const READS: [&str; 14] = [
    "watched_accounts",
    "stored_accounts",
    "account_names",
    "sinks",
    "sink",
    "dead_letters",
    "dead_letters_to_retry",
    "dead_letters_after",
    "read_events_at",
    "read_events",
    "position_before",
    "count_events",
    "token_fetches",
    "refresh_tokens",
];

/// Opens a schema with something for each method to change.
async fn filled(schema: &Schema) -> (Store, Stored) {
    let store = schema.open().await;
    let account = register(&store, "a").await;
    sinks(&store, &["log", "all"], StartPosition::Beginning, 0).await;
    commit(&store, &account, vec![started("o-1", 1), started("o-3", 3)]).await;
    for (sink, position) in [("log", 1), ("all", 2)] {
        store.advance_cursor(sink, LogPosition(position)).await.unwrap();
    }
    let event = events(&store).await.remove(0);
    store.add_dead_letter(letter(event.clone())).await.unwrap();
    store.suspend_sink("all", "full", at(0)).await.unwrap();
    (store, Stored { account, event })
}

#[test]
fn list_of_methods_is_complete() {
    let listed: BTreeSet<&str> = WRITES.iter().map(|(name, _)| *name).chain(READS).collect();
    let mut found = BTreeSet::new();
    let sources = ["accounts", "delivery", "events", "maintenance", "tokens"];
    let sources = sources.map(|file| fs::read_to_string(format!("src/store/{file}.rs")).unwrap());
    for source in &sources {
        let calls = source.split("on_backend!(self, store => store.").skip(1);
        found.extend(calls.filter_map(|call| Some(call.split_once('(')?.0)));
    }
    assert_eq!(found, listed);
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn every_write_of_a_former_owner_is_refused() {
    for (name, write) in WRITES {
        let schema = Schema::new();
        let (store, stored) = filled(&schema).await;
        schema.execute("UPDATE shards SET owner = gen_random_uuid(), epoch = epoch + 1").await;
        let before = schema.content().await;
        let refused = write(store.clone(), stored).await;
        assert!(matches!(refused, Err(StoreError::LeaseLost)), "{name}: {refused:?}");
        assert_eq!(schema.content().await, before, "{name} has written");
        assert!(matches!(store.lost().now_or_never(), Some(StoreError::LeaseLost)), "{name}");
    }
}

/// After an asynchronous standby was promoted, the epoch of an owner can be that of another one.
#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn same_epoch_of_another_owner_is_refused() {
    let schema = Schema::new();
    let (store, stored) = filled(&schema).await;
    schema.execute("UPDATE shards SET owner = gen_random_uuid()").await;
    let refused = store.commit_poll(poll(&stored.account, vec![started("o-2", 2)])).await;
    assert!(matches!(refused, Err(StoreError::LeaseLost)), "{refused:?}");
}

/// Each answer on the way is lost in a run of its own, that of the last statement among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn every_write_whose_answer_is_lost_is_done_once() {
    for (name, write) in WRITES {
        let expected = Schema::new();
        let (store, stored) = filled(&expected).await;
        write(store.clone(), stored).await.unwrap();
        store.close().await;
        let expected = expected.content().await;
        for n in 1.. {
            let proxy = Proxy::start();
            let schema = Schema::new().through(&proxy);
            let (store, stored) = filled(&schema).await;
            proxy.lose_answer(n);
            let written = write(store.clone(), stored).await;
            assert!(written.is_ok(), "{name}: {written:?}");
            if !proxy.has_lost_answer() {
                assert!(n > 1, "{name} gets an answer");
                break;
            }
            store.close().await;
            assert_eq!(schema.content().await, expected, "{name}, answer {n}");
        }
    }
}

/// Nothing can be assumed about a commit with several changes of one session, and its repetition would be new events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn unusual_commit_whose_answer_is_lost_is_done_once() {
    for n in 1.. {
        let proxy = Proxy::start();
        let schema = Schema::new().through(&proxy);
        let (store, stored) = filled(&schema).await;
        let changes = vec![ended("o-1", 1), started("o-1", 1), ended("o-1", 1), started("o-1", 1)];
        proxy.lose_answer(n);
        let committed = store.commit_poll(poll(&stored.account, changes)).await.unwrap();
        assert_eq!((committed.sequence, committed.last_event.0), (6, 6), "answer {n}");
        assert_eq!(sequences(&events(&store).await), [1, 2, 3, 4, 5, 6]);
        if !proxy.has_lost_answer() {
            assert!(n > 3, "the statements before the commit have answers, too");
            break;
        }
    }
}
