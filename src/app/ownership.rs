//! Whether this process owns the accounts of its store, as a lease decides. The lock on a SQLite file is a lease that lasts as long as the
//! process; tests change it to stop and start runs.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};

use super::desired::{Desired, OwnedStores};
use crate::domain::plan::Activity;

/// Changes whether a daemon owns its accounts and acts for them.
#[derive(Clone, Debug)]
pub struct Ownership(mpsc::Sender<OwnershipRequest>);

/// A change that the daemon has not made yet.
#[derive(Debug)]
pub(super) struct OwnershipRequest {
    change: OwnershipChange,
    /// Dropped when the change is made, or the daemon ends.
    _done: oneshot::Sender<()>,
}

#[derive(Clone, Copy, Debug)]
enum OwnershipChange {
    Owns(bool),
    Activity(Activity),
}

impl Ownership {
    pub(super) fn channel() -> (Self, mpsc::Receiver<OwnershipRequest>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    /// Stops the run: polls and attempts in flight finish, and the store is closed.
    pub async fn release(&self) {
        self.change(OwnershipChange::Owns(false)).await;
    }

    /// Opens the store and starts the run.
    pub async fn acquire(&self) {
        self.change(OwnershipChange::Owns(true)).await;
    }

    /// Stops or continues all calls, without forgetting anything.
    pub async fn set_activity(&self, activity: Activity) {
        self.change(OwnershipChange::Activity(activity)).await;
    }

    async fn change(&self, change: OwnershipChange) {
        let (done, made) = oneshot::channel();
        if self.0.send(OwnershipRequest { change, _done: done }).await.is_ok() {
            made.await.ok();
        }
    }
}

impl OwnershipRequest {
    pub(super) fn apply_to(&self, desired: &mut Desired) {
        match self.change {
            OwnershipChange::Owns(true) => desired.stores = OwnedStores::File,
            OwnershipChange::Owns(false) => desired.stores = OwnedStores::Shards(BTreeMap::new()),
            OwnershipChange::Activity(activity) => desired.activity = activity,
        }
    }
}
