//! A kf account as polls know it, with what is known of it.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use super::{backoff::ActiveBackoff, discovery::Leaving, report::Reason};
use crate::{
    domain::{
        account::{Account, AccountCondition, AccountState},
        failure_streak::FailureStreak,
        tracker::{AccountTracker, LastSeen, TrackerUpdate},
    },
    status::{AccountStatus, KfAccounts, OfficialAccountStatus},
    store::{AccountId, LastSeenUpdate, StoredAccount},
};

/// A kf account as polls know it.
pub struct WatchedAccount {
    /// What readers are shown of it.
    pub status: AccountStatus,
    row: AccountId,
    memory: Mutex<Memory>,
    /// Whether its sighting may be another than the stored one. Changes under the lock of the memory.
    last_seen_pending: AtomicBool,
    /// Whether somebody holds its claim.
    pub(super) claimed: AtomicBool,
    /// Whether the next call of whoever holds its claim has its permit already.
    pub(super) has_permit: AtomicBool,
    /// Whether it is not watched any more, and its claim never given back.
    pub(super) left: AtomicBool,
}

pub(super) struct Memory {
    pub(super) watch: AccountTracker,
    /// In a place of its own: few accounts are held back at a time, and then it is as large as half of the rest.
    pub(super) hold: Option<Box<ActiveBackoff>>,
    /// Its failures that concern it alone.
    pub(super) failure_streak: FailureStreak<Reason>,
}

impl WatchedAccount {
    /// An account with what the store knows of it.
    pub fn new(account: Account, row: AccountId, watch: AccountTracker) -> Self {
        let status = AccountStatus::restored(account, &watch);
        let memory = Memory { watch, hold: None, failure_streak: FailureStreak::default() };
        Self {
            status,
            row,
            memory: Mutex::new(memory),
            last_seen_pending: AtomicBool::new(false),
            claimed: AtomicBool::new(false),
            has_permit: AtomicBool::new(false),
            left: AtomicBool::new(false),
        }
    }

    /// An account of this official account, as it was stored.
    pub fn restored(stored: StoredAccount, of: &OfficialAccountStatus) -> Arc<Self> {
        let (row, account) = (stored.id, stored.account.clone());
        let restored = Self::new(account, row, watch(stored));
        // The ticks before it came were none of its own.
        of.completed(&restored.status);
        Arc::new(restored)
    }

    /// The store's row of it.
    pub fn row(&self) -> AccountId {
        self.row
    }

    /// What is known of it.
    pub fn watch(&self) -> AccountTracker {
        self.memory().watch.clone()
    }

    /// Whether when it was last seen is still to be stored.
    pub fn last_seen_pending(&self) -> bool {
        self.last_seen_pending.load(Ordering::Relaxed)
    }

    /// When it was last seen, for the store.
    pub fn seen(&self) -> LastSeenUpdate {
        let LastSeen { listed_sent_at, last_success_at, .. } = self.memory().watch.last_seen;
        LastSeenUpdate { id: self.row, listed_sent_at, last_success_at }
    }

    /// That is stored now. It may have been seen again meanwhile.
    pub fn last_seen_stored(&self, stored: &LastSeenUpdate) {
        let memory = self.memory();
        if memory.watch.last_seen.last_success_at == stored.last_success_at {
            self.last_seen_pending.store(false, Ordering::Relaxed);
        }
    }

    /// Takes the step, after it was committed if it had to be, and gives what is known from then on. The sighting waits even
    /// if it was committed: an older one may be on its way to the store, behind the commit.
    pub(super) fn apply(&self, step: TrackerUpdate) -> MutexGuard<'_, Memory> {
        let mut memory = self.memory();
        if memory.watch.last_seen != step.last_seen {
            self.last_seen_pending.store(true, Ordering::Relaxed);
        }
        memory.watch.apply(step);
        memory
    }

    pub(super) fn leaving(&self) -> Leaving {
        Leaving { row: self.row, account: self.account().clone(), watch: self.watch() }
    }

    /// Its state as told to consumers.
    pub(super) fn state(&self) -> AccountState {
        self.memory().watch.condition.state
    }

    pub(super) fn account(&self) -> &Account {
        &self.status.account
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KfAccounts for Vec<Arc<WatchedAccount>> {
    fn count(&self) -> usize {
        self.len()
    }

    fn status(&self, index: usize) -> &AccountStatus {
        &self[index].status
    }
}

impl Memory {
    pub(super) fn held(&self) -> Option<ActiveBackoff> {
        self.hold.as_deref().copied()
    }
}

/// What the store knows of an account.
pub fn watch(stored: StoredAccount) -> AccountTracker {
    AccountTracker {
        condition: AccountCondition::restored(stored.record.state, stored.record.conclusion),
        snapshot: stored.snapshot,
        last_seen: stored.record.last_seen,
        departed: None,
        fingerprint: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::clock::UnixMs, poll::PollGuard, status::AccountView};

    /// ARCHITECTURE.md counts what an account takes: where one of these grows, that does.
    #[test]
    fn an_account_takes_as_little_memory_as_we_say() {
        assert_eq!(size_of::<AccountView>(), 120);
        assert_eq!(size_of::<Memory>(), 112);
        assert_eq!(size_of::<WatchedAccount>(), 312);
        assert_eq!(size_of::<PollGuard>(), 16);
    }

    #[test]
    fn a_sighting_waits_until_that_very_one_is_stored() {
        let names = ["shop", "wx0123456789abcdef", "kf1@shop"].map(Arc::from);
        let [official_account, appid, kf_account] = names;
        let account = Account { official_account, appid, kf_account };
        let account = WatchedAccount::new(account, AccountId(1), AccountTracker::default());
        let see = |second| {
            let last_seen = LastSeen { last_success_at: second, ..LastSeen::default() };
            drop(account.apply(TrackerUpdate { last_seen, ..TrackerUpdate::default() }));
        };
        let [first, second] =
            [1, 2].map(|second| jiff::Timestamp::from_second(second).ok().map(UnixMs::from));
        assert!(!account.last_seen_pending(), "what was restored is stored");
        see(second);
        let seen = account.seen();
        // The clock was set back meanwhile.
        see(first);
        account.last_seen_stored(&seen);
        assert!(account.last_seen_pending());
        account.last_seen_stored(&account.seen());
        assert!(!account.last_seen_pending());
        see(first);
        assert!(!account.last_seen_pending(), "the same again is nothing to store");
    }
}
