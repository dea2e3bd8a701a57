//! One watched kf account: everything that the daemon keeps in memory about it, behind one lock.
//!
//! Polls and collectors write, with the lock of [`WatchedAccount::lock`]. Metrics, pages and commands read an
//! [`AccountView`], which copies a few numbers under the lock and no session. 100,000 accounts are kept, so every byte
//! here counts (see the test of sizes).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    domain::{
        account::{Account, AccountState, Conclusion},
        active_backoff::ActiveBackoff,
        agents::Binding,
        clock::UnixMs,
        failure_reason::FailureReason,
        failure_streak::FailureStreak,
        tracker::{AccountTracker, LastSeen, TrackerUpdate},
    },
    store::{AccountId, LastSeenUpdate, StoredAccount},
};

/// A watched kf account.
pub struct WatchedAccount {
    account: Account,
    id: AccountId,
    data: Mutex<AccountData>,
}

/// What is known of one kf account.
pub(crate) struct AccountData {
    pub(crate) tracker: AccountTracker,
    /// Boxed, because few accounts back off at a time.
    pub(crate) backoff: Option<Box<ActiveBackoff>>,
    /// Failures that concern this kf account alone.
    pub(crate) failure_streak: FailureStreak<FailureReason>,
    pub(crate) poll_slot: PollSlot,
    /// Whether the permit for the next call has been acquired already.
    pub(crate) has_permit: bool,
    pub(crate) counters: PollCounters,
    /// Whether the last poll succeeded; `None` before the first one.
    pub(crate) up: Option<bool>,
    pub(crate) failing_with: Option<&'static str>,
    pub(crate) agent: AgentInfo,
    /// The number of ticks of the schedule when a poll was last completed.
    completed_tick: u64,
    /// Derived from the snapshot, so that a view need not read the sessions.
    oldest_createtime: Option<UnixMs>,
    /// Whether `tracker.last_seen` may differ from what the store has.
    last_seen_pending: bool,
}

/// Who may poll the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PollSlot {
    Free,
    /// A poll guard exists.
    Taken,
    /// The account has left, and the poll guard that exists is the last one.
    Leaving,
    /// The account has left and no poll guard exists: it is never polled again.
    Retired,
}

/// What is counted of the polls of one kf account. Four bytes each: enough for a poll a second for a hundred years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollCounters {
    /// Polls made.
    pub polls: u32,
    /// Polls that failed.
    pub failures: u32,
    /// Ticks that found the previous poll still running.
    pub overruns: u32,
    /// Sessions that started, without those of the baseline.
    pub started: u32,
    /// Sessions that ended.
    pub ended: u32,
}

/// What collectors know of a kf account; `None` while it is unknown.
#[derive(Clone, Debug, Default)]
pub struct AgentInfo {
    /// The name that customers see.
    pub nickname: Option<Arc<str>>,
    /// Whether a WeChat user is bound, according to getkflist.
    pub binding: Option<Binding>,
    /// Whether the agent is online, according to getonlinekflist.
    pub online: Option<bool>,
    /// How many sessions the agent has accepted, according to getonlinekflist.
    pub accepted_cases: Option<u32>,
}

/// What readers see of a kf account: a copy of its state at one moment.
#[derive(Clone, Debug, Default)]
pub struct AccountView {
    /// The state as reported in events.
    pub state: AccountState,
    /// What the last conclusive answer said.
    pub conclusion: Option<Conclusion>,
    /// Whether the last poll succeeded; false also during a backoff. `None` before the first poll since the start.
    pub up: Option<bool>,
    /// The number of open sessions; `None` before the baseline.
    pub sessions: Option<u32>,
    /// The createtime of the oldest open session.
    pub oldest_createtime: Option<UnixMs>,
    /// When the answer of the last successful poll was received.
    pub last_success_at: Option<UnixMs>,
    /// What was counted since the start.
    pub counters: PollCounters,
    /// The code of the last failure, while the account is not up.
    pub failing_with: Option<&'static str>,
    /// What collectors know.
    pub agent: AgentInfo,
    /// Whether two ticks of the schedule have passed without a completed poll.
    pub overdue: bool,
}

