//! Control by hand, from within the process: what tests do to the simulated world, and what they ask of it.

mod agents;
mod calls;
mod platform;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Shared;
use super::attendance::{KfAccount, SessionToOpen};
use super::component::Component;
use super::fault::FaultRule;
use super::ledger::Ledger;
use super::world::OfficialAccount;

/// A handle on a running simulator; cheap to clone, and harmless once the simulator has stopped.
#[derive(Debug, Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No official account has this appid.
    #[error("there is no official account `{0}`")]
    UnknownOfficialAccount(String),
    /// No component has this appid.
    #[error("there is no component `{0}`")]
    UnknownComponent(String),
    /// The official account has no such kf account, not even an invalid one.
    #[error("there is no kf account `{0}`")]
    UnknownKfAccount(String),
    /// Nobody of this openid is with the kf account.
    #[error("`{0}` has no open session")]
    NoSession(String),
    /// The scenario has no component for the official account.
    #[error("no component acts for official account `{0}`")]
    NoComponent(String),
    /// The official account has withdrawn its authorization.
    #[error("official account `{0}` grants its component nothing")]
    NotGranted(String),
    /// The daily limit of token fetches is used up.
    #[error("no more tokens are issued today")]
    TokenQuota,
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Control { shared }
    }

    /// Opens a session now, with another createtime (UNIX seconds) if given; it stays until it is closed by hand.
    pub fn open_session(
        &self,
        appid: &str,
        kf_account: &str,
        openid: &str,
        createtime: Option<i64>,
    ) -> Result<(), ControlError> {
        let account = self.kf_account(appid, kf_account)?;
        let (now_ms, book) = (self.settled(appid)?, &self.shared.ledger);
        let createtime = createtime.unwrap_or(now_ms.div_euclid(1_000));
        account.attendance(now_ms, book).open(&account, SessionToOpen { openid, createtime, now_ms }, book);
        Ok(())
    }

    /// Closes the customer's open sessions with this kf account.
    pub fn close_session(&self, appid: &str, kf_account: &str, openid: &str) -> Result<(), ControlError> {
        let account = self.kf_account(appid, kf_account)?;
        let (now_ms, book) = (self.settled(appid)?, &self.shared.ledger);
        let closed = account.attendance(now_ms, book).take(openid, now_ms, book);
        (!closed.is_empty()).then_some(()).ok_or_else(|| ControlError::NoSession(openid.to_owned()))
    }

    /// Moves the customer's open sessions from the first kf account to the second one. The scenario's
    /// [`TransferPolicy`](super::TransferPolicy) says what becomes of createtime.
    pub fn transfer_session(
        &self,
        appid: &str,
        [from, to]: [&str; 2],
        openid: &str,
    ) -> Result<(), ControlError> {
        let [from, to] = [self.kf_account(appid, from)?, self.kf_account(appid, to)?];
        let official = self.official(appid)?;
        let _order = official.in_order();
        let (now_ms, book) = (self.shared.clock.now_ms(), &self.shared.ledger);
        official.settle(now_ms, book);
        let sessions = from.attendance(now_ms, book).take(openid, now_ms, book);
        if sessions.is_empty() {
            return Err(ControlError::NoSession(openid.to_owned()));
        }
        for session in sessions {
            official.transfer(session, (&from, &to), now_ms, (now_ms, book));
        }
        Ok(())
    }

    /// Openids of the open sessions, in no particular order.
    pub fn open_sessions(&self, appid: &str, kf_account: &str) -> Result<Vec<String>, ControlError> {
        let account = self.kf_account(appid, kf_account)?;
        let attendance = account.attendance(self.settled(appid)?, &self.shared.ledger);
        Ok(attendance.open.iter().map(|session| session.openid.to_string()).collect())
    }

    /// Adds a fault in front of those in force.
    pub fn inject(&self, rule: FaultRule) {
        self.shared.faults.inject(rule);
    }

    /// Ends all faults, the scenario's included.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Lets simulated time jump ahead, for the Date header, tokens, tickets, quotas, customers and the ledger alike.
    pub fn advance(&self, by: Duration) {
        self.shared.clock.advance(by);
    }

    /// The simulated time.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.shared.clock.now_ms()).unwrap_or(Timestamp::MAX)
    }

    /// Sends a Date header that is so far ahead of the simulated clock; a negative one is behind.
    pub fn set_date_skew(&self, skew: SignedDuration) {
        self.shared.date.skew(skew);
    }

    /// Sends no Date header any more, until [`Control::set_date_skew`] brings it back.
    pub fn omit_date(&self) {
        self.shared.date.omit();
    }

    /// What really happened up to now, seen or not.
    pub fn ledger(&self) -> Ledger {
        if self.shared.ledger.is_enabled() {
            for official in self.shared.world.official_accounts() {
                let now_ms = self.settle(official);
                for account in official.kf_accounts() {
                    drop(account.attendance(now_ms, &self.shared.ledger));
                }
            }
        }
        self.shared.ledger.copy()
    }

    fn official(&self, appid: &str) -> Result<&OfficialAccount, ControlError> {
        let unknown = || ControlError::UnknownOfficialAccount(appid.to_owned());
        self.shared.world.by_appid(appid).ok_or_else(unknown)
    }

    fn component(&self, appid: &str) -> Result<&Component, ControlError> {
        let unknown = || ControlError::UnknownComponent(appid.to_owned());
        self.shared.world.component(appid).ok_or_else(unknown)
    }

    fn kf_account(&self, appid: &str, name: &str) -> Result<Arc<KfAccount>, ControlError> {
        let unknown = || ControlError::UnknownKfAccount(name.to_owned());
        self.official(appid)?.kf_account(name).ok_or_else(unknown)
    }

    /// The time now, up to which all transfers have been carried out.
    fn settled(&self, appid: &str) -> Result<i64, ControlError> {
        Ok(self.settle(self.official(appid)?))
    }

    fn settle(&self, official: &OfficialAccount) -> i64 {
        let _order = official.in_order();
        let now_ms = self.shared.clock.now_ms();
        official.settle(now_ms, &self.shared.ledger);
        now_ms
    }
}
