//! The account table: what is known of every watched kf account at this moment, for metrics and pages.
//!
//! Polls and collectors write their account's row, one short lock each; readers take down what they want of all rows
//! ([`Table::read`], or [`OfficialAccountStatus::look`] at each) and then work on that, so that a slow scrape holds up no
//! poll and one scrape is consistent within each account. Nothing here calls WeChat or reads the store.

mod calls;
mod label;
mod sink_status;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use jiff::Timestamp;

pub use self::{
    calls::{COUNTED_ENDPOINTS, CallCounters},
    label::{escaped, push_escaped},
    sink_status::{SinkActivity, SinkStatus},
};
use crate::domain::{
    account::{Account, AccountState, Conclusion},
    agents::{Binding, Collector, Quota, WaitingQueue},
    clock::UnixMs,
    tracker::AccountTracker,
};

/// All watched accounts, in the order of the configuration.
#[derive(Default)]
pub struct Table {
    official_accounts: Vec<Arc<OfficialAccountStatus>>,
}

/// An official account and its kf accounts.
pub struct OfficialAccountStatus {
    /// The operator's name for it.
    pub name: Arc<str>,
    /// Its label set as metric text, without braces.
    pub labels: Box<str>,
    /// What was counted for it as a whole.
    pub calls: Arc<CallCounters>,
    /// How often its schedule has ticked; shared by all official accounts of the schedule.
    ticks: Arc<AtomicU64>,
    /// What collectors know of it.
    collected: Mutex<Collected>,
    /// Its kf accounts. Swapped whole when one comes or goes.
    kf_accounts: ArcSwap<Arc<dyn KfAccounts>>,
}

/// The kf accounts of an official account. Whoever polls them keeps them, each in one place of memory with all that is
/// known of it; readers are shown what is theirs.
pub trait KfAccounts: Send + Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// The one of this index, which is less than that.
    fn status(&self, index: usize) -> &AccountStatus;
}

/// What readers are shown of one kf account.
pub struct AccountStatus {
    /// Who it is.
    pub account: Account,
    row: Mutex<AccountView>,
}

/// What collectors know of an official account; `None` until it is known.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// The customers who wait, as getwaitcase told.
    pub waiting: Option<WaitingQueue>,
    /// How many kf accounts are online, watched or not, as getonlinekflist told.
    pub online_accounts: Option<u64>,
    /// The quota of getsessionlist.
    pub quota: Option<Quota>,
    /// When each collector last succeeded, in the order of [`Collector::ALL`].
    last_success_at: [Option<Timestamp>; Collector::ALL.len()],
}

/// What collectors know of a kf account; `None` until it is known.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    /// The name that customers see.
    pub nickname: Option<Arc<str>>,
    /// Whether a WeChat user is bound to it, as getkflist told.
    pub binding: Option<Binding>,
    /// Whether it is online.
    pub online: Option<bool>,
    /// How many sessions it has accepted, as getonlinekflist told.
    pub accepted_cases: Option<u32>,
}

/// What is known of one kf account. Counters in four bytes, because there is a row for each: they have room for a poll a
/// second in a hundred years.
#[derive(Clone, Debug, Default)]
pub struct AccountView {
    /// Its state as told to consumers of events.
    pub state: AccountState,
    /// The last conclusive answer.
    pub conclusion: Option<Conclusion>,
    /// Whether the last poll succeeded; false also while it is held back.
    pub up: bool,
    /// Its open sessions, once known.
    pub sessions: Option<u32>,
    /// The createtime of the session open longest.
    pub oldest_createtime: Option<UnixMs>,
    /// When the last successful poll's answer was received.
    pub last_success_at: Option<UnixMs>,
    /// Polls made.
    pub polls: u32,
    /// Polls that failed.
    pub failures: u32,
    /// Ticks that found the previous poll not finished.
    pub overruns: u32,
    /// Sessions that started, without baselines.
    pub started: u32,
    /// Sessions that ended.
    pub ended: u32,
    /// The code of the last failure, while the account is not up.
    pub failing_with: Option<&'static str>,
    /// What collectors know of it.
    pub agent: Agent,
    /// The tick of its schedule up to which a poll has been completed.
    completed_tick: u64,
}

/// A copy of the rows of one official account.
pub struct OfficialAccountViews {
    /// The official account.
    pub official_account: Arc<OfficialAccountStatus>,
    kf_accounts: Arc<dyn KfAccounts>,
    rows: Vec<(AccountView, Overdue)>,
}

/// Whether two ticks of an account's schedule have passed without a completed poll.
type Overdue = bool;

/// One row with what identifies it.
pub struct AccountViewRef<'a> {
    /// Whose row it is.
    pub account: &'a Account,
    /// What is known.
    pub row: &'a AccountView,
    /// Whether two ticks of its schedule have passed without a completed poll.
    pub overdue: bool,
}

