//! A kf account as polls know it, with what is known of it.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64},
};

use super::{discovery::Leaving, held::Held, report::Reason};
use crate::{
    domain::{
        account::{Account, AccountState, Standing},
        streak::Streak,
        watch::{Sighting, Watch},
    },
    status::AccountStatus,
    store::{AccountRow, StoredAccount},
};

/// A kf account as polls know it.
pub struct WatchedAccount {
    /// What readers are shown of it.
    pub status: Arc<AccountStatus>,
    row: AccountRow,
    memory: Mutex<Memory>,
    pub(super) claimed: AtomicBool,
}

pub(super) struct Memory {
    pub(super) watch: Watch,
    /// In a place of its own: few accounts are held back at a time, and then it is as large as half of the rest.
    pub(super) hold: Option<Box<Held>>,
    /// Its failures that concern it alone.
    pub(super) streak: Streak<Reason>,
}

impl WatchedAccount {
    /// An account with what the store knows of it.
    pub fn new(status: Arc<AccountStatus>, row: AccountRow, watch: Watch) -> Self {
        let memory = Mutex::new(Memory { watch, hold: None, streak: Streak::default() });
        Self { status, row, memory, claimed: AtomicBool::new(false) }
    }

    /// An account as it was stored, polled at these ticks.
    pub fn restored(stored: StoredAccount, ticks: Arc<AtomicU64>) -> Arc<Self> {
        let (row, account) = (stored.id, stored.account.clone());
        let watch = watch(stored);
        let status = AccountStatus::restored(account, ticks, &watch);
        // The ticks before it came were none of its own.
        status.completed();
        Arc::new(Self::new(Arc::new(status), row, watch))
    }

    /// The store's row of it.
    pub fn row(&self) -> AccountRow {
        self.row
    }

    /// What is known of it.
    pub fn watch(&self) -> Watch {
        self.memory().watch.clone()
    }

    /// When it was last seen, as far as that may be newer than what is stored.
    pub fn sighting(&self) -> Sighting {
        self.memory().watch.sighting
    }

    pub(super) fn leaving(&self) -> Leaving {
        Leaving { row: self.row, account: self.account().clone(), watch: self.watch() }
    }

    /// Its state as told to consumers.
    pub(super) fn state(&self) -> AccountState {
        self.memory().watch.standing.state
    }

    pub(super) fn account(&self) -> &Account {
        &self.status.account
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    pub(super) fn held(&self) -> Option<Held> {
        self.hold.as_deref().copied()
    }
}

/// What the store knows of an account.
pub fn watch(stored: StoredAccount) -> Watch {
    Watch {
        standing: Standing::restored(stored.record.state, stored.record.conclusion),
        snapshot: stored.snapshot,
        sighting: stored.record.sighting,
        departed: None,
        fingerprint: None,
    }
}
