//! The contract for sinks that need an operator: stopped, suspended, replayed, or with dead letters.

use kfwatch::domain::sink_state::SinkState;
use kfwatch::store::{
    CursorRewind, DeadLetter, LogPosition, MissedEvents, SinkBacklog, SizeLimit, SizePruneOutcome,
    StartPosition, Store, StoreError, StoredEvent,
};

use crate::support::store::*;

fn letter(sink: &str, event: &StoredEvent, ms: i64) -> DeadLetter {
    DeadLetter {
        sink: sink.to_owned(),
        event: event.clone(),
        reason: "no".to_owned(),
        died_at: at(ms),
        retry: false,
    }
}

/// Commits events 1 to `count` of one account, each observed at the millisecond of its number.
async fn commit_events(store: &Store, count: i64) -> Vec<StoredEvent> {
    let account = register(store, "a").await;
    commit(store, &account, (1..=count).map(|n| started("o-1", n)).collect()).await;
    events(store).await
}

async fn suspend(store: &Store, sink: &str) {
    store.suspend_sink(sink, "too large", at(9)).await.unwrap();
}

fn smallest_limit() -> SizeLimit {
    SizeLimit { bytes: 0, batch: 2 }
}

pub(crate) async fn resumed_sink_continues_at_its_cursor(place: &Place) {
    let store = place.open().await;
    sinks(&store, &["crm"], StartPosition::Beginning, 0).await;
    commit_events(&store, 3).await;
    store.advance_cursor("crm", LogPosition(2)).await.unwrap();
    store.stop_sink("crm", "gone", at(1)).await.unwrap();
    assert_eq!(store.sinks().await.unwrap()[0].state.stop_reason(), Some("gone"));
    for _ in 0..2 {
        assert_eq!(store.resume_sink("crm").await.unwrap(), LogPosition(2));
        assert_eq!(store.sink("crm").await.unwrap().state, SinkState::Delivering);
    }
    let store = place.reopen(store).await;
    assert!(!store.sink("crm").await.unwrap().state.is_stopped());
    assert!(matches!(store.resume_sink("unknown").await, Err(StoreError::UnknownSink)));
}

pub(crate) async fn replay_moves_cursor_back_and_never_forward(place: &Place) {
    let store = place.open().await;
    sinks(&store, &["crm"], StartPosition::Beginning, 0).await;
    commit_events(&store, 5).await;
    store.advance_cursor("crm", LogPosition(4)).await.unwrap();
    let rewind = async |ms| store.rewind_cursor("crm", at(ms)).await.unwrap();
    assert_eq!(
        rewind(5).await,
        CursorRewind { cursor: LogPosition(4), events: 0, from: None },
        "its cursor is before that"
    );
    assert_eq!(rewind(3).await, CursorRewind { cursor: LogPosition(2), events: 2, from: Some(at(3)) });
    assert_eq!(rewind(4).await, CursorRewind { cursor: LogPosition(2), events: 0, from: None });
    assert_eq!(
        rewind(-9).await,
        CursorRewind { cursor: LogPosition(0), events: 2, from: Some(at(1)) },
        "all events of the log"
    );
    let store = place.reopen(store).await;
    assert_eq!(store.sink("crm").await.unwrap().backlog.events, 5);
    assert!(matches!(store.rewind_cursor("unknown", at(0)).await, Err(StoreError::UnknownSink)));
}

pub(crate) async fn dead_letter_is_retried_until_delivered_or_refused(place: &Place) {
    let store = place.open().await;
    sinks(&store, &["crm", "log"], StartPosition::Beginning, 0).await;
    let events = commit_events(&store, 3).await;
    for (n, event) in (1..).zip(&events) {
        assert_eq!(store.add_dead_letter(letter("crm", event, 1)).await.unwrap(), n);
    }
    store.add_dead_letter(letter("log", &events[0], 1)).await.unwrap();
    assert_eq!(store.dead_letters("crm", LogPosition(1), 1).await.unwrap(), [letter("crm", &events[1], 1)]);
    assert!(store.dead_letters_to_retry("crm", 9).await.unwrap().is_empty());
    assert_eq!(store.retry_dead_letters("crm").await.unwrap(), 3);

    let store = place.reopen(store).await;
    let to_retry = async || store.dead_letters_to_retry("crm", 9).await.unwrap();
    assert_eq!(to_retry().await[0], DeadLetter { retry: true, ..letter("crm", &events[0], 1) });
    store.remove_dead_letter("crm", events[0].id).await.unwrap();
    store.add_dead_letter(letter("crm", &events[1], 2)).await.unwrap();
    let left: Vec<_> = to_retry().await.into_iter().map(|letter| letter.event.id).collect();
    assert_eq!(left, [events[2].id]);
    assert_eq!(store.sink("crm").await.unwrap().backlog.dead_letters, 2);
    assert_eq!(store.drop_dead_letters("crm").await.unwrap(), 2);
    assert_eq!(store.sink("crm").await.unwrap().backlog.dead_letters, 0);
    assert_eq!(store.sink("log").await.unwrap().backlog.dead_letters, 1, "those of other sinks stay");
}

pub(crate) async fn dead_letters_expire_and_are_counted(place: &Place) {
    let store = place.open().await;
    sinks(&store, &["crm"], StartPosition::Beginning, 0).await;
    for (ms, event) in (1..).zip(&commit_events(&store, 5).await) {
        store.add_dead_letter(letter("crm", event, ms)).await.unwrap();
    }
    assert_eq!(store.prune(everything_before(4)).await.unwrap().dead_letters, 3);
    let expected = SinkBacklog {
        events: 5,
        oldest: Some(at(1)),
        dead_letters: 2,
        expired_dead_letters: 3,
        ..SinkBacklog::default()
    };
    assert_eq!(store.sink("crm").await.unwrap().backlog, expected);
}

