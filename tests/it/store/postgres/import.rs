//! A SQLite store that is moved into PostgreSQL: what both contain afterwards, what is refused, and imports that are interrupted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kfwatch::{
    domain::{
        account::{Account, AccountState},
        shard::ShardNumber,
    },
    store::{
        Cluster, CopyObserver, DeadLetter, ImportProblem, ImportSource, ImportSummary, LogPosition,
        PollCommit, SinkRegistration, StartPosition, Store, StoreError, StoredAccount, StoredEvent, sinks_of,
    },
};
use rusqlite::Connection;

use crate::support::{
    backup::no_observer,
    postgres::{Proxy, Replica, Schema},
    process::{Home, secret},
    size::size_from,
    store::*,
    wait::eventually,
};

/// Official accounts, each with two kf accounts. They are in many shards.
const OFFICIAL_ACCOUNTS: usize = 40;

fn kf_account(official_account: usize, name: &str) -> Account {
    Account {
        official_account: format!("shop{official_account}").into(),
        appid: format!("wx{official_account:016}").into(),
        kf_account: format!("{name}@shop{official_account}").into(),
    }
}

fn kf_accounts() -> Vec<Account> {
    (0..OFFICIAL_ACCOUNTS).flat_map(|n| ["a", "b"].map(|name| kf_account(n, name))).collect()
}

/// Sinks that are stopped and suspended later, with destinations, because another one would end a stop.
fn registrations(names: &[&str]) -> Vec<SinkRegistration> {
    let registration = |name: &&str| SinkRegistration {
        destination: Some(format!("https://{name}.example/hook")),
        ..sink(name, StartPosition::Beginning)
    };
    names.iter().map(registration).collect()
}

const SINKS: [&str; 6] = ["all", "half", "none", "stopped", "suspended", "removed"];

fn refused_by(sink: &str, event: &StoredEvent, retry: bool) -> DeadLetter {
    let reason = "410 Gone\n\\N\tthe \0end".to_owned();
    DeadLetter { sink: sink.to_owned(), event: event.clone(), reason, died_at: at(77), retry }
}

/// Fills a store: sessions that are open and ended, kf accounts that left, sinks of every state at different cursors, gaps, and dead
/// letters, of which one is of an event that was pruned.
async fn fill(store: &Store) {
    let accounts = store.register_accounts(kf_accounts()).await.unwrap().configured;
    store.register_sinks(registrations(&SINKS), at(0)).await.unwrap();
    for account in &accounts {
        commit(store, account, vec![started("o-\u{1f980}\\1", 1), started("o-2", 2)]).await;
    }
    let log = events(store).await;
    store.add_dead_letter(refused_by("all", &log[7], false)).await.unwrap();
    store.add_dead_letter(refused_by("half", &log[7], true)).await.unwrap();
    store.add_dead_letter(refused_by("half", &log[90], false)).await.unwrap();
    store.suspend_sink("suspended", "the store was full", at(5)).await.unwrap();
    store.stop_sink("stopped", "410", at(6)).await.unwrap();
    for (sink, position) in [("all", 100), ("half", 100), ("none", 60), ("stopped", 60), ("removed", 100)] {
        store.advance_cursor(sink, LogPosition(position)).await.unwrap();
    }
    // Removes the events up to the cursors of those that are neither suspended nor removed.
    let pruned = store.prune(pruning_events()).await.unwrap();
    assert_eq!(pruned.events, 60);

    for account in &accounts {
        commit(store, account, vec![ended("o-2", 2), started("o-3", 3)]).await;
    }
    let gone = kf_account(3, "a");
    let left: Vec<Account> = kf_accounts().into_iter().filter(|account| *account != gone).collect();
    let registered = store.register_accounts(left).await.unwrap();
    let leaving =
        PollCommit { record: unwatched(), ..poll(&registered.left[0], vec![left_at(AccountState::Ok, 9)]) };
    store.remove_accounts(vec![leaving]).await.unwrap();
    let log = events(store).await;
    for event in [&log[50], &log[140]] {
        store.add_dead_letter(refused_by("half", event, false)).await.unwrap();
    }
    let newest = log.last().unwrap().id;
    store.advance_cursor("all", newest).await.unwrap();
    store.advance_cursor("half", LogPosition(200)).await.unwrap();
    let configured = SINKS.map(|name| name).into_iter().filter(|name| *name != "removed").collect::<Vec<_>>();
    store.register_sinks(registrations(&configured), at(8)).await.unwrap();
    store.record_token_fetch("wx0000000000000001", at(4)).await.unwrap();
    for appid in ["wx0000000000000001", "wx0000000000000002"] {
        store.store_refresh_token(appid, &"secret".into(), at(3)).await.unwrap();
    }
}

