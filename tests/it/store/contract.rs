//! The contract of every store backend. `contract!(name, place)` makes each function a test of one backend; an attribute
//! before the name applies to all of them.

use std::time::Duration;

use kfwatch::{
    domain::{
        account::{Account, AccountState, Conclusion},
        clock::Moment,
        event::EventType,
        sink_state::SinkState,
        tracker::LastSeen,
    },
    store::{
        AccountRecord, DeadLetter, EventFilter, LastSeenUpdate, LogPosition, PollCommit, Pruned, SinkBacklog,
        SinkRegistration, StartPosition, Store, StoreError, StoredAccount,
    },
};

use crate::support::store::*;

mod registrations;
mod sinks;

pub(crate) use self::{registrations::*, sinks::*};

macro_rules! contract {
    ($backend:ident, $place:path) => {
        contract!(#[cfg(test)] $backend, $place);
    };
    (#$attribute:tt $backend:ident, $place:path) => {
        contract!(@tests $attribute $backend, $place,
            restart_continues_after_last_commit,
            repeated_commit_stores_no_duplicates,
            sequences_have_no_gaps_under_concurrent_commits,
            large_commits_of_several_accounts_succeed_concurrently,
            session_listed_again_after_its_end_is_new_event,
            last_seen_update_keeps_unknown_fields,
            unknown_account_fails_without_affecting_others,
            renamed_official_account_keeps_its_history,
            account_changes_affect_no_other_account,
            returning_account_keeps_its_history,
            start_registers_accounts_and_sinks,
            update_registers_only_what_changes,
            account_that_left_unreported_is_found_by_next_start,
            account_that_returns_before_it_was_reported_continues,
            account_that_returns_after_it_was_reported_keeps_its_snapshot,
            account_that_leaves_and_is_added_stays_configured,
            updated_sinks_miss_no_later_event_and_get_no_earlier_one,
            update_may_keep_sinks_that_are_not_given,
            conclusion_of_getkflist_survives_restart,
            cursor_never_moves_back,
            new_sink_starts_now_or_at_the_beginning,
            removed_sink_keeps_its_cursor_temporarily,
            backlog_counts_undelivered_events,
            filtered_read_passes_unwanted_events,
            stop_persists_until_destination_changes,
            dead_letter_outlives_its_event,
            resumed_sink_continues_at_its_cursor,
            replay_moves_cursor_back_and_never_forward,
            dead_letter_is_retried_until_delivered_or_refused,
            dead_letters_expire_and_are_counted,
            removed_sink_takes_its_dead_letters,
            pruning_frees_only_delivered_or_suspended_events,
            gap_of_suspended_sink_counts_undelivered_pruned_events,
            stopped_sink_keeps_reason_when_suspended,
            pruning_never_passes_a_present_sink,
            ids_are_not_reused_after_log_is_emptied,
            unwatched_account_keeps_snapshot_temporarily_and_sequence_forever,
            returning_account_keeps_its_snapshot,
            repeats_count_retained_events_only,
            commit_wakes_dispatchers,
            token_fetches_survive_restart,
            closed_store_returns_error,
            closed_store_opens_again_while_clones_live,
        );
    };
    (@tests $attribute:tt $backend:ident, $place:path, $($test:ident,)*) => {
        mod $backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                #$attribute
                async fn $test() {
                    crate::store::contract::$test(&$place()).await;
                }
            )*
        }
    };
}