pub(crate) async fn removed_sink_takes_its_dead_letters(place: &Place) {
    let store = place.open().await;
    sinks(&store, &["crm"], StartPosition::Beginning, 0).await;
    let events = commit_events(&store, 1).await;
    store.add_dead_letter(letter("crm", &events[0], 5_000)).await.unwrap();
    sinks(&store, &[], StartPosition::Now, 1).await;
    assert_eq!(store.sinks().await.unwrap()[0].removed_at, Some(at(1)));
    store.prune(everything_before(2)).await.unwrap();
    assert!(store.sinks().await.unwrap().is_empty());
    assert!(store.dead_letters("crm", LogPosition::BEGINNING, 9).await.unwrap().is_empty());
}

pub(crate) async fn pruning_frees_only_delivered_or_suspended_events(place: &Place) {
    let store = place.open().await;
    sinks(&store, &["crm", "log"], StartPosition::Beginning, 0).await;
    commit_events(&store, 6).await;
    store.advance_cursor("crm", LogPosition(3)).await.unwrap();
    store.advance_cursor("log", LogPosition(5)).await.unwrap();
    let enough = SizeLimit { bytes: u64::MAX, ..smallest_limit() };
    assert_eq!(store.prune_to_size(enough).await.unwrap(), SizePruneOutcome::SmallEnough);
    let next = async || store.prune_to_size(smallest_limit()).await.unwrap();
    assert_eq!(next().await, SizePruneOutcome::Removed { events: 2 }, "no more than a batch");
    assert_eq!(next().await, SizePruneOutcome::Removed { events: 1 }, "not beyond the cursor of crm");
    assert_eq!(next().await, SizePruneOutcome::Blocked { sink: "crm".to_owned(), cursor: LogPosition(3) });
    suspend(&store, "crm").await;
    assert_eq!(store.sink("crm").await.unwrap().backlog.lost_events, 0, "it may be resumed in time");
    assert_eq!(next().await, SizePruneOutcome::Removed { events: 2 }, "crm no longer prevents pruning");
    assert_eq!(next().await, SizePruneOutcome::Blocked { sink: "log".to_owned(), cursor: LogPosition(5) });
    suspend(&store, "log").await;
    assert_eq!(next().await, SizePruneOutcome::Removed { events: 1 });
    // A file is not empty without events; a shard is.
    assert!(matches!(next().await, SizePruneOutcome::NothingLeft | SizePruneOutcome::SmallEnough));
}

pub(crate) async fn gap_of_suspended_sink_counts_undelivered_pruned_events(place: &Place) {
    let store = place.open().await;
    sinks(&store, &["crm", "log"], StartPosition::Beginning, 0).await;
    commit_events(&store, 9).await;
    store.advance_cursor("crm", LogPosition(1)).await.unwrap();
    store.advance_cursor("log", LogPosition(9)).await.unwrap();
    let next = async |store: &Store| store.prune_to_size(smallest_limit()).await.unwrap();
    assert_eq!(next(&store).await, SizePruneOutcome::Removed { events: 1 });
    suspend(&store, "crm").await;
    assert_eq!(next(&store).await, SizePruneOutcome::Removed { events: 2 });
    assert_eq!(next(&store).await, SizePruneOutcome::Removed { events: 2 });

    let store = place.reopen(store).await;
    let crm = store.sinks().await.unwrap().remove(0);
    let expected = SinkBacklog { events: 4, oldest: Some(at(6)), lost_events: 4, ..SinkBacklog::default() };
    assert_eq!(crm.backlog, expected);
    assert_eq!(crm.state, SinkState::Suspended { reason: "too large".to_owned() });
    assert_eq!(crm.missed, Some(MissedEvents { events: 4, observed_between: [at(2), at(5)] }));
    assert_eq!(
        store.resume_sink("crm").await.unwrap(),
        LogPosition(5),
        "it continues after the missed events"
    );
    store.advance_cursor("crm", LogPosition(6)).await.unwrap();
    assert_eq!(next(&store).await, SizePruneOutcome::Removed { events: 1 });
    suspend(&store, "crm").await;
    assert_eq!(next(&store).await, SizePruneOutcome::Removed { events: 2 });
    let crm = store.sinks().await.unwrap().remove(0);
    assert_eq!(
        crm.missed,
        Some(MissedEvents { events: 2, observed_between: [at(7), at(8)] }),
        "the newest gap"
    );
    assert_eq!(crm.backlog.lost_events, 6, "the events of all gaps");
    assert_eq!(store.sink("log").await.unwrap().backlog.lost_events, 0);
}

pub(crate) async fn stopped_sink_keeps_reason_when_suspended(place: &Place) {
    let store = place.open().await;
    sinks(&store, &["crm"], StartPosition::Beginning, 0).await;
    commit_events(&store, 3).await;
    store.stop_sink("crm", "gone", at(1)).await.unwrap();
    suspend(&store, "crm").await;
    let crm = store.sinks().await.unwrap().remove(0);
    assert_eq!(crm.state, SinkState::Suspended { reason: "gone".to_owned() });
    store.prune(everything_before(3)).await.unwrap();
    assert_eq!(
        store.sink("crm").await.unwrap().backlog.lost_events,
        2,
        "a suspended sink does not prevent pruning by age"
    );
}
