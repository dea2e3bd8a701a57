//! Measurements without limits. Run with `cargo test --release --test it -- --ignored --nocapture store::speed`.

use std::time::Instant;

use kfwatch::store::{PollCommit, Store, StoredAccount};

use crate::support::store::*;

async fn registered(store: &Store, count: usize) -> Vec<StoredAccount> {
    let accounts = (0..count).map(|n| account(&format!("kf{n}@test"))).collect();
    store.register_accounts(accounts).await.unwrap().configured
}

fn openid(number: usize) -> String {
    format!("oDF3iY9P32sK_5GgYi{number:010}")
}

#[test]
#[ignore = "slow"]
fn commit_rate_of_changed_accounts() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let file = test_file();
        let store = Store::open(&file.path).unwrap();
        let accounts = registered(&store, 10_000).await;
        for in_flight in [64, 256, 1000] {
            for round in 0..4 {
                let begun = Instant::now();
                let mut committing = tokio::task::JoinSet::new();
                for part in accounts.chunks(accounts.len().div_ceil(in_flight)) {
                    let commits: Vec<PollCommit> =
                        part.iter().map(|stored| turnover(stored, in_flight, round)).collect();
                    let store = store.clone();
                    committing.spawn(async move {
                        for commit in commits {
                            store.commit_poll(commit).await.unwrap();
                        }
                    });
                }
                committing.join_all().await;
                let rate = accounts.len() as f64 / begun.elapsed().as_secs_f64();
                println!("{in_flight} in flight: {rate:.0} changed accounts/s (one start, one end each)");
            }
        }
    });
}

/// Ends the session of the previous round and starts another one. The start times are spread over a poll interval.
fn turnover(stored: &StoredAccount, in_flight: usize, round: i64) -> PollCommit {
    let id = stored.id.0;
    let began = |round| (in_flight as i64 * 10 + round) * 15 + id % 15;
    let openid = openid(usize::try_from(id).unwrap());
    let first = if round > 0 { ended(&openid, began(round - 1)) } else { started(&openid, began(-1)) };
    poll(stored, vec![first, started(&openid, began(round))])
}

#[test]
#[ignore = "slow"]
fn restore_time_of_a_million_sessions() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let file = test_file();
        let store = Store::open(&file.path).unwrap();
        let mut committing = tokio::task::JoinSet::new();
        for stored in registered(&store, 10_000).await {
            let sessions = (0..100).map(|n| started(&openid(n), stored.id.0)).collect();
            let store = store.clone();
            committing.spawn(async move { commit(&store, &stored, sessions).await });
        }
        committing.join_all().await;
        store.close().await;
        let begun = Instant::now();
        let store = Store::open(&file.path).unwrap();
        let accounts = registered(&store, 10_000).await;
        let took = begun.elapsed();
        assert_eq!(accounts.iter().map(|stored| stored.snapshot.len()).sum::<usize>(), 1_000_000);
        println!("1,000,000 sessions of 10,000 accounts restored in {took:?}");
    });
}