pub(crate) async fn restart_continues_after_last_commit(place: &Place) {
    let store = place.open().await;
    sinks(&store, &["log"], StartPosition::Now, 0).await;
    let first = register(&store, "a").await;
    assert_eq!(first.record, AccountRecord::default());
    let done = commit(&store, &first, vec![started("o-1", 1), started("o-2", 2), ended("o-1", 1)]).await;
    assert_eq!((done.sequence, done.last_event), (3, LogPosition(3)));
    store.advance_cursor("log", LogPosition(2)).await.unwrap();

    let store = place.reopen(store).await;
    assert_eq!(sinks(&store, &["log"], StartPosition::Now, 0).await, [LogPosition(2)]);
    assert_eq!(*store.committed().borrow(), LogPosition(3));
    let again = register(&store, "a").await;
    assert_eq!((again.id, again.record), (first.id, watched()));
    assert_eq!(listed(&again), [("o-2".to_owned(), 2)].into());
    assert_eq!(commit(&store, &again, vec![ended("o-2", 2)]).await.sequence, 4);
    assert_eq!(sequences(&events(&store).await), [1, 2, 3, 4]);
}

pub(crate) async fn repeated_commit_stores_no_duplicates(place: &Place) {
    let store = place.open().await;
    let account = register(&store, "a").await;
    let changes =
        vec![started("o-1", 1), ended("o-1", 1), became(AccountState::Unknown, AccountState::Ok, 5)];
    let first = commit(&store, &account, vec![started("o-0", 0)]).await;
    assert_eq!(commit(&store, &account, vec![started("o-0", 0)]).await, first);
    commit(&store, &account, changes).await;
    let before = events(&store).await;
    let known = vec![ended("o-1", 1), started("o-0", 0), became(AccountState::Blind, AccountState::Ok, 6)];
    commit(&store, &account, known).await;
    assert_eq!(events(&store).await, before);
}

pub(crate) async fn sequences_have_no_gaps_under_concurrent_commits(place: &Place) {
    let store = place.open().await;
    let accounts = ["a", "b", "c"].map(account).to_vec();
    let registered = store.register_accounts(accounts).await.unwrap().configured;
    let mut committing = tokio::task::JoinSet::new();
    for number in 0..300 {
        let (store, account) = (store.clone(), registered[number % 3].clone());
        committing.spawn(async move {
            commit(&store, &account, vec![started(&format!("o-{number}"), 1), ended("o-never", 1)]).await
        });
    }
    committing.join_all().await;
    let events = events(&store).await;
    for account in &registered {
        let of_account: Vec<_> = events.iter().filter(|event| event.account == account.id).collect();
        let sequences: Vec<_> = of_account.iter().map(|event| event.sequence).collect();
        assert_eq!(sequences, (1..=100).collect::<Vec<_>>());
        assert!(
            of_account.iter().all(|event| field(event, "/sequence") == format!("{:020}", event.sequence))
        );
    }
    let ids: Vec<_> = events.iter().map(|event| event.id.0).collect();
    assert_eq!(ids, (1..=300).collect::<Vec<_>>());
}

/// The commits have more events than a store may have in memory at once.
pub(crate) async fn large_commits_of_several_accounts_succeed_concurrently(place: &Place) {
    let store = place.open().await;
    let accounts = ["a", "b", "c"].map(account).to_vec();
    let registered = store.register_accounts(accounts).await.unwrap().configured;
    let commits = registered.iter().map(|account| {
        let sessions = (0..5_000).map(|number| started(&format!("o-{number}"), 1));
        commit(&store, account, sessions.collect())
    });
    for committed in futures_util::future::join_all(commits).await {
        assert_eq!(committed.sequence, 5_000);
    }
}

pub(crate) async fn session_listed_again_after_its_end_is_new_event(place: &Place) {
    let store = place.open().await;
    let account = register(&store, "a").await;
    for _ in 0..2 {
        commit(&store, &account, vec![started("o-1", 1)]).await;
        commit(&store, &account, vec![ended("o-1", 1)]).await;
    }
    let events = events(&store).await;
    let ids: std::collections::HashSet<_> = events.iter().map(|event| field(event, "/id")).collect();
    assert_eq!(ids.len(), 4);
    assert!(events.iter().all(|event| field(event, "/subject") == field(&events[0], "/subject")));
}

