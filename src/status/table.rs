//! The account table: all official accounts with their watched kf accounts, for metrics, pages and commands.
//!
//! Readers lock one kf account at a time and only for a copy of its [`AccountView`], so that a slow scrape delays no poll.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    account::{AccountView, WatchedAccount},
    calls::CallCounters,
    label::escaped,
};
use crate::{
    domain::{
        account::Account,
        agents::{Collector, Quota, WaitingQueue},
    },
    store::AccountId,
};

/// How many accounts a reader of all accounts fetches from memory together.
const PREFETCHED: usize = 16;

/// All official accounts, in the order of the configuration. They are published as a whole: a reader sees the list of before or
/// after a change.
#[derive(Default)]
pub struct AccountTable {
    published: watch::Sender<OfficialAccountList>,
}

/// The official accounts at one moment.
pub type OfficialAccountList = Arc<Vec<Arc<OfficialAccountStatus>>>;

/// An official account with its watched kf accounts.
pub struct OfficialAccountStatus {
    /// The name from the configuration.
    pub name: Arc<str>,
    /// The label set as metric text, without braces.
    pub labels: Box<str>,
    /// Counters of the calls made for it.
    pub calls: Arc<CallCounters>,
    ticks: ArcSwap<TickCount>,
    readings: Mutex<CollectorReadings>,
    /// Replaced as a whole when a kf account is added or removed.
    kf_accounts: ArcSwap<Vec<Arc<WatchedAccount>>>,
}

/// How often the schedules of an official account have ticked.
struct TickCount {
    /// The ticks of the present schedule. All official accounts of a schedule share the counter.
    schedule: Arc<AtomicU64>,
    /// The ticks of earlier schedules, less those of the present one before the official account followed it. Wraps around.
    offset: u64,
}

