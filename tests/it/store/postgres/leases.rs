//! Who owns the shards of a store in PostgreSQL: replicas that die, pause, end, and restart.

use std::time::Duration;

use futures_util::FutureExt;
use kfwatch::{
    dispatch::admin::{SinkAdmin, SinkAdminError, SinkAnswer, SinkCommand, StoreSinks},
    domain::{
        clock::Moment,
        rebalance::{self, ShardMoves},
        shard::ShardNumber,
    },
    store::{Heartbeat, StartPosition, Store, StoreError},
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
    ShardNumber::from_appid(APPID)
}

fn owner(heartbeat: &Heartbeat) -> Option<uuid::Uuid> {
    heartbeat.view.shards.iter().find(|view| view.number == shard()).unwrap().owner
}

/// Two replicas. The first one owns a shard.
async fn pair(schema: &Schema) -> (Replica, Store, Replica) {
    let [first, second] = [Replica::connect(schema, "first").await, Replica::connect(schema, "second").await];
    first.send_heartbeat(Duration::ZERO).await.unwrap();
    let store = first.acquire(&[shard()]).await.remove(0).1;
    let heartbeat = second.send_heartbeat(Duration::ZERO).await.unwrap();
    assert_eq!(owner(&heartbeat), Some(first.cluster.replica()));
    assert_eq!(heartbeat.replicas.len(), 2);
    (first, store, second)
}