pub(crate) async fn last_seen_update_keeps_unknown_fields(place: &Place) {
    let store = place.open().await;
    let account = register(&store, "a").await;
    commit(&store, &account, vec![started("o-1", 1)]).await;
    let seen = LastSeenUpdate { id: account.id, listed_sent_at: None, last_success_at: Some(at(9).into()) };
    store.record_last_seen(vec![seen]).await.unwrap();
    let account = register(&store, "a").await;
    assert_eq!(
        account.record,
        AccountRecord {
            last_seen: LastSeen { last_success_at: Some(at(9).into()), ..watched().last_seen },
            ..watched()
        }
    );
    assert_eq!(account.snapshot.len(), 1);
}

pub(crate) async fn unknown_account_fails_without_affecting_others(place: &Place) {
    let store = place.open().await;
    let account = register(&store, "a").await;
    let (good, bad) = tokio::join!(
        store.commit_poll(poll(&account, vec![started("o-1", 1)])),
        store.commit_poll(unknown_account()),
    );
    good.unwrap();
    assert!(matches!(bad, Err(StoreError::UnknownAccount)));
    assert!(matches!(store.advance_cursor("unknown", LogPosition(1)).await, Err(StoreError::UnknownSink)));
    assert!(matches!(store.sink("unknown").await, Err(StoreError::UnknownSink)));
}

pub(crate) async fn renamed_official_account_keeps_its_history(place: &Place) {
    let store = place.open().await;
    let before = register(&store, "a").await;
    commit(&store, &before, vec![started("o-1", 1)]).await;
    let mut renamed = account("a");
    renamed.official_account = "store".into();
    let registered = store.register_accounts(vec![renamed.clone()]).await.unwrap();
    let after = &registered.configured[0];
    assert_eq!((after.id, &after.account, after.snapshot.len()), (before.id, &renamed, 1));
    assert!(registered.left.is_empty());
}

pub(crate) async fn account_changes_affect_no_other_account(place: &Place) {
    let store = place.open().await;
    let first = register(&store, "a").await;
    let added = store.add_accounts(vec![account("b"), account("c")]).await.unwrap();
    assert_eq!(
        added.iter().map(|stored| &stored.account).collect::<Vec<_>>(),
        [&account("b"), &account("c")]
    );
    assert_eq!(store.add_accounts(vec![account("c")]).await.unwrap()[0], added[1], "a second time");
    commit(&store, &first, vec![started("o-1", 1)]).await;
    assert_eq!(store.watched_accounts().await.unwrap(), ["a", "b", "c"].map(account));

    let leave = |stored| PollCommit { record: unwatched(), ..poll(stored, vec![left(100)]) };
    store.remove_accounts(vec![leave(&added[0]), unknown_account(), leave(&added[1])]).await.unwrap();
    store.remove_accounts(vec![leave(&added[0])]).await.unwrap();
    assert_eq!(store.watched_accounts().await.unwrap(), ["a"].map(account));
    let reported: Vec<_> =
        events(&store).await.iter().map(|event| (event.account, event.event_type)).collect();
    let gone = EventType::StateChanged;
    assert_eq!(reported, [(first.id, EventType::SessionStarted), (added[0].id, gone), (added[1].id, gone)]);

    let store = place.reopen(store).await;
    assert_eq!(store.watched_accounts().await.unwrap(), ["a"].map(account));
    assert!(store.register_accounts(vec![account("a")]).await.unwrap().left.is_empty(), "reported already");
}