fn left_at(from: AccountState, ms: i64) -> kfwatch::domain::event::Change {
    became(from, AccountState::Unwatched, ms)
}

fn pruning_events() -> kfwatch::store::PruneLimits {
    let never = Timestamp::UNIX_EPOCH;
    kfwatch::store::PruneLimits {
        unwatched_before: never,
        sinks_before: never,
        dead_letters_before: never,
        ..everything_before(1_000)
    }
}

async fn filled_file() -> TestFile {
    let file = test_file();
    let store = Store::open(&file.path).unwrap();
    fill(&store).await;
    store.close().await;
    file
}

/// Imports a file on a thread that may block.
async fn import(
    schema: &Schema,
    path: &Path,
    tokens: HashMap<String, String>,
    observer: CopyObserver,
) -> Result<ImportSummary, StoreError> {
    let (options, path) = (schema.options(), path.to_path_buf());
    let import = move || Cluster::import(options, &ImportSource::open(&path)?, &tokens, &observer);
    tokio::task::spawn_blocking(import).await.unwrap()
}

async fn acquire_all(schema: &Schema) -> BTreeMap<ShardNumber, Store> {
    let replica = Replica::connect(schema, "only").await;
    replica.send_heartbeat(Duration::ZERO).await.unwrap();
    let shards: Vec<ShardNumber> = ShardNumber::all().collect();
    replica.acquire(&shards).await.into_iter().collect()
}

/// An event without its position.
fn without_position(event: &StoredEvent) -> StoredEvent {
    StoredEvent { id: LogPosition::BEGINNING, ..event.clone() }
}

fn in_shard(events: &[StoredEvent], accounts: &[StoredAccount], shard: ShardNumber) -> Vec<StoredEvent> {
    let ours: BTreeSet<_> = accounts
        .iter()
        .filter(|of| ShardNumber::from_appid(&of.account.appid) == shard)
        .map(|of| of.id)
        .collect();
    events.iter().filter(|event| ours.contains(&event.account)).map(without_position).collect()
}

/// The events after a cursor, without their positions.
async fn after(store: &Store, cursor: LogPosition) -> Vec<StoredEvent> {
    events(store).await.iter().filter(|event| event.id > cursor).map(without_position).collect()
}

/// Compares everything that both stores return.
async fn assert_same(sqlite: &Store, shards: &BTreeMap<ShardNumber, Store>) {
    let stores: Vec<Store> = shards.values().cloned().collect();
    let accounts = sqlite.stored_accounts().await.unwrap();
    let log = events(sqlite).await;
    let (mut found, mut names, mut watched) = (Vec::new(), Vec::new(), Vec::new());
    for (number, shard) in shards {
        found.extend(shard.stored_accounts().await.unwrap());
        names.extend(shard.account_names().await.unwrap());
        watched.extend(shard.watched_accounts().await.unwrap());
        let imported = events(shard).await;
        let without: Vec<_> = imported.iter().map(without_position).collect();
        assert_eq!(without, in_shard(&log, &accounts, *number));
        assert!(imported.windows(2).all(|pair| pair[1].id.0 == pair[0].id.0 + 1), "positions have gaps");
        assert_eq!(shard.count_events().await.unwrap(), imported.len() as u64);
        if let Some(newest) = imported.last() {
            assert_eq!(*shard.committed().borrow(), newest.id);
        }
        assert_eq!(shard.token_fetches().await.unwrap(), sqlite.token_fetches().await.unwrap());
    }
    found.sort_by_key(|account| account.id);
    names.sort_by_key(|(id, _)| *id);
    let by_id = |account: &Account| names.iter().find(|(_, named)| named == account).unwrap().0;
    watched.sort_by_key(by_id);
    assert_eq!(found, accounts);
    assert_eq!(names, sqlite.account_names().await.unwrap());
    assert_eq!(watched, sqlite.watched_accounts().await.unwrap());
    assert_eq!(sinks_of(&stores).await.unwrap(), sqlite.sinks().await.unwrap());
    assert_same_dead_letters(sqlite, shards).await;
}

