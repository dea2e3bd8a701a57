//! Operations on a log of ten million events are as fast as on one of a hundred thousand.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kfwatch::store::{EventFilter, LogPosition, PruneLimits, StartPosition, Store};
use rusqlite::Connection;

use crate::support::store::*;

/// Time between two events; ten million events take a month.
const GAP_MS: i64 = 259;
const ACCOUNTS: i64 = 1_000;

/// Creates a store with so many events of a thousand kf accounts by SQL. `observed` is an SQL expression with the event number
/// `n`.
async fn filled(count: i64, observed: &str) -> TestFile {
    let file = test_file();
    let store = Store::open(&file.path).unwrap();
    store.register_accounts((0..ACCOUNTS).map(|n| account(&format!("kf{n}@test"))).collect()).await.unwrap();
    store.close().await;
    let connection = Connection::open(&file.path).unwrap();
    let index: String = connection
        .query_row("SELECT sql FROM sqlite_schema WHERE name = 'events_by_session'", [], |row| row.get(0))
        .unwrap();
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF;
             DROP INDEX events_by_session;
             INSERT INTO events (id, account, sequence, type, createtime, session_id, observed_at, json)
             WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})
             SELECT n, n % {ACCOUNTS} + 1, n / {ACCOUNTS} + 1, 1 + n / {ACCOUNTS} % 2, 1795000000 + n / 4, randomblob(16),
                    {observed}, json_object('specversion', '1.0', 'id', hex(randomblob(16)), 'padding', hex(zeroblob(280)))
             FROM numbers;
             {index};
             UPDATE accounts SET sequence = {count} / {ACCOUNTS} + 1;
             PRAGMA journal_mode = WAL;"
        ))
        .unwrap();
    file
}

/// The observation time of event `n` by a correct clock.
fn steady() -> String {
    format!("1795000000000 + n * {GAP_MS}")
}

fn since(n: i64) -> Timestamp {
    at(n * GAP_MS)
}

#[tokio::test]
async fn time_range_query_scans_no_older_events() {
    // The clock is half an hour slow; in 1970, as after a boot without a clock; 90 minutes fast; two hours slow.
    let clock = format!(
        "CASE WHEN n BETWEEN 20000 AND 30000 THEN {steady} - 1800000 WHEN n BETWEEN 40000 AND 55000 THEN n
              WHEN n BETWEEN 60000 AND 75000 THEN {steady} + 5400000
              WHEN n BETWEEN 90000 AND 90500 THEN {steady} - 7200000 ELSE {steady} END",
        steady = steady()
    );
    let file = filled(120_000, &clock).await;
    let reader = Store::open_to_read(&file.path).unwrap();
    let check = async |n: i64| {
        let after = reader.position_before(since(n)).await.unwrap();
        let connection = Connection::open(&file.path).unwrap();
        let sql = "SELECT count(*) FROM events WHERE id <= ?1 AND observed_at >= ?2";
        let left_out = connection.query_row(sql, (after.0, since(n).as_millisecond()), |row| row.get(0));
        assert_eq!(left_out, Ok(0), "since event {n}, after {after:?}");
        after
    };
    let times =
        [-1_000, 1, 9_999, 19_000, 25_000, 30_500, 39_999, 41_000, 56_000, 61_000, 76_000, 89_999, 95_000];
    for n in times {
        check(n).await;
    }
    assert_eq!(check(1).await, LogPosition::BEGINNING);
    assert!(check(39_999).await >= LogPosition(20_000));
    assert!(check(119_990).await >= LogPosition(100_000));
    assert!(check(130_000).await >= LogPosition(100_000), "no event is that late");
    let store = Store::open(&file.path).unwrap();
    sinks(&store, &["crm"], StartPosition::Now, 1).await;
    let rewound = store.rewind_cursor("crm", since(119_990)).await.unwrap();
    assert_eq!(
        (rewound.cursor, rewound.events),
        (LogPosition(119_989), 11),
        "a replay starts at the same position"
    );
    // A pruned log begins at a later event.
    store.prune(PruneLimits { batch: 5000, ..everything_before(15_000 * GAP_MS) }).await.unwrap();
    assert!(check(119_990).await >= LogPosition(100_000));
    for n in times {
        check(n).await;
    }
}

/// Returns the shortest duration of a step. Where an operation takes microseconds, a step repeats it.
async fn quickest<F: Future<Output = ()>>(times: usize, mut step: impl FnMut() -> F) -> Duration {
    let mut quickest = Duration::MAX;
    for _ in 0..times {
        let begun = Instant::now();
        step().await;
        quickest = quickest.min(begun.elapsed());
    }
    quickest
}

