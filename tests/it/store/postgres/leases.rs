//! Who owns the shards of a store in PostgreSQL: replicas that die, pause, end, and start anew.

use std::time::Duration;

use futures_util::FutureExt;
use kfwatch::{
    domain::{
        clock::Moment,
        shard::ShardNumber,
        shares::{self, Moves},
    },
    store::{Beat, Store, StoreError},
};

use crate::support::{
    postgres::{Replica, Schema},
    store::*,
};

/// A time of the monotonic clock.
fn seconds(monotonic: u64) -> Moment {
    Moment { wall: at(0), monotonic: Duration::from_secs(monotonic) }
}

fn shard() -> ShardNumber {
    ShardNumber::of(APPID)
}

fn owner(beat: &Beat) -> Option<uuid::Uuid> {
    beat.view.shards.iter().find(|view| view.number == shard()).unwrap().owner
}

/// Two replicas. The first one owns a shard.
async fn pair(schema: &Schema) -> (Replica, Store, Replica) {
    let [first, second] = [Replica::connect(schema, "first").await, Replica::connect(schema, "second").await];
    first.beat(Duration::ZERO).await.unwrap();
    let store = first.take(&[shard()]).await.remove(0).1;
    let beat = second.beat(Duration::ZERO).await.unwrap();
    assert_eq!(owner(&beat), Some(first.cluster.replica()));
    assert_eq!(beat.replicas.len(), 2);
    (first, store, second)
}

