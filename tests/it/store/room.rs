//! The size limit of the event log: the file stays within it, however many events pass through.

use kfwatch::store::{LogPosition, SizeLimit, SizePruneOutcome, StartPosition};

use crate::support::store::*;

const BOUND: u64 = 4 << 20;

#[tokio::test]
async fn file_size_stays_bounded_under_throughput() {
    let file = test_file();
    let store = kfwatch::store::Store::open(&file.path).unwrap();
    sinks(&store, &["dead", "log"], StartPosition::Beginning, 0).await;
    let account = register(&store, "a").await;
    let used = store.used_bytes();
    let (mut suspended, mut passed, mut newest) = (Vec::new(), 0, LogPosition::BEGINNING);
    for round in 0..400 {
        let changes = (0..100).map(|n| started(&format!("o-{round}-{n}"), n)).collect();
        newest = commit(&store, &account, changes).await.last_event;
        // Ends the sessions, so that the snapshot does not grow.
        let changes = (0..100).map(|n| ended(&format!("o-{round}-{n}"), n)).collect();
        passed += 200;
        newest = newest.max(commit(&store, &account, changes).await.last_event);
        store.advance_cursor("log", newest).await.unwrap();
        while *used.borrow() > BOUND / 100 * 95 {
            let limits = SizeLimit { bytes: BOUND / 100 * 90, batch: 1000 };
            match store.prune_to_size(limits).await.unwrap() {
                SizePruneOutcome::Blocked { sink, .. } => {
                    store.suspend_sink(&sink, "too large", at(1)).await.unwrap();
                    suspended.push(sink);
                }
                SizePruneOutcome::Removed { events } => assert!(events > 0),
                SizePruneOutcome::SmallEnough => break,
                SizePruneOutcome::NothingLeft => unreachable!("the log is most of the store"),
            }
        }
        assert!(*used.borrow() <= BOUND);
    }
    assert_eq!(suspended, ["dead"], "once, and no other sink");
    assert_eq!(newest, LogPosition(passed));
    let dead = store.sink("dead").await.unwrap().backlog;
    assert_eq!(
        dead.events + dead.lost_events,
        passed.unsigned_abs(),
        "each event is stored or counted as lost"
    );
    assert!(dead.lost_events > 0);
    store.close().await;
    let length = file.path.metadata().unwrap().len();
    assert!(length <= BOUND, "{length}");
    assert!(passed.unsigned_abs() * 500 > 5 * BOUND, "much more passed through than fits");
}
