//! The account table: all official accounts with their watched kf accounts, for metrics, pages and commands.
//!
//! Readers lock one kf account at a time and only for a copy of its [`AccountView`], so that a slow scrape delays no poll.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use super::{
    account::{AccountView, WatchedAccount},
    calls::CallCounters,
    label::escaped,
};
use crate::domain::{
    account::Account,
    agents::{Collector, Quota, WaitingQueue},
};

/// How many accounts a reader of all accounts fetches from memory together.
const PREFETCHED: usize = 16;

/// All official accounts, in the order of the configuration.
#[derive(Default)]
pub struct AccountTable {
    official_accounts: Vec<Arc<OfficialAccountStatus>>,
}

/// An official account with its watched kf accounts.
pub struct OfficialAccountStatus {
    /// The name from the configuration.
    pub name: Arc<str>,
    /// The label set as metric text, without braces.
    pub labels: Box<str>,
    /// Counters of the calls made for it.
    pub calls: Arc<CallCounters>,
    /// How often the schedule has ticked. All official accounts of a schedule share the counter.
    ticks: Arc<AtomicU64>,
    readings: Mutex<CollectorReadings>,
    /// Replaced as a whole when a kf account is added or removed.
    kf_accounts: ArcSwap<Vec<Arc<WatchedAccount>>>,
}

/// What collectors know of an official account as a whole; `None` while it is unknown.
#[derive(Clone, Debug, Default)]
pub struct CollectorReadings {
    /// The waiting customers, according to getwaitcase.
    pub waiting: Option<WaitingQueue>,
    /// How many kf accounts are online, watched or not, according to getonlinekflist.
    pub online_accounts: Option<u64>,
    /// The quota of getsessionlist.
    pub quota: Option<Quota>,
    /// In the order of [`Collector::ALL`].
    last_success_at: [Option<Timestamp>; Collector::ALL.len()],
}

impl AccountTable {
    /// A table of these official accounts.
    pub fn new(official_accounts: Vec<Arc<OfficialAccountStatus>>) -> Self {
        Self { official_accounts }
    }

    /// The official accounts.
    pub fn official_accounts(&self) -> &[Arc<OfficialAccountStatus>] {
        &self.official_accounts
    }

    /// Copies the views of all kf accounts, in the order of the configuration.
    pub fn views(&self) -> Vec<(Account, AccountView)> {
        let mut views = Vec::new();
        for of in &self.official_accounts {
            let ticks = of.ticks();
            views.extend(of.kf_accounts().iter().map(|kf| (kf.account().clone(), kf.view(ticks))));
        }
        views
    }
}

impl OfficialAccountStatus {
    /// An official account without kf accounts. The schedule counts its ticks in `ticks`.
    pub fn new(name: Arc<str>, calls: Arc<CallCounters>, ticks: Arc<AtomicU64>) -> Self {
        let labels = format!("official_account=\"{}\"", escaped(&name)).into();
        Self { name, labels, calls, ticks, readings: Mutex::default(), kf_accounts: ArcSwap::default() }
    }

    /// The watched kf accounts.
    pub fn kf_accounts(&self) -> Arc<Vec<Arc<WatchedAccount>>> {
        self.kf_accounts.load_full()
    }

    /// Replaces the watched kf accounts.
    pub fn set_kf_accounts(&self, kf_accounts: Vec<Arc<WatchedAccount>>) {
        self.kf_accounts.store(Arc::new(kf_accounts));
    }

    /// How often the schedule has ticked.
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Locks what collectors know.
    pub fn readings(&self) -> MutexGuard<'_, CollectorReadings> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `visit` with the present view of each kf account.
    pub fn for_each_view(&self, mut visit: impl FnMut(&Account, &AccountView)) {
        let ticks = self.ticks();
        for batch in self.kf_accounts.load().chunks(PREFETCHED) {
            std::hint::black_box(batch.iter().filter(|account| account.prefetch()).count());
            for account in batch {
                visit(account.account(), &account.view(ticks));
            }
        }
    }
}

impl CollectorReadings {
    /// When the collector last succeeded.
    pub fn last_success_at(&self, collector: Collector) -> Option<Timestamp> {
        self.last_success_at[collector as usize]
    }

    /// Records that the collector succeeded.
    pub fn record_success(&mut self, collector: Collector, at: Timestamp) {
        self.last_success_at[collector as usize] = Some(at);
    }
}
