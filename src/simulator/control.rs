//! Control by hand, from within the process: what tests do to the simulated world, and what they ask of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fault::FaultRule;
use super::ledger::Ledger;
use super::routes::Endpoint;
use super::scenario::KfState;
use super::world::{KfAccount, OfficialAccount, SessionToOpen};
use super::{Shared, lock};

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
    /// The official account has no such kf account, not even an invalid one.
    #[error("there is no kf account `{0}`")]
    UnknownKfAccount(String),
    /// Nobody of this openid is with the kf account.
    #[error("`{0}` has no open session")]
    NoSession(String),
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
        let (now_ms, book) = (self.shared.clock.now_ms(), &self.shared.ledger);
        let createtime = createtime.unwrap_or(now_ms.div_euclid(1_000));
        account.attendance(now_ms, book).open(&account, SessionToOpen { openid, createtime, now_ms }, book);
        Ok(())
    }

    /// Closes the customer's open sessions with this kf account.
    pub fn close_session(&self, appid: &str, kf_account: &str, openid: &str) -> Result<(), ControlError> {
        let (now_ms, book) = (self.shared.clock.now_ms(), &self.shared.ledger);
        let account = self.kf_account(appid, kf_account)?;
        let closed = account.attendance(now_ms, book).close(openid, now_ms, book);
        closed.then_some(()).ok_or_else(|| ControlError::NoSession(openid.to_owned()))
    }

    /// Openids of the open sessions, in no particular order.
    pub fn open_sessions(&self, appid: &str, kf_account: &str) -> Result<Vec<String>, ControlError> {
        let account = self.kf_account(appid, kf_account)?;
        let attendance = account.attendance(self.shared.clock.now_ms(), &self.shared.ledger);
        Ok(attendance.open.iter().map(|session| session.openid.to_string()).collect())
    }

    /// Binds, unbinds or removes (`Invalid`) a kf account. Its sessions go on, unseen while it is not bound.
    pub fn set_kf_state(&self, appid: &str, kf_account: &str, state: KfState) -> Result<(), ControlError> {
        let account = self.kf_account(appid, kf_account)?;
        account.attendance(self.shared.clock.now_ms(), &self.shared.ledger).state = state;
        Ok(())
    }

    /// Adds a kf account by its full name: bound, without customers of its own. One that was there is bound again.
    pub fn add_kf_account(&self, appid: &str, kf_account: &str) -> Result<(), ControlError> {
        let official = self.official(appid)?;
        if official.kf_account(kf_account).is_some() {
            return self.set_kf_state(appid, kf_account, KfState::Bound);
        }
        let nickname = kf_account.split('@').next().unwrap_or(kf_account);
        let newcomer = self.shared.world.newcomer(official, kf_account);
        official.add_kf_account(kf_account, nickname, newcomer);
        Ok(())
    }

    /// Freezes the AppSecret: token calls get 40243.
    pub fn freeze_secret(&self, appid: &str) -> Result<(), ControlError> {
        self.official(appid)?.secret_frozen.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Undoes [`Control::freeze_secret`].
    pub fn unfreeze_secret(&self, appid: &str) -> Result<(), ControlError> {
        self.official(appid)?.secret_frozen.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Takes the client's address off the allow-list: token calls get 40164.
    pub fn refuse_address(&self, appid: &str) -> Result<(), ControlError> {
        self.official(appid)?.address_refused.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Undoes [`Control::refuse_address`].
    pub fn allow_address(&self, appid: &str) -> Result<(), ControlError> {
        self.official(appid)?.address_refused.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the life of all tokens now: calls with them get 42001.
    pub fn expire_tokens(&self, appid: &str) -> Result<(), ControlError> {
        lock(&self.official(appid)?.desk).expire_all(self.shared.clock.now_ms());
        Ok(())
    }

    /// Makes all tokens unknown: calls with them get 40001.
    pub fn revoke_tokens(&self, appid: &str) -> Result<(), ControlError> {
        lock(&self.official(appid)?.desk).revoke_all();
        Ok(())
    }

    /// Fetches a classic token as another program would, which ends the former one's life after the overlap.
    pub fn meddle(&self, appid: &str) -> Result<String, ControlError> {
        let issued = lock(&self.official(appid)?.desk).issue_classic(self.shared.clock.now_ms());
        issued.map(|issued| issued.value.into()).map_err(|_| ControlError::TokenQuota)
    }

    /// Adds a fault in front of those in force.
    pub fn inject(&self, rule: FaultRule) {
        self.shared.faults.inject(rule);
    }

    /// Ends all faults, the scenario's included.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Lets simulated time jump ahead, for the Date header, tokens, customers and the ledger alike.
    pub fn advance(&self, by: Duration) {
        self.shared.clock.advance(by);
    }

    /// Requests of an endpoint up to now, whoever made them.
    pub fn requests(&self, endpoint: Endpoint) -> u64 {
        self.shared.requests[endpoint as usize].load(Ordering::Relaxed)
    }

    /// Requests of an endpoint that could be attributed to this official account.
    pub fn requests_of(&self, appid: &str, endpoint: Endpoint) -> Result<u64, ControlError> {
        Ok(self.official(appid)?.requests[endpoint as usize].load(Ordering::Relaxed))
    }

    /// getsessionlist requests for this kf account, refused ones included.
    pub fn polls_of(&self, appid: &str, kf_account: &str) -> Result<u64, ControlError> {
        Ok(self.kf_account(appid, kf_account)?.polls.load(Ordering::Relaxed))
    }

    /// The most getsessionlist requests that any one kf account ever had in flight at once.
    pub fn max_in_flight_of_any_kf_account(&self) -> usize {
        let officials = self.shared.world.official_accounts();
        officials
            .iter()
            .flat_map(OfficialAccount::kf_accounts)
            .map(|kf| kf.in_flight.max())
            .max()
            .unwrap_or(0)
    }

    /// The most getsessionlist requests that this kf account ever had in flight at once.
    pub fn max_in_flight_of(&self, appid: &str, kf_account: &str) -> Result<usize, ControlError> {
        Ok(self.kf_account(appid, kf_account)?.in_flight.max())
    }

    /// The most getsessionlist requests that this official account ever had in flight at once.
    pub fn max_in_flight_of_official_account(&self, appid: &str) -> Result<usize, ControlError> {
        Ok(self.official(appid)?.in_flight.max())
    }

    /// What really happened up to now, seen or not.
    pub fn ledger(&self) -> Ledger {
        let now_ms = self.shared.clock.now_ms();
        if self.shared.ledger.is_enabled() {
            for account in self.shared.world.official_accounts().iter().flat_map(OfficialAccount::kf_accounts)
            {
                drop(account.attendance(now_ms, &self.shared.ledger));
            }
        }
        self.shared.ledger.copy()
    }

    fn official(&self, appid: &str) -> Result<&OfficialAccount, ControlError> {
        let unknown = || ControlError::UnknownOfficialAccount(appid.to_owned());
        self.shared.world.by_appid(appid).ok_or_else(unknown)
    }

    fn kf_account(&self, appid: &str, name: &str) -> Result<Arc<KfAccount>, ControlError> {
        let unknown = || ControlError::UnknownKfAccount(name.to_owned());
        self.official(appid)?.kf_account(name).ok_or_else(unknown)
    }
}