/// As if a replica had not said for so long that it is alive.
async fn be_silent(schema: &Schema, name: &str, seconds: u32) {
    let sql = format!("UPDATE replicas SET seen_at = seen_at - interval '{seconds} s' WHERE name = '{name}'");
    schema.execute(&sql).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn shard_of_living_replica_is_not_taken() {
    let schema = Schema::new();
    let (first, store, second) = pair(&schema).await;
    be_silent(&schema, "first", 5).await;
    assert_eq!(owner(&second.beat(Duration::ZERO).await.unwrap()), Some(first.cluster.replica()));
    assert!(second.take(&[shard()]).await.is_empty());
    register(&store, "a").await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn shard_of_silent_replica_is_taken_and_its_writes_are_refused() {
    let schema = Schema::new();
    let (first, store, second) = pair(&schema).await;
    let account = register(&store, "a").await;
    commit(&store, &account, vec![started("o-1", 1)]).await;
    be_silent(&schema, "first", 10).await;
    let beat = second.beat(Duration::ZERO).await.unwrap();
    assert_eq!((owner(&beat), beat.replicas.len()), (None, 1));
    let taken = second.take(&[shard()]).await.remove(0).1;
    let again = register(&taken, "a").await;
    assert_eq!(listed(&again), [("o-1".to_owned(), 1)].into());
    assert_eq!(commit(&taken, &again, vec![ended("o-1", 1)]).await.sequence, 2);
    // It wakes up.
    let late = store.commit_poll(poll(&account, vec![ended("o-1", 1)])).await;
    assert!(matches!(late, Err(StoreError::LeaseLost)), "{late:?}");
    assert_eq!(owner(&first.beat(Duration::ZERO).await.unwrap()), Some(second.cluster.replica()));
    assert_eq!(sequences(&events(&taken).await), [1, 2]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn beat_ends_lease_of_shard_that_another_took() {
    let schema = Schema::new();
    let (first, store, second) = pair(&schema).await;
    be_silent(&schema, "first", 10).await;
    second.take(&[shard()]).await;
    assert!(store.lost().now_or_never().is_none());
    first.beat(Duration::from_secs(20)).await.unwrap();
    assert!(matches!(store.lost().now_or_never(), Some(StoreError::LeaseLost)));
    assert!(!store.lease().is_trusted(seconds(20)));
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn lease_is_trusted_for_eight_seconds_after_a_beat() {
    let schema = Schema::new();
    let (first, store, _second) = pair(&schema).await;
    let lease = store.lease();
    assert!(lease.is_trusted(seconds(7)) && !lease.is_trusted(seconds(8)));
    first.beat(Duration::from_secs(5)).await.unwrap();
    assert!(lease.is_trusted(seconds(12)) && !lease.is_trusted(seconds(13)));
}

/// At the moment when it wakes up, another one may be taking its shard.
#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn first_beat_after_silence_extends_nothing() {
    let schema = Schema::new();
    let (first, store, _second) = pair(&schema).await;
    be_silent(&schema, "first", 10).await;
    first.beat(Duration::from_secs(20)).await.unwrap();
    assert!(!store.lease().is_trusted(seconds(20)));
    first.beat(Duration::from_secs(21)).await.unwrap();
    assert!(store.lease().is_trusted(seconds(21)), "nobody has taken the shard");
    register(&store, "a").await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn released_shard_is_taken_at_once() {
    let schema = Schema::new();
    let (_first, store, second) = pair(&schema).await;
    store.close().await;
    assert_eq!(owner(&second.beat(Duration::ZERO).await.unwrap()), None);
    assert_eq!(second.take(&[shard()]).await.len(), 1);
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn restarted_replica_takes_shards_of_its_predecessor_at_once() {
    let schema = Schema::new();
    let (first, store, _second) = pair(&schema).await;
    let restarted = Replica::connect(&schema, "first").await;
    assert_eq!(owner(&restarted.beat(Duration::ZERO).await.unwrap()), None);
    assert_eq!(restarted.take(&[shard()]).await.len(), 1);
    let refused = first.beat(Duration::from_secs(1)).await.unwrap_err();
    let text = error_chain(&refused);
    assert!(text.contains("called first") && text.contains("http://first:9184/"), "{text}");
    assert!(matches!(store.lost().now_or_never(), Some(StoreError::LeaseLost)));
}

/// The end of a statement was lost between two packets: PostgreSQL waits for it, and keeps the lock.
#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn shard_that_stays_locked_is_taken_after_its_sessions_are_ended() {
    let schema = Schema::new();
    let (first, _store, second) = pair(&schema).await;
    let lock = schema.client().await;
    let id = first.cluster.replica();
    lock.batch_execute(&format!(
        "SET application_name = 'kfwatch/{id}'; BEGIN; SELECT FROM shards FOR SHARE"
    ))
    .await
    .unwrap();
    be_silent(&schema, "first", 10).await;
    assert!(second.take(&[shard()]).await.is_empty(), "it does not wait");
    second.cluster.end_sessions_of(id).await.unwrap();
    let taken = loop {
        // The server ends the sessions a moment later.
        if let Some((_, taken)) = second.take(&[shard()]).await.pop() {
            break taken;
        }
        tokio::task::yield_now().await;
    };
    register(&taken, "a").await;
}

/// Each replica follows the plan. Whatever they see of each other, every shard has one owner in the end, and all have as many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn replicas_share_all_shards() {
    let schema = Schema::new();
    let replicas = ["a", "b", "c"];
    let replicas = futures_util::future::join_all(replicas.map(|name| Replica::connect(&schema, name))).await;
    for replica in &replicas {
        replica.beat(Duration::ZERO).await.unwrap();
    }
    let mut owned: Vec<Vec<(ShardNumber, Store)>> = vec![Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..20 {
        let rounds = replicas.iter().zip(&mut owned).map(|(replica, owned)| async {
            let beat = replica.beat(Duration::ZERO).await.unwrap();
            let Moves { take, give } = shares::plan(&beat.view, replica.cluster.replica());
            for (_, store) in owned.extract_if(.., |(number, _)| give.contains(number)) {
                store.close().await;
            }
            owned.extend(replica.take(&take).await);
        });
        futures_util::future::join_all(rounds).await;
    }
    let mut counts: Vec<usize> = owned.iter().map(Vec::len).collect();
    counts.sort_unstable();
    assert_eq!(counts, [21, 21, 22]);
    let mut numbers: Vec<ShardNumber> = owned.iter().flatten().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(ShardNumber::all()));
}