pub(crate) async fn returning_account_keeps_its_history(place: &Place) {
    let store = place.open().await;
    let added = store.add_accounts(vec![account("a")]).await.unwrap().remove(0);
    commit(&store, &added, vec![started("o-2", 2), started("o-1", 1), started("o-1", 3)]).await;
    let leaving = PollCommit { record: unwatched(), ..poll(&added, vec![left(100)]) };
    store.remove_accounts(vec![leaving]).await.unwrap();
    let again = store.add_accounts(vec![account("a")]).await.unwrap().remove(0);
    assert_eq!((again.id, again.record), (added.id, unwatched()));
    assert_eq!(listed(&again), [("o-1", 1), ("o-1", 3), ("o-2", 2)].map(|(o, c)| (o.to_owned(), c)).into());
    assert_eq!(store.prune(everything_before(1000)).await.unwrap().snapshots, 0, "it is in use again");

    let leaving = PollCommit { record: unwatched(), ..poll(&again, vec![]) };
    store.remove_accounts(vec![leaving]).await.unwrap();
    assert_eq!(store.prune(everything_before(1000)).await.unwrap().snapshots, 1);
    assert!(store.add_accounts(vec![account("a")]).await.unwrap()[0].snapshot.is_empty());
}

pub(crate) async fn conclusion_of_getkflist_survives_restart(place: &Place) {
    let store = place.open().await;
    let account = register(&store, "a").await;
    let record = AccountRecord {
        state: AccountState::Unbound,
        conclusion: Some(Conclusion::ListedUnbound),
        ..AccountRecord::default()
    };
    store.commit_poll(PollCommit { record, ..poll(&account, vec![]) }).await.unwrap();
    let store = place.reopen(store).await;
    assert_eq!(register(&store, "a").await.record, record);
}

pub(crate) async fn cursor_never_moves_back(place: &Place) {
    let store = place.open().await;
    sinks(&store, &["log"], StartPosition::Now, 0).await;
    store.advance_cursor("log", LogPosition(7)).await.unwrap();
    store.advance_cursor("log", LogPosition(3)).await.unwrap();
    assert_eq!(sinks(&store, &["log"], StartPosition::Beginning, 0).await, [LogPosition(7)]);
}

pub(crate) async fn new_sink_starts_now_or_at_the_beginning(place: &Place) {
    let store = place.open().await;
    let account = register(&store, "a").await;
    commit(&store, &account, vec![started("o-1", 1), started("o-2", 2)]).await;
    let registrations = [("late", StartPosition::Now), ("all", StartPosition::Beginning)]
        .map(|(name, start)| sink(name, start));
    let registered = store.register_sinks(registrations.to_vec(), at(0)).await.unwrap();
    let cursors = registered.into_iter().map(|sink| sink.cursor);
    assert!(cursors.eq([LogPosition(2), LogPosition::BEGINNING]));
}

pub(crate) async fn removed_sink_keeps_its_cursor_temporarily(place: &Place) {
    let store = place.open().await;
    sinks(&store, &["log", "crm"], StartPosition::Now, 0).await;
    store.advance_cursor("crm", LogPosition(5)).await.unwrap();
    sinks(&store, &["log"], StartPosition::Now, 100).await;
    sinks(&store, &["log"], StartPosition::Now, 200).await;
    assert_eq!(store.prune(everything_before(100)).await.unwrap().sinks, 0);
    assert_eq!(sinks(&store, &["log", "crm"], StartPosition::Now, 300).await[1], LogPosition(5));
    sinks(&store, &["log"], StartPosition::Now, 400).await;
    assert_eq!(store.prune(everything_before(401)).await.unwrap().sinks, 1);
    assert_eq!(sinks(&store, &["log", "crm"], StartPosition::Now, 500).await[1], LogPosition(0));
}

pub(crate) async fn backlog_counts_undelivered_events(place: &Place) {
    let store = place.open().await;
    sinks(&store, &["log"], StartPosition::Now, 0).await;
    assert_eq!(store.sink("log").await.unwrap().backlog, SinkBacklog::default());
    let account = register(&store, "a").await;
    commit(&store, &account, (1..=5).map(|n| started("o-1", n)).collect()).await;
    store.advance_cursor("log", LogPosition(2)).await.unwrap();
    assert_eq!(
        store.sink("log").await.unwrap().backlog,
        SinkBacklog { events: 3, oldest: Some(at(3)), ..SinkBacklog::default() }
    );
    let filter = EventFilter { after: LogPosition(2), ..EventFilter::default() };
    assert_eq!(store.read_events(filter, 2).await.unwrap().events.len(), 2);
    let these = store.read_events_at([4, 1, 9].map(LogPosition).into()).await.unwrap();
    assert_eq!(these.iter().map(|event| event.id.0).collect::<Vec<_>>(), [1, 4], "there is no 9");
    store.advance_cursor("log", LogPosition(5)).await.unwrap();
    assert_eq!(store.sink("log").await.unwrap().backlog, SinkBacklog::default());
}