impl AccountView {
    /// Whether the account was ever polled, before a restart too.
    pub fn was_polled(&self) -> bool {
        self.up.is_some() || self.conclusion.is_some() || self.state != AccountState::Unknown
    }
}

impl WatchedAccount {
    /// An account that has not been polled yet.
    pub fn new(account: Account, id: AccountId, tracker: AccountTracker) -> Self {
        let mut data = AccountData {
            tracker,
            backoff: None,
            failure_streak: FailureStreak::default(),
            poll_slot: PollSlot::Free,
            has_permit: false,
            counters: PollCounters::default(),
            up: None,
            failing_with: None,
            agent: AgentInfo::default(),
            completed_tick: 0,
            oldest_createtime: None,
            last_seen_pending: false,
        };
        data.update_oldest_createtime();
        Self { account, id, data: Mutex::new(data) }
    }

    /// An account as the store knows it, whose schedule has ticked `ticks` times: it is not overdue for those.
    pub fn from_stored(stored: StoredAccount, ticks: u64) -> Arc<Self> {
        let (account, id) = (stored.account.clone(), stored.id);
        let restored = Self::new(account, id, stored.into_tracker());
        restored.lock().completed_tick = ticks;
        Arc::new(restored)
    }

    /// The names of the account.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The id of the account in the store.
    pub fn id(&self) -> AccountId {
        self.id
    }

    /// What readers see. `ticks` is how often the account's schedule has ticked.
    pub fn view(&self, ticks: u64) -> AccountView {
        let data = self.lock();
        let AccountTracker { condition, snapshot, last_seen, .. } = &data.tracker;
        let mut agent = data.agent.clone();
        // getonlinekflist does not list an account that does not exist. Nobody is offline then.
        agent.online = agent.online.filter(|_| condition.conclusion != Some(Conclusion::Invalid));
        AccountView {
            state: condition.state,
            conclusion: condition.conclusion,
            up: data.up,
            sessions: last_seen.baseline_taken.then_some(snapshot.len() as u32),
            oldest_createtime: data.oldest_createtime,
            last_success_at: last_seen.last_success_at,
            counters: data.counters,
            failing_with: data.failing_with,
            agent,
            overdue: ticks.saturating_sub(data.completed_tick) >= 2,
        }
    }

    /// The name that customers see, if getkflist has said it.
    pub fn nickname(&self) -> Option<Arc<str>> {
        self.lock().agent.nickname.clone()
    }

    /// A copy of the tracker, with all sessions.
    pub fn tracker(&self) -> AccountTracker {
        self.lock().tracker.clone()
    }

    /// Adds to the counters.
    pub fn count(&self, added: PollCounters) {
        let counters = &mut self.lock().counters;
        counters.polls += added.polls;
        counters.failures += added.failures;
        counters.overruns += added.overruns;
        counters.started += added.started;
        counters.ended += added.ended;
    }

    /// Counts a tick that found the previous poll of the account still running.
    pub fn record_overrun(&self) {
        self.count(PollCounters { overruns: 1, ..PollCounters::default() });
        tracing::debug!(account = %self.account, "Tick skipped: the previous poll is still running");
    }

    /// Makes sure that nobody acquires a poll guard of the account any more. A poll guard that exists stays valid; the account is
    /// [retired](Self::is_retired) once it is dropped.
    pub fn leave(&self) {
        let mut data = self.lock();
        data.poll_slot = match data.poll_slot {
            PollSlot::Free | PollSlot::Retired => PollSlot::Retired,
            PollSlot::Taken | PollSlot::Leaving => PollSlot::Leaving,
        };
    }

    /// Whether the account [has left](Self::leave). A poll guard of it may still exist.
    pub fn has_left(&self) -> bool {
        matches!(self.lock().poll_slot, PollSlot::Leaving | PollSlot::Retired)
    }