/// Makes the last heartbeat of a replica so many seconds older.
async fn age_heartbeat(schema: &Schema, name: &str, seconds: u32) {
    let sql = format!("UPDATE replicas SET seen_at = seen_at - interval '{seconds} s' WHERE name = '{name}'");
    schema.execute(&sql).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn shard_of_living_replica_is_not_taken() {
    let schema = Schema::new();
    let (first, store, second) = pair(&schema).await;
    age_heartbeat(&schema, "first", 5).await;
    assert_eq!(owner(&second.send_heartbeat(Duration::ZERO).await.unwrap()), Some(first.cluster.replica()));
    assert!(second.acquire(&[shard()]).await.is_empty());
    register(&store, "a").await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn shard_of_silent_replica_is_taken_and_its_writes_are_refused() {
    let schema = Schema::new();
    let (first, store, second) = pair(&schema).await;
    let account = register(&store, "a").await;
    commit(&store, &account, vec![started("o-1", 1)]).await;
    age_heartbeat(&schema, "first", 10).await;
    let heartbeat = second.send_heartbeat(Duration::ZERO).await.unwrap();
    assert_eq!((owner(&heartbeat), heartbeat.replicas.len()), (None, 1));
    let taken = second.acquire(&[shard()]).await.remove(0).1;
    let again = register(&taken, "a").await;
    assert_eq!(listed(&again), [("o-1".to_owned(), 1)].into());
    assert_eq!(commit(&taken, &again, vec![ended("o-1", 1)]).await.sequence, 2);
    // It wakes up.
    let late = store.commit_poll(poll(&account, vec![ended("o-1", 1)])).await;
    assert!(matches!(late, Err(StoreError::LeaseLost)), "{late:?}");
    assert_eq!(owner(&first.send_heartbeat(Duration::ZERO).await.unwrap()), Some(second.cluster.replica()));
    assert_eq!(sequences(&events(&taken).await), [1, 2]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn heartbeat_ends_lease_of_shard_that_another_acquired() {
    let schema = Schema::new();
    let (first, store, second) = pair(&schema).await;
    age_heartbeat(&schema, "first", 10).await;
    second.acquire(&[shard()]).await;
    assert!(store.lost().now_or_never().is_none());
    first.send_heartbeat(Duration::from_secs(20)).await.unwrap();
    assert!(matches!(store.lost().now_or_never(), Some(StoreError::LeaseLost)));
    assert!(!store.lease().is_trusted(seconds(20)));
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn lease_is_trusted_for_eight_seconds_after_a_heartbeat() {
    let schema = Schema::new();
    let (first, store, _second) = pair(&schema).await;
    let lease = store.lease();
    assert!(lease.is_trusted(seconds(7)) && !lease.is_trusted(seconds(8)));
    first.send_heartbeat(Duration::from_secs(5)).await.unwrap();
    assert!(lease.is_trusted(seconds(12)) && !lease.is_trusted(seconds(13)));
}

/// At the moment when it wakes up, another one may be acquiring its shard, whose row is locked then.
#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn heartbeat_after_silence_extends_no_shard_that_is_being_acquired() {
    let schema = Schema::new();
    let (first, store, _second) = pair(&schema).await;
    age_heartbeat(&schema, "first", 10).await;
    let acquiring = schema.client().await;
    acquiring.batch_execute("BEGIN; SELECT FROM shards FOR UPDATE").await.unwrap();
    first.send_heartbeat(Duration::from_secs(20)).await.unwrap();
    assert!(!store.lease().is_trusted(seconds(20)));
    acquiring.batch_execute("ROLLBACK").await.unwrap();
    age_heartbeat(&schema, "first", 10).await;
    first.send_heartbeat(Duration::from_secs(21)).await.unwrap();
    assert!(store.lease().is_trusted(seconds(21)), "nobody has acquired the shard");
    register(&store, "a").await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn released_shard_is_taken_at_once() {
    let schema = Schema::new();
    let (_first, store, second) = pair(&schema).await;
    store.close().await;
    assert_eq!(owner(&second.send_heartbeat(Duration::ZERO).await.unwrap()), None);
    assert_eq!(second.acquire(&[shard()]).await.len(), 1);
}

/// The stores that a command was given may be closed or lost before it reaches them.
#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn command_for_a_sink_passes_over_shards_that_move_only_if_that_loses_nothing() {
    let schema = Schema::new();
    let (first, kept, second) = pair(&schema).await;
    let others: Vec<ShardNumber> = ShardNumber::all().filter(|other| *other != shard()).take(2).collect();
    let [released, lost] = <[_; 2]>::try_from(first.acquire(&others).await).unwrap().map(|(_, store)| store);
    let stores = [kept, released, lost];
    for store in &stores {
        store.register_sinks(vec![sink("crm", StartPosition::Now)], at(0)).await.unwrap();
    }
    let admin_of = |stores: &[Store]| {
        let admin = SinkAdmin::default();
        admin.publish(stores.iter().map(|store| StoreSinks::new(store.clone(), [])).collect());
        admin
    };
    stores[1].close().await;
    age_heartbeat(&schema, "first", 10).await;
    second.acquire(&[others[1]]).await;
    let all = admin_of(&stores);
    let name = || "crm".to_owned();
    for (command, state) in [
        (SinkCommand::Stop { sink: name(), at: at(1) }, "stopped"),
        (SinkCommand::Resume { sink: name() }, "unknown"),
    ] {
        assert!(admin_of(&stores[1..]).execute(command.clone()).await.is_err(), "nothing is stored");
        all.execute(command).await.unwrap();
        let Ok(SinkAnswer::Sinks(sinks)) = all.execute(SinkCommand::Show).await else { unreachable!() };
        assert_eq!(sinks[0].state, state);
    }
    for command in [
        SinkCommand::Replay { sink: name(), since: at(0) },
        SinkCommand::RetryDeadLetters { sink: name() },
        SinkCommand::DropDeadLetters { sink: name() },
    ] {
        let refused = all.execute(command).await;
        assert!(matches!(refused, Err(SinkAdminError::Closed(_))), "{refused:?}");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn restarted_replica_takes_shards_of_its_predecessor_at_once() {
    let schema = Schema::new();
    let (first, store, second) = pair(&schema).await;
    let restarted = Replica::connect(&schema, "first").await;
    let heartbeat = restarted.send_heartbeat(Duration::ZERO).await.unwrap();
    assert_eq!((owner(&heartbeat), heartbeat.inherited), (Some(restarted.cluster.replica()), vec![shard()]));
    // Others move nothing because of that.
    let seen = second.send_heartbeat(Duration::ZERO).await.unwrap();
    assert_eq!((owner(&seen), seen.replicas.len()), (Some(restarted.cluster.replica()), 2));
    assert_eq!(restarted.acquire(&[shard()]).await.len(), 1);
    let refused = first.send_heartbeat(Duration::from_secs(1)).await.unwrap_err();
    let text = error_chain(&refused);
    assert!(text.contains("called first") && text.contains("http://first:9184/"), "{text}");
    assert!(matches!(store.lost().now_or_never(), Some(StoreError::SameName { .. })));
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
    age_heartbeat(&schema, "first", 10).await;
    assert!(second.acquire(&[shard()]).await.is_empty(), "it does not wait");
    second.cluster.end_sessions_of(id).await.unwrap();
    // The server ends the sessions a moment later.
    let patience = tokio::time::Instant::now() + Duration::from_secs(60);
    while second.acquire(&[shard()]).await.is_empty() {
        assert!(tokio::time::Instant::now() < patience, "the session was not ended");
    }
}

/// Each replica follows the plan. Whatever they see of each other, every shard has one owner in the end, and all have as many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn replicas_share_all_shards() {
    let schema = Schema::new();
    let replicas = ["a", "b", "c"];
    let replicas = futures_util::future::join_all(replicas.map(|name| Replica::connect(&schema, name))).await;
    for replica in &replicas {
        replica.send_heartbeat(Duration::ZERO).await.unwrap();
    }
    let mut owned: Vec<Vec<(ShardNumber, Store)>> = vec![Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..20 {
        let rounds = replicas.iter().zip(&mut owned).map(|(replica, owned)| async {
            let heartbeat = replica.send_heartbeat(Duration::ZERO).await.unwrap();
            let ShardMoves { acquire, release } =
                rebalance::plan_moves(&heartbeat.view, replica.cluster.replica());
            for (_, store) in owned.extract_if(.., |(number, _)| release.contains(number)) {
                store.close().await;
            }
            owned.extend(replica.acquire(&acquire).await);
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

/// An asynchronous standby was promoted that lacks the newest commits.
#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn no_number_is_used_twice_after_the_database_lost_commits() {
    // The next commit of a kf account that lost events, of one that did not, or no commit.
    for next in [Some(1), Some(0), None] {
        let schema = Schema::new();
        let (first, store, _second) = pair(&schema).await;
        let registered = store.register_accounts(vec![account("a"), account("b")]).await.unwrap().configured;
        let [a, b] = &registered[..] else { unreachable!() };
        commit(&store, a, vec![started("o-1", 1)]).await;
        commit(&store, b, vec![started("o-2", 2), started("o-3", 3)]).await;
        let lost = "DELETE FROM events WHERE id > 1; DELETE FROM sessions WHERE createtime > 1;
                    UPDATE records SET sequence = 0 WHERE sequence = 2";
        schema.execute(lost).await;
        if let Some(next) = next {
            let refused = store.commit_poll(poll(&registered[next], vec![started("o-4", 4)])).await;
            assert!(matches!(refused, Err(StoreError::EventsLost { events: 2 })), "{refused:?}");
        } else {
            first.send_heartbeat(Duration::ZERO).await.unwrap();
        }
        assert!(matches!(store.lost().await, StoreError::EventsLost { .. }));
        drop(store);
        // It is loaded again.
        let heartbeat = first.send_heartbeat(Duration::ZERO).await.unwrap();
        assert_eq!(owner(&heartbeat), None);
        let store = first.acquire(&[shard()]).await.remove(0).1;
        let again = register(&store, "b").await;
        assert!(again.snapshot.is_empty(), "the next poll finds both sessions again");
        let committed = commit(&store, &again, vec![started("o-2", 2), started("o-3", 3)]).await;
        assert_eq!((committed.sequence, committed.last_event.0), (4, 5));
    }
}
