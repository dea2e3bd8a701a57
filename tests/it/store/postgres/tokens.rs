//! The tokens of components, which replicas share.

use std::time::Duration;

use kfwatch::{
    domain::shared_token::{SealedToken, SharedToken},
    store::Cluster,
};

use crate::support::postgres::{Replica, Schema};

const MINUTE: Duration = Duration::from_secs(60);

fn sealed(text: &str) -> SealedToken {
    SealedToken { sealed: text.to_owned(), lifetime: Duration::from_secs(7200) }
}

/// What is stored, without the times.
async fn read(cluster: &Cluster) -> (i64, Option<SealedToken>, bool) {
    let SharedToken { generation, newest, claimed_ago, is_claimed } =
        cluster.component_token("wxc").await.unwrap();
    let ages = [newest.as_ref().map(|(_, age)| *age), claimed_ago];
    assert!(ages.into_iter().flatten().all(|age| age < MINUTE), "{ages:?}");
    (generation, newest.map(|(token, _)| token), is_claimed)
}

#[tokio::test]
#[ignore = "needs PostgreSQL; tests/run.sh runs it"]
async fn one_replica_at_a_time_may_fetch_the_token_of_a_component() {
    let schema = Schema::new();
    let [first, second] =
        [Replica::connect(&schema, "first").await, Replica::connect(&schema, "second").await];
    let [first, second] = [first.cluster, second.cluster];
    let claim = async |cluster: &Cluster, generation, min_interval| {
        cluster.claim_component_token("wxc", generation, min_interval, MINUTE).await.unwrap()
    };
    assert_eq!(first.component_token("wxc").await.unwrap(), SharedToken::default());
    assert!(claim(&first, 0, MINUTE).await);
    assert_eq!(read(&second).await, (0, None, true));
    assert!(!claim(&second, 0, Duration::ZERO).await, "claimed");
    assert!(claim(&first, 0, MINUTE).await, "the answer to the first attempt may have been lost");
    first.publish_component_token("wxc", 0, Some(sealed("one"))).await.unwrap();
    // The answer may be lost here, too.
    first.publish_component_token("wxc", 0, Some(sealed("one"))).await.unwrap();
    assert_eq!(read(&second).await, (1, Some(sealed("one")), false));
    assert!(!claim(&second, 1, MINUTE).await, "too soon");
    assert!(!claim(&second, 0, Duration::ZERO).await, "there is a newer one");
    assert!(!claim(&first, 1, MINUTE).await, "too soon, also for whoever fetched the last one");
    assert!(claim(&second, 1, Duration::ZERO).await);
    second.publish_component_token("wxc", 1, None).await.unwrap();
    assert_eq!(read(&first).await, (1, Some(sealed("one")), false), "it could not be fetched");

    // A replica that dies while it fetches keeps the others from it only until its claim ends.
    assert!(claim(&first, 1, Duration::ZERO).await);
    schema.execute("UPDATE component_tokens SET claimed_until = clock_timestamp() - interval '1 s'").await;
    assert!(claim(&second, 1, Duration::ZERO).await);
    first.publish_component_token("wxc", 1, Some(sealed("late"))).await.unwrap();
    assert_eq!(read(&second).await, (1, Some(sealed("one")), true), "another one fetches now");
    second.publish_component_token("wxc", 1, Some(sealed("two"))).await.unwrap();
    assert_eq!(read(&first).await, (2, Some(sealed("two")), false));
}
