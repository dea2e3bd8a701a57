//! Where in the spread of a tick each kf account is polled.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use super::ticker::Scheduled;
use crate::poll::WatchedAccount;

/// The kf accounts of a schedule in the order of their places in the spread.
pub(super) struct Places {
    spread: Duration,
    pub(super) official_accounts: Vec<Scheduled>,
    /// The lists that `in_order` was made of: it is made anew when one of them was swapped.
    lists: Vec<Arc<Vec<Arc<WatchedAccount>>>>,
    pub(super) in_order: Vec<Place>,
}

/// A kf account and when it is let go after a tick.
pub(super) struct Place {
    pub(super) after: Duration,
    pub(super) account: Arc<WatchedAccount>,
    /// The index of its official account.
    pub(super) of: usize,
}

impl Places {
    /// Of nobody, until they [follow](Self::follow).
    pub(super) fn new(spread: Duration, official_accounts: Vec<Scheduled>) -> Self {
        Self { spread, official_accounts, lists: Vec::new(), in_order: Vec::new() }
    }

    /// Takes over the kf accounts that came, and drops those that went.
    pub(super) fn follow(&mut self) {
        let lists = || self.official_accounts.iter().map(|scheduled| scheduled.official_account.accounts());
        let same = self.lists.len() == self.official_accounts.len()
            && self.lists.iter().zip(lists()).all(|(known, list)| Arc::ptr_eq(known, &list));
        if same {
            return;
        }
        self.lists = lists().collect();
        let accounts = self
            .lists
            .iter()
            .enumerate()
            .flat_map(|(of, list)| list.iter().map(move |account| (of, account)));
        let places = accounts.map(|(of, account)| Place {
            after: place(account, self.spread),
            account: Arc::clone(account),
            of,
        });
        self.in_order = places.collect();
        self.in_order.sort_by_key(|place| place.after);
    }
}

/// Where in the spread an account is polled: by a hash of its names, the same at every tick.
fn place(account: &WatchedAccount, spread: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    let account = &account.status.account;
    (&account.appid, &account.kf_account).hash(&mut hasher);
    // The upper half of the hash as a fraction of one.
    spread.mul_f64((hasher.finish() >> 32) as f64 / f64::from(u32::MAX))
}