pub(crate) async fn filtered_read_passes_unwanted_events(place: &Place) {
    let store = place.open().await;
    let branch = Account { official_account: "branch".into(), appid: "wx1".into(), ..account("b") };
    let registered = store.register_accounts(vec![account("a"), branch]).await.unwrap().configured;
    for account in &registered {
        commit(&store, account, vec![started("o-1", 1), ended("o-1", 1)]).await;
    }
    commit(&store, &registered[0], vec![started("o-2", 2)]).await;
    let read = async |filter: EventFilter, limit| {
        let page = store.read_events(filter, limit).await.unwrap();
        (page.events.iter().map(|event| event.id.0).collect::<Vec<_>>(), page.next.0)
    };
    let of = |names: &[&str]| EventFilter {
        official_accounts: names.iter().map(|name| (*name).to_owned()).collect(),
        ..EventFilter::default()
    };
    assert_eq!(read(of(&[]), 9).await, (vec![1, 2, 3, 4, 5], 5));
    assert_eq!(read(of(&["branch"]), 9).await, (vec![3, 4], 5), "the last event is skipped");
    assert_eq!(read(of(&["branch"]), 1).await, (vec![3], 3), "as far as it was read");
    assert_eq!(read(of(&["nowhere"]), 9).await, (vec![], 5));
    assert_eq!(read(of(&["branch", "shop"]), 9).await.0.len(), 5);
    let types = vec![EventType::SessionEnded];
    assert_eq!(read(EventFilter { types: types.clone(), ..of(&["shop"]) }, 9).await, (vec![2], 5));
    let until = EventFilter { after: LogPosition(2), until: Some(LogPosition(3)), types, ..of(&["branch"]) };
    assert_eq!(read(until.clone(), 9).await, (vec![], 3), "not beyond `until`");
    assert_eq!(read(EventFilter { until: Some(LogPosition(99)), ..until }, 9).await, (vec![4], 5));
    assert_eq!(read(EventFilter { after: LogPosition(5), ..of(&["shop"]) }, 9).await, (vec![], 5));
}

pub(crate) async fn stop_persists_until_destination_changes(place: &Place) {
    let mut store = place.open().await;
    let to = |url: &str| {
        vec![SinkRegistration { destination: Some(url.to_owned()), ..sink("crm", StartPosition::Beginning) }]
    };
    store.register_sinks(to("old"), at(0)).await.unwrap();
    store.stop_sink("crm", "gone", at(1)).await.unwrap();
    assert!(store.sink("crm").await.unwrap().state.is_stopped());
    for _ in 0..2 {
        store = place.reopen(store).await;
        let state = store.register_sinks(to("old"), at(2)).await.unwrap().remove(0).state;
        assert_eq!(state.stop_reason(), Some("gone"));
    }
    assert_eq!(store.register_sinks(to("new"), at(3)).await.unwrap().remove(0).state, SinkState::Delivering);
    assert!(!store.sink("crm").await.unwrap().state.is_stopped());
    assert_eq!(store.register_sinks(to("old"), at(4)).await.unwrap().remove(0).state, SinkState::Delivering);
}