async fn assert_same_dead_letters(sqlite: &Store, shards: &BTreeMap<ShardNumber, Store>) {
    let key = |letter: &DeadLetter| (letter.event.account, letter.event.sequence);
    let without = |letter: &DeadLetter| DeadLetter {
        event: without_position(&letter.event),
        // PostgreSQL refuses NUL.
        reason: letter.reason.replace('\0', "\u{fffd}"),
        ..letter.clone()
    };
    for sink in SINKS {
        let expected = sqlite.dead_letters(sink, LogPosition::BEGINNING, 100).await.unwrap();
        let mut expected: Vec<DeadLetter> = expected.iter().map(without).collect();
        expected.sort_by_key(key);
        let mut found = Vec::new();
        for shard in shards.values() {
            let log = events(shard).await;
            let letters = shard.dead_letters(sink, LogPosition::BEGINNING, 100).await.unwrap();
            let ids: BTreeSet<LogPosition> = letters.iter().map(|letter| letter.event.id).collect();
            assert_eq!(ids.len(), letters.len(), "positions are unique");
            for letter in &letters {
                match log.iter().find(|event| event.id == letter.event.id) {
                    Some(logged) => assert_eq!(*logged, letter.event),
                    None => {
                        assert!(letter.event.id.0 > 0 && log.iter().all(|event| event.id > letter.event.id));
                        assert!(log.iter().all(|event| event.json != letter.event.json));
                    }
                }
            }
            found.extend(letters.iter().map(without));
        }
        found.sort_by_key(key);
        assert_eq!(found, expected, "{sink}");
    }
}

