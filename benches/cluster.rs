//! The store in PostgreSQL, and several replicas of the daemon on it. Needs a server:
//!
//!   tests/with_postgres.sh cargo bench --bench cluster
//!
//! Commits are compared with a bare statement that stores as much. Replicas poll a simulator in this process, whose answers take so long
//! that the polls in flight are the limit and not the processors.

#![expect(clippy::unwrap_used, reason = "a bench that cannot continue ends")]
#![expect(clippy::disallowed_methods, reason = "a bench is its own composition root")]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kfwatch::{
    domain::shard::ShardNumber,
    store::{Cluster, PostgresOptions, ReplicaInfo, Store},
};
use tokio_postgres::{Client, NoTls};

#[path = "support/median.rs"]
mod median;
#[expect(dead_code, reason = "its simulators run in other processes")]
#[path = "support/process.rs"]
mod process;
#[path = "cluster/replicas.rs"]
mod replicas;
#[path = "support/report.rs"]
mod report;
#[path = "support/turnover.rs"]
mod turnover;

use median::median;
use replicas::Replicas;
use report::Report;
use turnover::{EVENT_BYTES, ROW_BYTES, commit_all, registered, turnover};

const APPID: &str = "wx0123456789abcdef";
const ACCOUNTS: usize = 10_000;
const ROUNDS: i64 = 5;
const SESSIONS_RESTORED: usize = 1_000_000;
const SESSIONS_EACH: usize = 100;

/// How many takeovers of each kind are timed.
const TAKEOVERS: usize = 5;

#[expect(clippy::print_stderr, reason = "a benchmark reports on its terminal")]
fn main() {
    let Ok(server) = std::env::var("KFWATCH_TEST_POSTGRES") else {
        eprintln!("Skipped: it needs a server; run tests/with_postgres.sh cargo bench --bench cluster");
        return;
    };
    let server: tokio_postgres::Config = server.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut report = Report::new();
    runtime.block_on(async {
        for in_flight in [64, 256, 1000] {
            commits(&server, in_flight, &mut report).await;
        }
        restore(&server, &mut report).await;
    });
    polls(&server, &mut report);
    takeovers(&server, &mut report);
    report.print();
}

/// A replica with a schema of its own, whose shards are read and written by this process.
async fn replica(server: &tokio_postgres::Config, schema: &str) -> (Cluster, ReplicaInfo) {
    let options = PostgresOptions { server: server.clone(), ca_file: None, schema: schema.to_owned() };
    let info = ReplicaInfo {
        name: "bench".to_owned(),
        address: String::new(),
        version: String::new(),
        started_at: jiff::Timestamp::UNIX_EPOCH,
        fingerprint: Vec::new(),
        is_draining: false,
    };
    let cluster = Cluster::connect(options).await.unwrap();
    cluster.send_heartbeat(&info, Duration::ZERO).await.unwrap();
    (cluster, info)
}

async fn client(server: &tokio_postgres::Config, schema: &str) -> Client {
    let (client, connection) = server.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&format!("SET search_path = {schema}")).await.unwrap();
    client
}

async fn commits(server: &tokio_postgres::Config, in_flight: usize, report: &mut Report) {
    let schema = format!("commits_{in_flight}");
    let (cluster, info) = replica(server, &schema).await;
    let shard = ShardNumber::from_appid(APPID);
    let (_, store) = cluster.acquire_shards(&info, &[shard]).await.unwrap().remove(0);
    let accounts = registered(&store, APPID, ACCOUNTS).await;
    let bare = client(server, &schema).await;
    let tables =
        "CREATE TABLE bare_accounts (id bigint PRIMARY KEY, content bytea NOT NULL) WITH (fillfactor = 50);
                  CREATE TABLE bare_events (id bigserial PRIMARY KEY, json text NOT NULL)";
    bare.batch_execute(tables).await.unwrap();
    let fill = "INSERT INTO bare_accounts SELECT n, convert_to(repeat('x', $2), 'UTF8') FROM generate_series(1, $1) n";
    bare.execute(fill, &[&(ACCOUNTS as i64), &(ROW_BYTES as i32)]).await.unwrap();
    let mut rates = [const { Vec::new() }; 2];
    for round in 0..=ROUNDS {
        let commits = accounts.iter().map(|stored| turnover(stored, round)).collect();
        let measured = [
            rate(commit_all(&store, commits, in_flight)).await,
            rate(bare_statements(&bare, in_flight)).await,
        ];
        // In the first round sessions only start, and tables are small, so it is not counted.
        if round > 0 {
            rates.iter_mut().zip(measured).for_each(|(rates, measured)| rates.push(measured));
        }
    }
    assert_eq!(store.committed().borrow().0, (1 + 2 * ROUNDS) * ACCOUNTS as i64);
    store.close().await;
    let [ours, bare] = rates.map(|rates| median(&rates));
    let what = format!("changed accounts committed, {in_flight} in flight");
    let baseline = format!("bare statement for {in_flight}: {bare:.0}/s");
    let target = if in_flight >= 256 { "≥ 10000/s" } else { "" };
    report.row([&what, &format!("{ours:.0}/s"), &baseline], Some(bare / ours), target);
}