pub(crate) async fn dead_letter_outlives_its_event(place: &Place) {
    let store = place.open().await;
    sinks(&store, &["log", "crm"], StartPosition::Beginning, 0).await;
    let account = register(&store, "a").await;
    commit(&store, &account, vec![started("o-1", 1)]).await;
    let event = events(&store).await.remove(0);
    for reason in ["first", "again"] {
        let letter = DeadLetter {
            sink: "crm".into(),
            event: event.clone(),
            reason: reason.into(),
            died_at: at(2_000),
            retry: false,
        };
        store.add_dead_letter(letter).await.unwrap();
    }
    assert_eq!(store.sink("crm").await.unwrap().backlog.dead_letters, 1, "each event once");
    assert_eq!(store.sink("log").await.unwrap().backlog.dead_letters, 0);
    assert_eq!(store.sink("crm").await.unwrap().backlog.events, 1, "it moves no cursor");
    for sink in ["log", "crm"] {
        store.advance_cursor(sink, event.id).await.unwrap();
    }
    store.prune(everything_before(1_000)).await.unwrap();
    assert!(events(&store).await.is_empty());
    let store = place.reopen(store).await;
    assert_eq!(store.sink("crm").await.unwrap().backlog.dead_letters, 1);
}

pub(crate) async fn pruning_never_passes_a_present_sink(place: &Place) {
    let store = place.open().await;
    sinks(&store, &["log", "crm"], StartPosition::Now, 0).await;
    let account = register(&store, "a").await;
    commit(&store, &account, (1..=9).map(|n| started("o-1", n)).collect()).await;
    store.advance_cursor("log", LogPosition(9)).await.unwrap();
    store.advance_cursor("crm", LogPosition(5)).await.unwrap();
    assert_eq!(store.prune(everything_before(4)).await.unwrap().events, 3, "younger events are retained");
    assert_eq!(store.prune(everything_before(1000)).await.unwrap().events, 2, "the cursor of crm is at 5");
    assert_eq!(sequences(&events(&store).await), [6, 7, 8, 9]);
    sinks(&store, &["log"], StartPosition::Now, 2000).await;
    assert_eq!(
        store.prune(everything_before(1000)).await.unwrap().events,
        4,
        "a removed sink does not prevent pruning"
    );
}

pub(crate) async fn ids_are_not_reused_after_log_is_emptied(place: &Place) {
    let store = place.open().await;
    let account = register(&store, "a").await;
    commit(&store, &account, vec![started("o-1", 1), started("o-2", 2), started("o-3", 3)]).await;
    let pruned = store.prune(everything_before(1000)).await.unwrap();
    assert_eq!(pruned, Pruned { events: 3, ..Pruned::default() });
    let store = place.reopen(store).await;
    let account = register(&store, "a").await;
    assert_eq!(sinks(&store, &["new"], StartPosition::Now, 0).await, [LogPosition(3)]);
    let done = commit(&store, &account, vec![ended("o-1", 1)]).await;
    assert_eq!((done.last_event, done.sequence), (LogPosition(4), 4));
}

pub(crate) async fn unwatched_account_keeps_snapshot_temporarily_and_sequence_forever(place: &Place) {
    let store = place.open().await;
    let account = register(&store, "a").await;
    commit(&store, &account, vec![started("o-1", 1)]).await;
    let registered = store.register_accounts(vec![]).await.unwrap();
    assert_eq!(registered.left.len(), 1);
    let leave = vec![became(AccountState::Ok, AccountState::Unwatched, 100)];
    let mut leaving = poll(&registered.left[0], leave);
    leaving.record = unwatched();
    store.commit_poll(leaving).await.unwrap();
    assert!(store.register_accounts(vec![]).await.unwrap().left.is_empty(), "reported once");

    assert_eq!(store.prune(everything_before(100)).await.unwrap().snapshots, 0);
    assert_eq!(store.prune(everything_before(101)).await.unwrap().snapshots, 1);
    assert_eq!(store.prune(everything_before(101)).await.unwrap().snapshots, 0);
    let back = register(&store, "a").await;
    assert!(back.snapshot.is_empty() && !back.record.last_seen.baseline_taken);
    assert_eq!(back.record.state, AccountState::Unwatched);
    assert_eq!(commit(&store, &back, vec![started("o-1", 1)]).await.sequence, 3);
}

