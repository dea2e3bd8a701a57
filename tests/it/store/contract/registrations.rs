//! The contract for registering a configuration, and what a reload changes.

use kfwatch::{
    domain::{account::AccountState, event::EventType},
    store::{
        AccountId, AccountRecord, EventFilter, LogPosition, PollCommit, RegisteredAccounts,
        RegistrationUpdate, StartPosition, Store, StoredAccount, UpdatedRegistrations,
    },
};

use crate::support::store::*;

/// Registers these accounts and no sinks, as a start does.
async fn start(store: &Store, kf_accounts: &[&str]) -> RegisteredAccounts {
    let accounts = kf_accounts.iter().copied().map(account).collect();
    store.register(accounts, vec![], at(0)).await.unwrap().accounts
}

async fn update(store: &Store, update: RegistrationUpdate) -> UpdatedRegistrations {
    store.update_registrations(update, at(0)).await.unwrap()
}

async fn leave(store: &Store, left: &StoredAccount) {
    let left = RegistrationUpdate { left: vec![left.id], ..RegistrationUpdate::default() };
    assert_eq!(update(store, left).await, UpdatedRegistrations::default());
}

async fn add(store: &Store, kf_account: &str) -> StoredAccount {
    let added = RegistrationUpdate { added: vec![account(kf_account)], ..RegistrationUpdate::default() };
    update(store, added).await.accounts.remove(0)
}

/// A store that watches accounts `a` and `b`, of which `b` has the session `o-1`.
async fn two_accounts(place: &Place) -> (Store, [StoredAccount; 2]) {
    let store = place.open().await;
    let registered = start(&store, &["a", "b"]).await;
    commit(&store, &registered.configured[1], vec![started("o-1", 1)]).await;
    (store, registered.configured.try_into().unwrap())
}

async fn positions(store: &Store, after: LogPosition) -> Vec<i64> {
    let after = EventFilter { after, ..EventFilter::default() };
    store.read_events(after, usize::MAX).await.unwrap().events.iter().map(|event| event.id.0).collect()
}

pub(crate) async fn start_registers_accounts_and_sinks(place: &Place) {
    let (store, [a, b]) = two_accounts(place).await;
    for _ in 0..2 {
        let sinks = vec![sink("late", StartPosition::Now), sink("all", StartPosition::Beginning)];
        let registered = store.register([account("c"), account("a")].into(), sinks, at(1)).await.unwrap();
        let [c, again] = &registered.accounts.configured[..] else { panic!("{registered:?}") };
        assert_eq!((&c.account, again), (&account("c"), &a));
        let left: Vec<_> =
            registered.accounts.left.iter().map(|left| (left.id, left.snapshot.len())).collect();
        assert_eq!(left, [(b.id, 1)]);
        let cursors = registered.sinks.iter().map(|sink| sink.cursor);
        assert!(cursors.eq([LogPosition(1), LogPosition::BEGINNING]));
    }
}

pub(crate) async fn update_registers_only_what_changes(place: &Place) {
    let (store, [a, b]) = two_accounts(place).await;
    sinks(&store, &["log"], StartPosition::Now, 0).await;
    let changes = RegistrationUpdate {
        added: [account("d"), account("c")].into(),
        left: vec![b.id, AccountId(4711)],
        ..RegistrationUpdate::default()
    };
    let first = update(&store, changes.clone()).await;
    assert!(first.accounts.iter().map(|added| &added.account).eq(&changes.added));
    assert!(first.accounts.iter().all(|added| added.record == AccountRecord::default()));
    assert_eq!(update(&store, changes).await, first, "a second time");
    assert_eq!(store.watched_accounts().await.unwrap(), ["a", "d", "c"].map(account));
    assert_eq!(store.sink("log").await.unwrap().removed_at, None, "no sinks were given");
    assert_eq!(events(&store).await.len(), 1, "a registration makes no event");

    commit(&store, &a, vec![started("o-2", 2)]).await;
    let leaving = PollCommit { record: unwatched(), ..poll(&b, vec![left(100)]) };
    store.remove_accounts(vec![leaving]).await.unwrap();
    let last = events(&store).await.pop().unwrap();
    assert_eq!((last.account, last.event_type), (b.id, EventType::StateChanged));
    let store = place.reopen(store).await;
    assert!(start(&store, &["a", "c", "d"]).await.left.is_empty(), "reported already");
}