impl TickCount {
    fn get(&self) -> u64 {
        self.schedule.load(Ordering::Relaxed).wrapping_add(self.offset)
    }
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
        Self { published: watch::Sender::new(Arc::new(official_accounts)) }
    }

    /// The official accounts.
    pub fn official_accounts(&self) -> OfficialAccountList {
        Arc::clone(&self.published.borrow())
    }

    /// Replaces the official accounts, and signals it to those who wait for [changes](Self::changes).
    pub fn publish(&self, official_accounts: Vec<Arc<OfficialAccountStatus>>) {
        self.published.send_replace(Arc::new(official_accounts));
    }

    /// The official accounts, and each later list.
    pub fn changes(&self) -> watch::Receiver<OfficialAccountList> {
        self.published.subscribe()
    }

    /// Copies the views of all kf accounts, in the order of the configuration.
    pub fn views(&self) -> Vec<(Account, AccountView)> {
        let mut views = Vec::new();
        for of in self.official_accounts().iter() {
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
        let ticks = ArcSwap::from_pointee(TickCount { schedule: ticks, offset: 0 });
        Self { name, labels, calls, ticks, readings: Mutex::default(), kf_accounts: ArcSwap::default() }
    }

    /// The watched kf accounts.
    pub fn kf_accounts(&self) -> Arc<Vec<Arc<WatchedAccount>>> {
        self.kf_accounts.load_full()
    }

    /// Adds kf accounts, except for those whose name is present.
    pub fn add_kf_accounts(&self, added: Vec<Arc<WatchedAccount>>) {
        self.kf_accounts.rcu(|present| {
            let mut names: HashSet<&str> = present.iter().map(name).collect();
            let new: Vec<_> = added.iter().filter(|account| names.insert(name(account))).collect();
            if new.is_empty() {
                // Whoever compares lists sees that nothing has changed.
                return Arc::clone(present);
            }
            let mut all = Vec::with_capacity(present.len() + new.len());
            all.extend(present.iter().chain(new).cloned());
            Arc::new(all)
        });
    }

    /// Removes kf accounts. Those that are not present are ignored.
    pub fn remove_kf_accounts(&self, removed: &HashSet<AccountId>) {
        self.kf_accounts.rcu(|present| {
            let kept: Vec<_> = present.iter().filter(|account| !removed.contains(&account.id())).collect();
            if kept.len() == present.len() {
                return Arc::clone(present);
            }
            Arc::new(kept.into_iter().cloned().collect())
        });
    }

    /// How often its schedules have ticked.
    pub fn ticks(&self) -> u64 {
        self.ticks.load().get()
    }

    /// Counts the ticks of another schedule from now on. No kf account is overdue for the ticks of the earlier ones.
    pub fn follow_schedule(&self, ticks: Arc<AtomicU64>) {
        // The count goes on from where it is, so that no reader compares ticks of different schedules.
        self.ticks.rcu(|present| {
            let offset = present.get().wrapping_sub(ticks.load(Ordering::Relaxed));
            TickCount { schedule: Arc::clone(&ticks), offset }
        });
        let ticks = self.ticks();
        for account in self.kf_accounts.load().iter() {
            account.lock().complete_tick(ticks);
        }
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

fn name(account: &Arc<WatchedAccount>) -> &str {
    &account.account().kf_account
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tracker::AccountTracker;

    fn watched(number: i64) -> Arc<WatchedAccount> {
        let kf_account = format!("kf{number}@shop").into();
        let account = Account { official_account: "shop".into(), appid: "wx1".into(), kf_account };
        Arc::new(WatchedAccount::new(account, AccountId(number), AccountTracker::default()))
    }

    fn ids(of: &OfficialAccountStatus) -> Vec<i64> {
        of.kf_accounts().iter().map(|account| account.id().0).collect()
    }

    #[test]
    fn kf_accounts_are_added_once_and_removed() {
        let of = OfficialAccountStatus::new("shop".into(), Arc::default(), Arc::default());
        let first = watched(1);
        of.add_kf_accounts(vec![Arc::clone(&first), watched(2), watched(2)]);
        let list = of.kf_accounts();
        of.add_kf_accounts(vec![watched(1)]);
        of.remove_kf_accounts(&[AccountId(3)].into());
        assert!(Arc::ptr_eq(&list, &of.kf_accounts()), "nothing has changed");
        of.add_kf_accounts(vec![watched(3), watched(1)]);
        assert_eq!(ids(&of), [1, 2, 3]);
        assert!(Arc::ptr_eq(&of.kf_accounts()[0], &first));
        of.remove_kf_accounts(&[AccountId(1), AccountId(3)].into());
        assert_eq!(ids(&of), [2]);
    }

    #[test]
    fn no_kf_account_is_overdue_for_an_earlier_schedule() {
        for (earlier, later) in [(5, 1000), (1000, 5), (5, 5)] {
            let of = OfficialAccountStatus::new("shop".into(), Arc::default(), Arc::new(earlier.into()));
            let account = watched(1);
            of.add_kf_accounts(vec![Arc::clone(&account)]);
            let is_overdue = || account.view(of.ticks()).overdue;
            assert!(is_overdue());
            let ticks = Arc::new(AtomicU64::new(later));
            of.follow_schedule(Arc::clone(&ticks));
            assert!(!is_overdue());
            ticks.fetch_add(1, Ordering::Relaxed);
            assert!(!is_overdue());
            ticks.fetch_add(1, Ordering::Relaxed);
            assert!(is_overdue());
        }
    }

    #[test]
    fn published_official_accounts_are_signalled() {
        let table = AccountTable::default();
        let mut changes = table.changes();
        assert!(!changes.has_changed().unwrap() && table.official_accounts().is_empty());
        let of = OfficialAccountStatus::new("shop".into(), Arc::default(), Arc::default());
        table.publish(vec![Arc::new(of)]);
        assert!(changes.has_changed().unwrap());
        assert_eq!((changes.borrow_and_update().len(), table.official_accounts().len()), (1, 1));
    }
}