/// Registers the same configuration as before in both stores, as the next start does, and compares what is delivered next.
async fn assert_same_continuation(sqlite: &Store, shards: &BTreeMap<ShardNumber, Store>) {
    let mut configured = kf_accounts();
    configured.retain(|account| *account != kf_account(3, "a"));
    let names: Vec<&str> = SINKS.into_iter().filter(|name| *name != "removed").collect();
    let accounts = sqlite.stored_accounts().await.unwrap();
    let expected = sqlite.register(configured.clone(), registrations(&names), at(9)).await.unwrap();
    for (number, shard) in shards {
        let ours = configured.iter().filter(|of| ShardNumber::from_appid(&of.appid) == *number).cloned();
        let registered = shard.register(ours.collect(), registrations(&names), at(9)).await.unwrap();
        assert_eq!(registered.accounts.left, []);
        for ((name, before), now) in names.iter().zip(&expected.sinks).zip(&registered.sinks) {
            assert_eq!(now.state, before.state, "{name}");
            let missing = in_shard(&after(sqlite, before.cursor).await, &accounts, *number);
            assert_eq!(after(shard, now.cursor).await, missing, "{name} continues with other events");
        }
        for account in &registered.accounts.configured {
            // Of three sessions, one is open already, one has ended meanwhile, and one is new.
            let changes = || vec![started("o-3", 3), ended("o-\u{1f980}\\1", 1), started("o-4", 4)];
            let before =
                expected.accounts.configured.iter().find(|of| of.account == account.account).unwrap();
            let sequence = commit(sqlite, before, changes()).await.sequence;
            let committed = commit(shard, account, changes()).await;
            assert_eq!((committed.sequence, sequence), (6, 6), "{account:?}");
            assert_eq!(events(shard).await.last().unwrap().id, committed.last_event);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn import_keeps_everything_that_a_start_relies_on() {
    let (file, schema) = (filled_file().await, Schema::new());
    let sealed = "wx0000000000000002".to_owned();
    let tokens =
        HashMap::from([(sealed.clone(), "sealed".to_owned()), ("wx9".to_owned(), "none".to_owned())]);
    let imported = import(&schema, &file.path, tokens, no_observer()).await.unwrap();
    let sqlite = Store::open(&file.path).unwrap();
    let expected = ImportSummary { accounts: 80, open_sessions: 160, events: 261, sinks: 6, dead_letters: 5 };
    assert_eq!(imported, expected);
    let shards = acquire_all(&schema).await;
    assert!(shards.len() == 64 && sqlite.count_events().await.unwrap() == 261);
    let weights = "SELECT sum(weight)::bigint, count(*) FILTER (WHERE weight > 0) FROM shards";
    let weights = schema.client().await.query_one(weights, &[]).await.unwrap();
    assert!(weights.get::<_, i64>(0) == 79 && weights.get::<_, i64>(1) > 20, "{weights:?}");
    let stored = schema.client().await.query("SELECT appid, token, stored_at FROM refresh_tokens", &[]).await;
    let stored: Vec<(String, String, i64)> =
        stored.unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(stored, [(sealed, "sealed".to_owned(), at(3).as_millisecond())]);

    assert_same(&sqlite, &shards).await;
    assert_same_continuation(&sqlite, &shards).await;
    // What is missed from now on is not added to what was missed before.
    let lost = |sinks: Vec<kfwatch::store::StoredSink>| {
        sinks.into_iter().map(|sink| (sink.name, sink.backlog.lost_events)).collect::<Vec<_>>()
    };
    for store in shards.values().chain([&sqlite]) {
        for sink in ["half", "none", "stopped"] {
            store.advance_cursor(sink, LogPosition(i64::MAX / 2)).await.unwrap();
        }
        store.prune(pruning_events()).await.unwrap();
    }
    let stores: Vec<Store> = shards.values().cloned().collect();
    assert_eq!(lost(sinks_of(&stores).await.unwrap()), lost(sqlite.sinks().await.unwrap()));
}

/// A backup that was restored before has lost numbers that were used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn new_accounts_of_a_restored_store_continue_after_its_lost_numbers() {
    let (file, schema) = (filled_file().await, Schema::new());
    Connection::open(&file.path).unwrap().execute("UPDATE lease SET restores = 2", []).unwrap();
    import(&schema, &file.path, HashMap::new(), no_observer()).await.unwrap();
    let new = kf_account(100, "new");
    let shards = acquire_all(&schema).await;
    let shard = &shards[&ShardNumber::from_appid(&new.appid)];
    let new = shard.add_accounts(vec![new]).await.unwrap().remove(0);
    assert!(new.id.0 > 80, "ids of kf accounts are not used again");
    assert_eq!(commit(shard, &new, vec![started("o-1", 1)]).await.sequence, 2_000_001);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn store_whose_log_was_pruned_empty_is_imported() {
    let (file, schema) = (test_file(), Schema::new());
    let sqlite = Store::open(&file.path).unwrap();
    fill(&sqlite).await;
    for sink in ["half", "none", "stopped"] {
        sqlite.advance_cursor(sink, LogPosition(10_000)).await.unwrap();
    }
    sqlite.prune(pruning_events()).await.unwrap();
    assert_eq!(sqlite.count_events().await.unwrap(), 0);
    sqlite.close().await;
    import(&schema, &file.path, HashMap::new(), no_observer()).await.unwrap();
    let sqlite = Store::open(&file.path).unwrap();
    let shards = acquire_all(&schema).await;
    assert_same(&sqlite, &shards).await;
    assert_same_continuation(&sqlite, &shards).await;
}

/// A home whose configuration has the store in a schema.
fn home_of(schema: &Schema, replica: &str) -> Home {
    let home = Home::new();
    home.write(
        "config.toml",
        &format!(
            "{}[[official_accounts]]\nname = \"shop\"\nappid = \"wx0000000000000000\"\nkf_accounts = [\"kf1@shop\"]\n\
             token = {{ source = \"stable\", secret = \"{}\" }}\n[web]\nlisten = \"127.0.0.1:0\"\n",
            schema.sections(replica),
            secret(0)
        ),
    );
    home
}

/// Asserts that the command fails with one line that contains these texts, and that neither the schema nor the file has changed.
async fn assert_refused(home: &Home, schema: &Schema, file: &Path, (code, expected): (i32, &[&str])) {
    let before = (schema.content().await, fs::read(file).ok());
    let ended = home.run(&format!("import {}", file.display()));
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    for text in expected {
        assert!(ended.stderr.contains(text), "{text:?} is not in {ended:?}");
    }
    assert!((schema.content().await, fs::read(file).ok()) == before, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn unsuitable_files_are_refused() {
    let (file, schema) = (filled_file().await, Schema::configured());
    let home = home_of(&schema, "r1");
    let path = |name: &str| file.directory.path().join(name);
    let refused = async |name: &str, expected: &[&str]| {
        assert_refused(&home, &schema, &path(name), (1, expected)).await;
        assert_eq!(schema.content().await, "", "there are no tables");
    };
    refused("missing.db", &["missing.db", "there is no such file", "store.path"]).await;
    fs::write(path("notes.txt"), "dear diary").unwrap();
    refused("notes.txt", &["not a store of kfwatch (no SQLite file)"]).await;
    refused("", &["not a store of kfwatch (no regular file)"]).await;
    Connection::open(path("other.db")).unwrap().execute("CREATE TABLE other (n)", []).unwrap();
    refused("other.db", &["not a store of kfwatch (an SQLite file of another program)"]).await;
    let older = Connection::open(path("older.db")).unwrap();
    older.execute_batch(include_str!("../version_1.sql")).unwrap();
    older.execute_batch("PRAGMA application_id = 0x6b667761; PRAGMA user_version = 1").unwrap();
    refused("older.db", &["older kfwatch (schema 1", "start a daemon of this version with SQLite"]).await;
    older.execute_batch("PRAGMA user_version = 99").unwrap();
    refused("older.db", &["newer kfwatch (schema 99", "upgrade kfwatch"]).await;

    let daemon = Store::open(&file.path).unwrap();
    refused("kfwatch.db", &["is in use by another kfwatch (process ", "stop it first"]).await;
    daemon.close().await;
    fs::write(home.path("sqlite.toml"), "[store]\npath = \"kfwatch.db\"\n").unwrap();
    let ended = home.run(&format!("import -c sqlite.toml {}", file.path.display()));
    assert!(
        ended.code == Some(2) && ended.stderr.contains("set store.backend to \"postgresql\""),
        "{ended:?}"
    );
    assert_eq!(home.run(&format!("import {}", file.path.display())).code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn unsuitable_schemas_are_refused() {
    let (file, schema) = (filled_file().await, Schema::configured());
    let home = home_of(&schema, "r1");
    let replica = Replica::connect(&schema, "r2").await;
    replica.send_heartbeat(Duration::ZERO).await.unwrap();
    assert_refused(&home, &schema, &file.path, (1, &["the replica r2 runs", "stop all replicas"])).await;
    schema.execute("UPDATE replicas SET seen_at = seen_at - interval '9 s'").await;

    let client = schema.client().await;
    client
        .batch_execute(
            "BEGIN; INSERT INTO commands VALUES (gen_random_uuid(), now(), ''); LOCK shards IN SHARE MODE",
        )
        .await
        .unwrap();
    let ended = home.run(&format!("import {}", file.path.display()));
    assert!(ended.code == Some(1) && ended.stderr.contains("another process writes to it"), "{ended:?}");
    client.batch_execute("ROLLBACK").await.unwrap();

    for content in [
        "INSERT INTO sinks (name) VALUES ('crm')",
        "INSERT INTO token_fetches VALUES ('wx', 1)",
        "INSERT INTO accounts (shard, official_account, appid, kf_account, configured) VALUES (0, 'a', 'b', 'c', true)",
    ] {
        client.batch_execute(content).await.unwrap();
        assert_refused(&home, &schema, &file.path, (1, &["it is not empty", "store.schema"])).await;
        client
            .batch_execute("DELETE FROM sinks; DELETE FROM token_fetches; DELETE FROM accounts")
            .await
            .unwrap();
    }
    let printed = home.run(&format!("import {}", file.path.display()));
    let expected = "80 kf accounts, 160 open sessions, 261 events, 6 sinks, 5 dead letters\n";
    assert!(printed.code == Some(0) && printed.stdout.contains(expected), "{printed:?}");
    assert!(printed.stdout.contains("start the replicas") && printed.stderr.is_empty(), "{printed:?}");
    assert_refused(&home, &schema, &file.path, (1, &["it is not empty"])).await;

    let config = fs::read_to_string(home.path("config.toml")).unwrap();
    let elsewhere = config.replace("url = \"postgres://kfwatch@", "url = \"postgres://kfwatch@%2Fnowhere");
    assert_ne!(elsewhere, config);
    home.write("config.toml", &elsewhere);
    let ended = home.run(&format!("import {}", file.path.display()));
    assert!(ended.code == Some(1) && ended.stderr.contains("the database cannot be reached"), "{ended:?}");
}

/// The connection is cut at every answer on the way, that of the last statement among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn import_that_loses_its_connection_leaves_all_or_nothing() {
    let file = filled_file().await;
    let expected = Schema::new();
    import(&expected, &file.path, HashMap::new(), no_observer()).await.unwrap();
    let expected = expected.content().await;
    for n in 1.. {
        let proxy = Proxy::start();
        let schema = Schema::new();
        drop(Replica::connect(&schema, "none").await);
        let empty = schema.content().await;
        let schema = schema.through(&proxy);
        proxy.lose_answer(n);
        let imported = import(&schema, &file.path, HashMap::new(), no_observer()).await;
        if !proxy.has_lost_answer() {
            imported.unwrap();
            assert!(n > 20, "{n}");
            break;
        }
        assert!(matches!(imported, Err(StoreError::Unreachable { .. })), "{imported:?}");
        let again = import(&schema, &file.path, HashMap::new(), no_observer()).await;
        match again {
            // The answer to the commit was lost.
            Ok(_) | Err(StoreError::Import { problem: ImportProblem::NotEmpty, .. }) => {}
            Err(error) => panic!("answer {n}: {}", error_chain(&error)),
        }
        assert_ne!(schema.content().await, empty);
        assert_eq!(schema.content().await, expected, "answer {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn stopped_import_leaves_schema_empty() {
    let (file, schema) = (filled_file().await, Schema::new());
    drop(Replica::connect(&schema, "none").await);
    let empty = schema.content().await;
    let stop: CopyObserver = Arc::new(|_| ControlFlow::Break(()));
    let stopped = import(&schema, &file.path, HashMap::new(), stop).await;
    assert!(
        matches!(&stopped, Err(StoreError::Import { problem: ImportProblem::Stopped, .. })),
        "{stopped:?}"
    );
    assert_eq!(schema.content().await, empty);
    import(&schema, &file.path, HashMap::new(), no_observer()).await.unwrap();
}

/// Kf accounts, each with ten sessions and ten events, in a store that SQLite itself fills.
fn large_file(kf_accounts: u32) -> TestFile {
    let file = test_file();
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        runtime.block_on(async { Store::open(&file.path).unwrap().close().await })
    });
    let data = "x".repeat(420);
    let fill = format!(
        "BEGIN;
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {kf_accounts})
         INSERT INTO accounts (id, official_account, appid, kf_account, configured, sequence, state, baseline_taken, keyless)
         SELECT n, 'shop' || (n / 100), 'wx' || (n / 100), 'kf' || n || '@shop', 1, 10, 'ok', 1, 0 FROM n;
         CREATE TEMP TABLE ten (n INTEGER PRIMARY KEY);
         INSERT INTO ten VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9);
         INSERT INTO sessions SELECT id, 'oDF3iY9P32sK_5GgYiRkjs' || id || '-' || n, 1795000000 + n FROM accounts, ten;
         INSERT INTO events (account, sequence, type, createtime, session_id, observed_at, json)
         SELECT id, n + 1, 1, 1795000000 + n, randomblob(16), 1795000000000 + n,
             '{{\"id\":\"' || hex(randomblob(16)) || '\",\"source\":\"/wechat/shop\",\"data\":\"{data}\"}}' FROM ten, accounts;
         INSERT INTO sinks (name, cursor) VALUES ('crm', {kf_accounts} * 5);
         COMMIT"
    );
    Connection::open(&file.path).unwrap().execute_batch(&fill).unwrap();
    file
}

/// The server refuses the first of many rows while more are sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn damaged_content_leaves_schema_empty() {
    let (file, schema) = (large_file(1_000), Schema::new());
    drop(Replica::connect(&schema, "none").await);
    let empty = schema.content().await;
    let damage = "UPDATE events SET json = CAST(x'ff' AS TEXT) WHERE id = 1";
    Connection::open(&file.path).unwrap().execute(damage, []).unwrap();
    let imported = import(&schema, &file.path, HashMap::new(), no_observer()).await;
    assert!(matches!(imported, Err(StoreError::Rejected { .. })), "{imported:?}");
    assert_eq!(schema.content().await, empty);
}

/// The most memory that a process has had, in MiB; 0 once it has ended.
fn peak_memory_mib(process: u32) -> u64 {
    let status = fs::read_to_string(PathBuf::from(format!("/proc/{process}/status"))).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    peak.map_or(0, |kib| kib.parse::<u64>().unwrap() / 1024)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn killed_import_leaves_schema_empty_and_memory_is_bounded() {
    let kf_accounts = size_from("KFWATCH_IMPORT_KF_ACCOUNTS", 5_000);
    let (file, schema) = (large_file(kf_accounts), Schema::configured());
    let home = home_of(&schema, "r1");
    let command = format!("import {}", file.path.display());
    let client = schema.client().await;
    // Other tests run on the same server.
    let is_copying = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = to_regclass('events') AND mode = 'RowExclusiveLock')";
    for signal in ["KILL", "TERM", "KILL"] {
        let import = home.spawn(&command);
        let copying = async || client.query_one(is_copying, &[]).await.unwrap().get::<_, bool>(0);
        while !copying().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        import.signal(signal);
        let ended = import.ended();
        assert_ne!(ended.code, Some(0), "{ended:?}");
        if signal == "TERM" {
            assert!(
                ended.code == Some(1) && ended.stderr.contains("stopped; nothing was imported"),
                "{ended:?}"
            );
        }
        while copying().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let rows = "SELECT (SELECT count(*) FROM accounts) + (SELECT count(*) FROM events) + (SELECT count(*) FROM sinks)";
        assert_eq!(client.query_one(rows, &[]).await.unwrap().get::<_, i64>(0), 0);
    }
    let begun = std::time::Instant::now();
    let mut import = home.spawn(&command);
    let mut peak = 0;
    eventually("the import has ended", || {
        peak = peak.max(peak_memory_mib(import.id()));
        (!import.is_running()).then_some(())
    });
    let (ended, took) = (import.ended(), begun.elapsed());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    println!(
        "import: {kf_accounts} kf accounts with ten sessions and ten events each in {took:?}, {peak} MiB\n{}",
        ended.stderr
    );
    let pending = "SELECT count(*) FROM events e JOIN cursors c USING (shard) WHERE e.id > c.position";
    let pending: i64 = client.query_one(pending, &[]).await.unwrap().get(0);
    assert_eq!(pending, i64::from(kf_accounts) * 5);
    assert!(peak < 64 + u64::from(kf_accounts) / 2_000, "{peak} MiB");
}