pub(crate) async fn account_that_left_unreported_is_found_by_next_start(place: &Place) {
    let (store, [_, b]) = two_accounts(place).await;
    leave(&store, &b).await;
    // The poll in flight ends after the account left.
    commit(&store, &b, vec![started("o-2", 2)]).await;
    assert_eq!(store.prune(everything_before(1000)).await.unwrap().snapshots, 0);
    let mut store = store;
    for _ in 0..2 {
        store = place.reopen(store).await;
        let left = start(&store, &["a"]).await.left;
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].id, left[0].record, left[0].snapshot.len()), (b.id, watched(), 2));
    }
}

pub(crate) async fn account_that_returns_before_it_was_reported_continues(place: &Place) {
    let (store, [_, b]) = two_accounts(place).await;
    leave(&store, &b).await;
    let again = add(&store, "b").await;
    assert_eq!((again.id, again.record, listed(&again)), (b.id, watched(), [("o-1".to_owned(), 1)].into()));
    assert_eq!(events(&store).await.len(), 1, "no event says that it was away");
    let store = place.reopen(store).await;
    assert!(start(&store, &["a", "b"]).await.left.is_empty());
    assert_eq!(commit(&store, &again, vec![ended("o-1", 1)]).await.sequence, 2);
}

pub(crate) async fn account_that_returns_after_it_was_reported_keeps_its_snapshot(place: &Place) {
    let (store, [_, b]) = two_accounts(place).await;
    leave(&store, &b).await;
    let leaving = PollCommit { record: unwatched(), ..poll(&b, vec![left(100)]) };
    store.remove_accounts(vec![leaving]).await.unwrap();
    let again = add(&store, "b").await;
    assert_eq!((again.record.state, again.snapshot.len()), (AccountState::Unwatched, 1));
    assert_eq!(store.prune(everything_before(1000)).await.unwrap().snapshots, 0, "it is in use again");
}

pub(crate) async fn account_that_leaves_and_is_added_stays_configured(place: &Place) {
    let (store, [_, b]) = two_accounts(place).await;
    let mut renamed = account("b");
    renamed.official_account = "store".into();
    let changes = RegistrationUpdate {
        added: vec![renamed.clone()],
        left: vec![b.id],
        ..RegistrationUpdate::default()
    };
    let again = update(&store, changes).await.accounts.remove(0);
    assert_eq!((again.id, &again.account, again.snapshot.len()), (b.id, &renamed, 1));
    assert_eq!(store.watched_accounts().await.unwrap(), [account("a"), renamed]);
}

pub(crate) async fn updated_sinks_miss_no_later_event_and_get_no_earlier_one(place: &Place) {
    let (store, [a, _]) = two_accounts(place).await;
    sinks(&store, &["log", "old"], StartPosition::Beginning, 0).await;
    let given = [("log", StartPosition::Now), ("new", StartPosition::Now), ("all", StartPosition::Beginning)];
    let changes = RegistrationUpdate {
        sinks: Some(given.map(|(name, start)| sink(name, start)).into()),
        ..RegistrationUpdate::default()
    };
    let registered = store.update_registrations(changes.clone(), at(7)).await.unwrap().sinks;
    commit(&store, &a, vec![started("o-2", 2)]).await;
    let again = store.update_registrations(changes, at(8)).await.unwrap().sinks;
    assert_eq!(again, registered, "a second time");
    for (sink, expected) in registered.iter().zip([&[1, 2][..], &[2], &[1, 2]]) {
        assert_eq!(positions(&store, sink.cursor).await, expected);
    }
    let old = store.sinks().await.unwrap().pop().unwrap();
    assert_eq!((&*old.name, old.removed_at), ("old", Some(at(7))));
}

pub(crate) async fn update_may_keep_sinks_that_are_not_given(place: &Place) {
    let (store, _) = two_accounts(place).await;
    sinks(&store, &["log", "old"], StartPosition::Beginning, 0).await;
    let changes = RegistrationUpdate {
        sinks: Some(vec![sink("new", StartPosition::Now)]),
        keeps_other_sinks: true,
        ..RegistrationUpdate::default()
    };
    store.update_registrations(changes, at(7)).await.unwrap();
    let stored = store.sinks().await.unwrap();
    assert!(stored.iter().map(|sink| &*sink.name).eq(["log", "new", "old"]));
    assert!(stored.iter().all(|sink| sink.removed_at.is_none()), "{stored:?}");
}