/// Returns the accounts per second.
async fn rate(work: impl Future<Output = ()>) -> f64 {
    let begun = Instant::now();
    work.await;
    ACCOUNTS as f64 / begun.elapsed().as_secs_f64()
}

/// Changes one row and inserts two rows for each account.
async fn bare_statements(client: &Client, in_flight: usize) {
    let sql = "WITH of AS (SELECT unnest($1::bigint[]) AS id), changed AS (
                   UPDATE bare_accounts b SET content = $2 FROM of WHERE b.id = of.id)
               INSERT INTO bare_events (json) SELECT $3 FROM of, generate_series(1, 2)";
    let statement = client.prepare(sql).await.unwrap();
    let (content, json) = (vec![b'y'; ROW_BYTES], "x".repeat(EVENT_BYTES / 2));
    let all: Vec<i64> = (1..=ACCOUNTS as i64).collect();
    for ids in all.chunks(in_flight) {
        client.execute(&statement, &[&ids, &content, &json]).await.unwrap();
    }
}

/// Times from the acquisition of all shards until their accounts are registered.
async fn restore(server: &tokio_postgres::Config, report: &mut Report) {
    let schema = "restore";
    let shards: Vec<ShardNumber> = ShardNumber::all().collect();
    // An official account for each shard.
    let appids: Vec<String> = shards
        .iter()
        .map(|shard| {
            let mut appids = (0..).map(|n| format!("wx{n:016}"));
            appids.find(|appid| ShardNumber::from_appid(appid) == *shard).unwrap()
        })
        .collect();
    let each = SESSIONS_RESTORED / SESSIONS_EACH / shards.len();
    let mut times = Vec::new();
    let mut scan = 0.0;
    for round in 0..=3 {
        let (cluster, info) = replica(server, schema).await;
        let begun = Instant::now();
        let acquired = cluster.acquire_shards(&info, &shards).await.unwrap();
        assert_eq!(acquired.len(), shards.len());
        let register = async |(shard, store): &(ShardNumber, Store)| {
            registered(store, &appids[usize::try_from(shard.get()).unwrap()], each).await
        };
        let registered = join_all(acquired.iter().map(register)).await;
        if round > 0 {
            times.push(begun.elapsed().as_secs_f64());
            let sessions: usize = registered.iter().flatten().map(|stored| stored.snapshot.len()).sum();
            assert_eq!(sessions, each * shards.len() * SESSIONS_EACH);
        } else {
            let fill = "INSERT INTO sessions SELECT account, 'oDF3iY9P32sK_5GgYi' || lpad(n::text, 10, '0'), 1795000000
                        FROM accounts, generate_series(1, $1) n";
            let client = client(server, schema).await;
            client.execute(fill, &[&(SESSIONS_EACH as i32)]).await.unwrap();
            client.batch_execute("VACUUM ANALYZE sessions").await.unwrap();
            let begun = Instant::now();
            let rows = client.query("SELECT account, openid, createtime FROM sessions", &[]).await.unwrap();
            scan = begun.elapsed().as_secs_f64();
            assert_eq!(rows.len(), each * shards.len() * SESSIONS_EACH);
        }
        join_all(acquired.iter().map(|(_, store)| store.close())).await;
    }
    let ours = median(&times);
    let what = format!("{} sessions of 64 shards restored", each * shards.len() * SESSIONS_EACH);
    let baseline = format!("one query of the rows: {scan:.3} s");
    report.row([&what, &format!("{ours:.3} s"), &baseline], Some(ours / scan), "≤ 3 s");
}

/// Compares the polls of one, two and four replicas.
fn polls(server: &tokio_postgres::Config, report: &mut Report) {
    let mut of_one = 0.0;
    for count in [1, 2, 4] {
        let replicas = Replicas::start(server, &format!("polls_{count}"), count);
        let rate = replicas.polls_per_second(Duration::from_secs(15));
        if count == 1 {
            of_one = rate;
        }
        let what = format!("polls of {count} replicas, 64 in flight each");
        let limit = format!("{count} × one: {:.0}/s", count as f64 * of_one);
        report.row([&what, &format!("{rate:.0}/s"), &limit], Some(rate / (count as f64 * of_one)), "≥ 0.95");
    }
}

/// Times how long it takes until the other replica owns all shards.
fn takeovers(server: &tokio_postgres::Config, report: &mut Report) {
    let mut replicas = Replicas::start(server, "takeovers", 2);
    for (signal, target) in [("KILL", "≤ 15 s"), ("TERM", "≤ 2 s")] {
        let times: Vec<f64> =
            (0..TAKEOVERS).map(|round| replicas.take_over(round % 2, signal).as_secs_f64()).collect();
        let longest = times.iter().copied().fold(0.0, f64::max);
        let what = format!("takeover after SIG{signal}, longest of {TAKEOVERS}");
        let figure = format!("{longest:.1} s");
        report.row([&what, &figure, &format!("median {:.1} s", median(&times))], None, target);
    }
}
