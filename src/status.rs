//! The account table: what is known of every watched kf account at this moment, for metrics and pages.
//!
//! Polls write their account's row, one short lock each; readers take down what they want of all rows ([`Table::read`],
//! or [`AccountStatus::look`] at each) and then work on that, so that a slow scrape holds up no poll and one scrape is
//! consistent within each account. Nothing here calls WeChat or reads the store.

mod calls;
mod sinks;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use jiff::Timestamp;

pub use self::{
    calls::{COUNTED_ENDPOINTS, CallCounters},
    sinks::{SinkRow, SinkStatus},
};
use crate::domain::{
    account::{Account, AccountState, Conclusion},
    agents::{Binding, Collector, Quota, WaitingQueue},
    watch::Watch,
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
    /// What collectors know of it.
    collected: Mutex<Collected>,
    /// Its kf accounts. Swapped whole when one comes or goes.
    accounts: ArcSwap<Vec<Arc<AccountStatus>>>,
}

/// One kf account.
pub struct AccountStatus {
    /// Who it is.
    pub account: Account,
    /// How often its schedule has ticked; shared by all accounts of the schedule.
    pub ticks: Arc<AtomicU64>,
    /// What collectors know of it.
    agent: Mutex<Agent>,
    row: Mutex<Row>,
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
    pub accepted_cases: Option<u64>,
}

/// What is known of one kf account.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row {
    /// Its state as told to consumers of events.
    pub state: AccountState,
    /// The last conclusive answer.
    pub conclusion: Option<Conclusion>,
    /// Whether the last poll succeeded; false also while it is held back.
    pub up: bool,
    /// Its open sessions, once known.
    pub sessions: Option<u64>,
    /// The createtime of the session open longest, in UNIX seconds.
    pub oldest_createtime: Option<i64>,
    /// When the last successful poll's answer was received.
    pub last_success_at: Option<Timestamp>,
    /// Polls made.
    pub polls: u64,
    /// Polls that failed.
    pub failures: u64,
    /// Ticks that found the previous poll not finished.
    pub overruns: u64,
    /// Sessions that started, without baselines.
    pub started: u64,
    /// Sessions that ended.
    pub ended: u64,
    /// The code of the last failure, while the account is not up.
    pub failing_with: Option<&'static str>,
    /// The tick of its schedule up to which a poll has been completed.
    completed_tick: u64,
}

/// A copy of the rows of one official account.
pub struct AccountRows {
    /// The official account.
    pub official_account: Arc<OfficialAccountStatus>,
    accounts: Arc<Vec<Arc<AccountStatus>>>,
    rows: Vec<(Row, Agent, Overdue)>,
}

/// Whether two ticks of an account's schedule have passed without a completed poll.
type Overdue = bool;

/// A copy of one row with what identifies it.
pub struct RowRef<'a> {
    /// Whose row it is.
    pub status: &'a AccountStatus,
    /// What polls know.
    pub row: &'a Row,
    /// What collectors know.
    pub agent: &'a Agent,
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
    pub fn read(&self) -> Vec<AccountRows> {
        self.official_accounts.iter().map(AccountRows::copy).collect()
    }
}

impl AccountRows {
    fn copy(official_account: &Arc<OfficialAccountStatus>) -> Self {
        let accounts = official_account.accounts();
        let copy = |read: &RowRef<'_>| (*read.row, read.agent.clone(), read.overdue);
        let rows = accounts.iter().map(|account| account.look(copy)).collect();
        Self { official_account: Arc::clone(official_account), accounts, rows }
    }

    /// The rows, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = RowRef<'_>> {
        let rows = self.accounts.iter().zip(&self.rows);
        rows.map(|(status, (row, agent, overdue))| RowRef { status, row, agent, overdue: *overdue })
    }
}

impl OfficialAccountStatus {
    /// A new row for an official account, without kf accounts.
    pub fn new(name: Arc<str>, calls: Arc<CallCounters>) -> Self {
        let labels = format!("official_account=\"{}\"", escaped(&name)).into();
        Self { name, labels, calls, collected: Mutex::default(), accounts: ArcSwap::default() }
    }

    /// Its kf accounts.
    pub fn accounts(&self) -> Arc<Vec<Arc<AccountStatus>>> {
        self.accounts.load_full()
    }

    /// What collectors know of it, for writing.
    pub fn collected(&self) -> MutexGuard<'_, Collected> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these are its kf accounts.
    pub fn set_accounts(&self, accounts: Vec<Arc<AccountStatus>>) {
        self.accounts.store(Arc::new(accounts));
    }
}

impl AccountStatus {
    /// The row of an account, with what the store knew of it.
    pub fn restored(account: Account, ticks: Arc<AtomicU64>, watch: &Watch) -> Self {
        let mut row = Row::default();
        row.observe(watch);
        Self { account, ticks, agent: Mutex::default(), row: Mutex::new(row) }
    }

    /// What collectors know of it, for writing.
    pub fn agent(&self) -> MutexGuard<'_, Agent> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its row, for writing.
    pub fn row(&self) -> MutexGuard<'_, Row> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A poll was completed, or a tick decided against one.
    pub fn completed(&self) {
        self.row().completed_tick = self.ticks.load(Ordering::Relaxed);
    }

    /// Gives what `look` makes of the account as it is at this moment. Collectors that learn of it wait meanwhile; polls
    /// do not.
    pub fn look<T>(&self, look: impl FnOnce(&RowRef<'_>) -> T) -> T {
        let row = *self.row();
        let overdue = self.ticks.load(Ordering::Relaxed).saturating_sub(row.completed_tick) >= 2;
        look(&RowRef { status: self, row: &row, agent: &self.agent(), overdue })
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

impl Row {
    /// Takes over what is known of the account.
    pub fn observe(&mut self, watch: &Watch) {
        self.observe_unchanged(watch);
        // Before the baseline the number of sessions is not zero but unknown.
        self.sessions = watch.sighting.baseline_taken.then_some(watch.snapshot.len() as u64);
        self.oldest_createtime = watch.snapshot.oldest_createtime();
    }

    /// The same, where nothing had to be committed: the sessions, which nobody has looked at, are left in their memory.
    pub fn observe_unchanged(&mut self, watch: &Watch) {
        self.state = watch.standing.state;
        self.conclusion = watch.standing.conclusion;
        self.last_success_at = watch.sighting.last_success_at;
    }
}

/// A label value as the text format wants it.
pub fn escaped(value: &str) -> String {
    let mut result = String::with_capacity(value.len());
    push_escaped(&mut result, value);
    result
}

/// Appends a label value as the text format wants it.
pub fn push_escaped(text: &mut String, value: &str) {
    // Nearly no value has one. Not `any`: without an early end this is done in vectors.
    if !value.bytes().fold(false, |found, byte| found | matches!(byte, b'\\' | b'"' | b'\n')) {
        return text.push_str(value);
    }
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        let (plain, special) = rest.split_at(at);
        text.push_str(plain);
        text.push_str(match special.as_bytes()[0] {
            b'\\' => "\\\\",
            b'"' => "\\\"",
            _ => "\\n",
        });
        rest = &special[1..];
    }
    text.push_str(rest);
}
