//! Lets tests in the same process change and inspect the simulation.

mod agents;
mod calls;
mod platform;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Shared;
use super::component::Component;
use super::fault::FaultRule;
use super::kf_account::KfAccount;
use super::ledger::Ledger;
use super::world::OfficialAccount;

/// A handle to a running simulator. It is cheap to clone, and it stays usable after the simulator has stopped.
#[derive(Debug, Clone)]
pub struct SimulatorControl {
    shared: Arc<Shared>,
}

/// Why an operation on the simulator failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimulatorControlError {
    #[error("the scenario has no `{0}`")]
    Unknown(String),
    #[error("`{0}` has no open session")]
    NoSession(String),
    #[error("official account `{0}` has no component")]
    NoComponent(String),
    #[error("official account `{0}` has withdrawn its authorization")]
    NotGranted(String),
    #[error("the daily limit of token fetches is used up")]
    TokenQuota,
}

impl SimulatorControl {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        SimulatorControl { shared }
    }

    /// Opens a session now, with this createtime in UNIX seconds if given. It stays open until
    /// [`SimulatorControl::close_session`].
    pub fn open_session(
        &self,
        appid: &str,
        kf_account: &str,
        openid: &str,
        createtime: Option<i64>,
    ) -> Result<(), SimulatorControlError> {
        let account = self.kf_account(appid, kf_account)?;
        let (now_ms, ledger) = (self.now_after_transfers(appid)?, &self.shared.ledger);
        let createtime = createtime.unwrap_or(now_ms.div_euclid(1_000));
        account.current_state(now_ms, ledger).open(&account, openid, createtime, (now_ms, ledger));
        Ok(())
    }

    /// Closes the customer's open sessions with this kf account.
    pub fn close_session(
        &self,
        appid: &str,
        kf_account: &str,
        openid: &str,
    ) -> Result<(), SimulatorControlError> {
        let account = self.kf_account(appid, kf_account)?;
        let (now_ms, ledger) = (self.now_after_transfers(appid)?, &self.shared.ledger);
        let closed = account.current_state(now_ms, ledger).close(openid, now_ms, ledger);
        (!closed.is_empty()).then_some(()).ok_or_else(|| SimulatorControlError::NoSession(openid.to_owned()))
    }

    /// Transfers the customer's open sessions from the first kf account to the second.
    /// [`TransferPolicy`](super::TransferPolicy) decides whether createtime changes.
    pub fn transfer_session(
        &self,
        appid: &str,
        [from, to]: [&str; 2],
        openid: &str,
    ) -> Result<(), SimulatorControlError> {
        let [from, to] = [self.kf_account(appid, from)?, self.kf_account(appid, to)?];
        let official = self.official(appid)?;
        let _order = official.lock_transfers();
        let (now_ms, ledger) = (self.shared.clock.now_ms(), &self.shared.ledger);
        official.apply_transfers(now_ms, ledger);
        let sessions = from.current_state(now_ms, ledger).close(openid, now_ms, ledger);
        if sessions.is_empty() {
            return Err(SimulatorControlError::NoSession(openid.to_owned()));
        }
        for session in sessions {
            official.transfer(session, (&from, &to), now_ms, (now_ms, ledger));
        }
        Ok(())
    }

    /// Adds a fault rule before the existing ones.
    pub fn inject(&self, rule: FaultRule) {
        self.shared.faults.inject(rule);
    }

    /// Removes all fault rules, including those of the scenario.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Advances the simulated clock. The Date header, tokens, tickets, quotas, customers and the ledger all follow it.
    pub fn advance(&self, by: Duration) {
        self.shared.clock.advance(by);
    }

    /// The simulated time.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.shared.clock.now_ms()).unwrap_or(Timestamp::MAX)
    }

    /// Sends a Date header that is this far ahead of the simulated clock. A negative skew sends an earlier time.
    pub fn set_date_skew(&self, skew: SignedDuration) {
        self.shared.date.set_skew(skew);
    }

    /// Returns what has really happened so far, whether or not a client saw it.
    pub fn ledger(&self) -> Ledger {
        if self.shared.ledger.is_enabled() {
            for official in self.shared.world.official_accounts() {
                let now_ms = self.apply_transfers(official);
                for account in official.kf_accounts() {
                    drop(account.current_state(now_ms, &self.shared.ledger));
                }
            }
        }
        self.shared.ledger.copy()
    }

    fn official(&self, appid: &str) -> Result<&OfficialAccount, SimulatorControlError> {
        self.shared.world.by_appid(appid).ok_or_else(|| SimulatorControlError::Unknown(appid.to_owned()))
    }

    fn component(&self, appid: &str) -> Result<&Component, SimulatorControlError> {
        self.shared.world.component(appid).ok_or_else(|| SimulatorControlError::Unknown(appid.to_owned()))
    }

    fn kf_account(&self, appid: &str, name: &str) -> Result<Arc<KfAccount>, SimulatorControlError> {
        let account = self.official(appid)?.kf_account(name);
        account.ok_or_else(|| SimulatorControlError::Unknown(name.to_owned()))
    }

    /// Carries out all transfers up to now, and returns that time.
    fn now_after_transfers(&self, appid: &str) -> Result<i64, SimulatorControlError> {
        Ok(self.apply_transfers(self.official(appid)?))
    }

    fn apply_transfers(&self, official: &OfficialAccount) -> i64 {
        let _order = official.lock_transfers();
        let now_ms = self.shared.clock.now_ms();
        official.apply_transfers(now_ms, &self.shared.ledger);
        now_ms
    }
}