    /// Whether the account has left and no poll guard of it exists: nothing changes its state any more.
    pub fn is_retired(&self) -> bool {
        self.lock().poll_slot == PollSlot::Retired
    }

    /// When the account was last seen, if that may still have to be stored.
    pub fn pending_last_seen(&self) -> Option<LastSeenUpdate> {
        let data = self.lock();
        let LastSeen { listed_sent_at, last_success_at, .. } = data.tracker.last_seen;
        data.last_seen_pending.then_some(LastSeenUpdate { id: self.id, listed_sent_at, last_success_at })
    }

    /// Records that `stored` has been stored. A later poll may have seen the account again meanwhile.
    pub fn last_seen_stored(&self, stored: &LastSeenUpdate) {
        let mut data = self.lock();
        if data.tracker.last_seen.last_success_at == stored.last_success_at {
            data.last_seen_pending = false;
        }
    }

    /// Fetches the lock and the name from memory, without taking the lock. Locks wait for memory one after another, plain
    /// reads at the same time. Without it a scrape of 100,000 accounts takes longer than its target of 40 ms. The result
    /// means nothing.
    pub(crate) fn prefetch(&self) -> bool {
        self.data.is_poisoned() ^ self.account.kf_account.starts_with('@')
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, AccountData> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AccountData {
    /// Applies an update of the tracker, after it was committed if it had to be.
    ///
    /// `last_seen` becomes pending even if it was just committed: an older one may be on its way to the store and
    /// overwrite it.
    pub(crate) fn apply(&mut self, update: TrackerUpdate) {
        self.last_seen_pending |= self.tracker.last_seen != update.last_seen;
        let sessions_changed = update.snapshot.is_some();
        self.tracker.apply(update);
        if sessions_changed {
            self.update_oldest_createtime();
        }
    }

    /// Records that a poll was completed, or that a tick decided against one.
    pub(crate) fn complete_tick(&mut self, ticks: u64) {
        self.completed_tick = ticks;
    }

    fn update_oldest_createtime(&mut self) {
        let oldest = self.tracker.snapshot.oldest_createtime();
        self.oldest_createtime =
            oldest.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()).map(UnixMs::from);
    }
}

/// A kf account for tests that has not been polled.
#[cfg(test)]
pub(crate) fn unpolled(appid: &str, kf_account: &str) -> Arc<WatchedAccount> {
    let account =
        Account { official_account: "shop".into(), appid: appid.into(), kf_account: kf_account.into() };
    Arc::new(WatchedAccount::new(account, AccountId(0), AccountTracker::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/en/development/performance.md has these figures: change both together.
    #[test]
    fn account_size_is_as_documented() {
        assert_eq!(size_of::<AccountData>(), 224);
        assert_eq!(size_of::<WatchedAccount>(), 288);
    }

    #[test]
    fn last_seen_is_pending_until_that_value_is_stored() {
        let names = ["shop", "wx0123456789abcdef", "kf1@shop"].map(Arc::from);
        let [official_account, appid, kf_account] = names;
        let account = Account { official_account, appid, kf_account };
        let account = WatchedAccount::new(account, AccountId(1), AccountTracker::default());
        let see = |second| {
            let last_seen = LastSeen { last_success_at: second, ..LastSeen::default() };
            account.lock().apply(TrackerUpdate { last_seen, ..TrackerUpdate::default() });
        };
        let [first, second] =
            [1, 2].map(|second| jiff::Timestamp::from_second(second).ok().map(UnixMs::from));
        assert_eq!(account.pending_last_seen(), None, "a restored value is stored already");
        see(second);
        let pending = account.pending_last_seen().unwrap();
        // The clock was set back meanwhile.
        see(first);
        account.last_seen_stored(&pending);
        let pending = account.pending_last_seen().unwrap();
        account.last_seen_stored(&pending);
        assert_eq!(account.pending_last_seen(), None);
        see(first);
        assert_eq!(account.pending_last_seen(), None, "the same value again need not be stored");
    }
}