/// Operations on a log, with their durations.
type Figures = Vec<(&'static str, Duration)>;

async fn figures(count: i64) -> Figures {
    let begun = Instant::now();
    let file = filled(count, &steady()).await;
    println!(
        "{count} events, filled in {:?}: {} MB",
        begun.elapsed(),
        file.path.metadata().unwrap().len() >> 20
    );
    let mut figures = measure_reads(&file, count).await;
    let started = quickest(3, async || {
        let store = Store::open(&file.path).unwrap();
        store
            .register_accounts((0..ACCOUNTS).map(|n| account(&format!("kf{n}@test"))).collect())
            .await
            .unwrap();
        sinks(&store, &["a", "b"], StartPosition::Beginning, 1).await;
        store.close().await;
    });
    figures.push(("the store is opened, with its accounts and sinks", started.await));

    let store = Store::open(&file.path).unwrap();
    for (what, from) in [("a sink reads from the old end", 0), ("from the new end", count - 20_000)] {
        let took = quickest(5, async || {
            let mut after = LogPosition(from);
            for _ in 0..20 {
                let page =
                    store.read_events(EventFilter { after, ..EventFilter::default() }, 1000).await.unwrap();
                assert_eq!(page.events.len(), 1000);
                after = page.next;
            }
        });
        figures.push((what, took.await));
    }
    let pending = quickest(20, async || {
        for _ in 0..100 {
            assert_eq!(store.sink("a").await.unwrap().backlog.events, count as u64);
        }
    });
    figures.push(("a hundred scrapes count pending events", pending.await));
    let moved = quickest(5, async || store.advance_cursor("a", LogPosition(count / 2)).await.unwrap());
    figures.push(("a cursor moves", moved.await));
    store.advance_cursor("b", LogPosition(count / 2)).await.unwrap();
    let mut moved_back = Duration::MAX;
    for _ in 0..5 {
        store.advance_cursor("a", LogPosition(count)).await.unwrap();
        let begun = Instant::now();
        assert_eq!(store.rewind_cursor("a", since(count - 999)).await.unwrap().events, 1000);
        moved_back = moved_back.min(begun.elapsed());
    }
    figures.push(("a replay of the last 1,000", moved_back));
    let begun = Instant::now();
    let limits = PruneLimits { batch: 5000, ..everything_before(20_001 * GAP_MS) };
    assert_eq!(store.prune(limits).await.unwrap().events, 20_000);
    figures.push(("20,000 events are pruned", begun.elapsed()));
    let nothing = quickest(5, async || assert_eq!(store.prune(limits).await.unwrap().events, 0));
    figures.push(("there is nothing to prune", nothing.await));
    store.close().await;
    figures
}

/// Measures the reads of `kfwatch events`, which needs no daemon.
async fn measure_reads(file: &TestFile, count: i64) -> Figures {
    let store = Store::open_to_read(&file.path).unwrap();
    let read = async |filter: EventFilter, limit: usize, expected: usize| {
        assert_eq!(store.read_events(filter, limit).await.unwrap().events.len(), expected);
    };
    let all = EventFilter::default;
    let accounts = store.account_names().await.unwrap().into_iter();
    let accounts = accounts.filter(|(_, account)| &*account.kf_account == "kf7@test");
    let ids: Vec<_> = accounts.map(|(id, _)| id).collect();
    let of_account = || EventFilter { accounts: Some(ids.clone()), ..all() };
    let opened = quickest(5, async || drop(Store::open_to_read(&file.path).unwrap()));
    let first = quickest(20, async || read(all(), 1000, 1000).await);
    let since_late = quickest(5, async || {
        let since = since(count - 999);
        let after = store.position_before(since).await.unwrap();
        read(EventFilter { after, since: Some(since), ..all() }, 1001, 1000).await;
    });
    let of_one = quickest(5, async || read(of_account(), 50, 50).await);
    let of_one_since = quickest(5, async || {
        let since = since(count - 49_999);
        let after = store.position_before(since).await.unwrap();
        read(EventFilter { after, since: Some(since), ..of_account() }, 51, 50).await;
    });
    let follow = quickest(20, async || {
        for _ in 0..100 {
            read(EventFilter { after: LogPosition(count), ..of_account() }, 1000, 0).await;
        }
    });
    let begun = Instant::now();
    let matching = store.read_events(of_account(), usize::MAX).await.unwrap().events.len();
    println!("{count} events: all {matching} of one kf account in {:?}", begun.elapsed());
    vec![
        ("events: opened", opened.await),
        ("events: the first page", first.await),
        ("events --since, the last 1,000", since_late.await),
        ("events --account, the first 50", of_one.await),
        ("events --account --since, the last 50", of_one_since.await),
        ("events --follow, a hundred reads", follow.await),
    ]
}

#[test]
#[ignore = "slow, and needs 8 GB of disk; tests/run.sh --long runs it"]
fn ten_million_events_are_as_fast_as_a_hundred_thousand() {
    /// Tolerance for other load on the machine, because the logs are measured one after the other.
    const FACTOR: u32 = 5;
    /// A user does not notice less than this. Reading ten million events takes seconds.
    const UNNOTICEABLE: Duration = Duration::from_millis(50);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let [small, large] = [100_000, 10_000_000].map(|count| runtime.block_on(figures(count)));
    let mut slow = Vec::new();
    for ((what, small), (_, large)) in small.into_iter().zip(large) {
        println!("{what}: {small:?}, with a hundred times the log {large:?}");
        if large > FACTOR * small.max(UNNOTICEABLE) {
            slow.push(what);
        }
    }
    assert!(slow.is_empty(), "{slow:?}");
}