impl Table {
    /// A table of these official accounts.
    pub fn new(official_accounts: Vec<Arc<OfficialAccountStatus>>) -> Self {
        Self { official_accounts }
    }

    /// The official accounts.
    pub fn official_accounts(&self) -> &[Arc<OfficialAccountStatus>] {
        &self.official_accounts
    }

    /// All rows as they are now, by official account.
    pub fn read(&self) -> Vec<OfficialAccountViews> {
        self.official_accounts.iter().map(OfficialAccountViews::copy).collect()
    }
}

impl OfficialAccountViews {
    fn copy(official_account: &Arc<OfficialAccountStatus>) -> Self {
        let kf_accounts = official_account.kf_accounts();
        let mut rows = Vec::with_capacity(kf_accounts.count());
        official_account.look_at(&*kf_accounts, |read| rows.push((read.row.clone(), read.overdue)));
        Self { official_account: Arc::clone(official_account), kf_accounts, rows }
    }

    /// The rows, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = AccountViewRef<'_>> {
        let rows = self.rows.iter().enumerate();
        rows.map(|(index, (row, overdue))| {
            let account = &self.kf_accounts.status(index).account;
            AccountViewRef { account, row, overdue: *overdue }
        })
    }
}

impl OfficialAccountStatus {
    /// A new row for an official account, without kf accounts, whose schedule ticks with `ticks`.
    pub fn new(name: Arc<str>, calls: Arc<CallCounters>, ticks: Arc<AtomicU64>) -> Self {
        let labels = format!("official_account=\"{}\"", escaped(&name)).into();
        let kf_accounts = ArcSwap::from_pointee(Arc::new(Vec::<AccountStatus>::new()) as Arc<dyn KfAccounts>);
        Self { name, labels, calls, ticks, collected: Mutex::default(), kf_accounts }
    }

    /// Its kf accounts.
    pub fn kf_accounts(&self) -> Arc<dyn KfAccounts> {
        Arc::clone(&self.kf_accounts.load())
    }

    /// What collectors know of it, for writing.
    pub fn collected(&self) -> MutexGuard<'_, Collected> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these are its kf accounts.
    pub fn set_kf_accounts(&self, kf_accounts: Arc<dyn KfAccounts>) {
        self.kf_accounts.store(Arc::new(kf_accounts));
    }

    /// A poll of the kf account was completed, or a tick decided against one.
    pub fn completed(&self, account: &AccountStatus) {
        account.row().completed_tick = self.ticks.load(Ordering::Relaxed);
    }

    /// Shows each of its kf accounts as it is at this moment. The account's polls wait meanwhile: what `look` does is short.
    pub fn look(&self, look: impl FnMut(&AccountViewRef<'_>)) {
        self.look_at(&*self.kf_accounts(), look);
    }

    fn look_at(&self, kf_accounts: &dyn KfAccounts, mut look: impl FnMut(&AccountViewRef<'_>)) {
        for status in (0..kf_accounts.count()).map(|index| kf_accounts.status(index)) {
            let row = status.row();
            let overdue = self.ticks.load(Ordering::Relaxed).saturating_sub(row.completed_tick) >= 2;
            look(&AccountViewRef { account: &status.account, row: &row, overdue });
        }
    }
}

impl KfAccounts for Vec<AccountStatus> {
    fn count(&self) -> usize {
        self.len()
    }

    fn status(&self, index: usize) -> &AccountStatus {
        &self[index]
    }
}

impl AccountStatus {
    /// The row of an account, with what the store knew of it.
    pub fn restored(account: Account, watch: &AccountTracker) -> Self {
        let mut row = AccountView::default();
        row.observe(watch);
        Self { account, row: Mutex::new(row) }
    }

    /// Its row, for writing.
    pub fn row(&self) -> MutexGuard<'_, AccountView> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collected {
    /// When this collector last succeeded.
    pub fn last_success_at(&self, collector: Collector) -> Option<Timestamp> {
        self.last_success_at[collector as usize]
    }

    /// This collector succeeded then.
    pub fn succeeded(&mut self, collector: Collector, at: Timestamp) {
        self.last_success_at[collector as usize] = Some(at);
    }
}

impl AccountView {
    /// Takes over what is known of the account.
    pub fn observe(&mut self, watch: &AccountTracker) {
        self.observe_unchanged(watch);
        // Before the baseline the number of sessions is not zero but unknown.
        self.sessions = watch.last_seen.baseline_taken.then_some(watch.snapshot.len() as u32);
        let oldest = watch.snapshot.oldest_createtime();
        self.oldest_createtime =
            oldest.and_then(|seconds| Timestamp::from_second(seconds).ok()).map(UnixMs::from);
    }

    /// The same, where nothing had to be committed: the sessions, which nobody has looked at, are left in their memory.
    pub fn observe_unchanged(&mut self, watch: &AccountTracker) {
        self.state = watch.condition.state;
        self.conclusion = watch.condition.conclusion;
        self.last_success_at = watch.last_seen.last_success_at;
    }
}