pub(crate) async fn returning_account_keeps_its_snapshot(place: &Place) {
    let store = place.open().await;
    let account = register(&store, "a").await;
    let mut leaving =
        poll(&account, vec![started("o-1", 1), became(AccountState::Ok, AccountState::Unwatched, 100)]);
    leaving.record = unwatched();
    store.commit_poll(leaving).await.unwrap();
    store.register_accounts(vec![]).await.unwrap();
    register(&store, "a").await;
    assert_eq!(store.prune(everything_before(1000)).await.unwrap().snapshots, 0);
    assert_eq!(register(&store, "a").await.snapshot.len(), 1);
}

pub(crate) async fn repeats_count_retained_events_only(place: &Place) {
    let store = place.open().await;
    let account = register(&store, "a").await;
    commit(&store, &account, vec![started("o-1", 1), ended("o-1", 1)]).await;
    let first = field(&events(&store).await[0], "/id");
    store.prune(everything_before(1000)).await.unwrap();
    commit(&store, &account, vec![started("o-1", 1)]).await;
    assert_eq!(field(&events(&store).await[0], "/id"), first);
}

pub(crate) async fn commit_wakes_dispatchers(place: &Place) {
    let store = place.open().await;
    let mut committed = store.committed();
    let account = register(&store, "a").await;
    assert!(!committed.has_changed().unwrap(), "a registration is no event");
    commit(&store, &account, vec![started("o-1", 1)]).await;
    committed.changed().await.unwrap();
    assert_eq!(*committed.borrow(), LogPosition(1));
    assert_eq!(events(&store).await[0].event_type, EventType::SessionStarted);
}

pub(crate) async fn token_fetches_survive_restart(place: &Place) {
    let store = place.open().await;
    for ms in [1, 2] {
        store.record_token_fetch("wx0", at(ms)).await.unwrap();
    }
    let store = place.reopen(store).await;
    assert_eq!(store.token_fetches().await.unwrap(), [("wx0".to_owned(), at(2))].into());
}

pub(crate) async fn closed_store_returns_error(place: &Place) {
    let store = place.open().await;
    let account = register(&store, "a").await;
    let queued = store.commit_poll(poll(&account, vec![started("o-1", 1)]));
    let (queued, ()) = tokio::join!(queued, store.close());
    queued.unwrap();
    assert!(matches!(store.commit_poll(poll(&account, vec![])).await, Err(StoreError::Closed)));
    assert!(matches!(store.record_token_fetch("wx", at(0)).await, Err(StoreError::Closed)));
    store.close().await;
    let store = place.open().await;
    assert_eq!(events(&store).await.len(), 1);
}

pub(crate) async fn closed_store_opens_again_while_clones_live(place: &Place) {
    let now = Moment { wall: at(0), monotonic: Duration::ZERO };
    let mut closed: Vec<(Store, StoredAccount)> = Vec::new();
    for round in 1..=100 {
        let store = place.open().await;
        let account = register(&store, "a").await;
        assert_eq!(commit(&store, &account, vec![started("o-1", round)]).await.sequence, round as u64);
        if let Some((old, account)) = closed.last() {
            let late = old.commit_poll(poll(account, vec![started("o-2", round)])).await;
            assert!(matches!(late, Err(StoreError::Closed)), "{late:?}");
            assert!(matches!(old.record_token_fetch("wx", at(0)).await, Err(StoreError::Closed)));
            old.close().await;
        }
        let lease = store.lease();
        assert!(lease.is_trusted(now));
        // Whoever closes it finds it closed, not only the first.
        let clone = store.clone();
        let (lost, (), ()) = tokio::join!(store.lost(), store.close(), clone.close());
        assert!(matches!(lost, StoreError::Closed) && !lease.is_trusted(now), "{lost:?}");
        closed.push((store, account));
    }
    assert_eq!(sequences(&events(&place.open().await).await), (1..=100).collect::<Vec<_>>());
}
