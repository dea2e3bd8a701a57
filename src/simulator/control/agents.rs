//! Controls kf accounts: their binding, their agents, and whether they exist.

use std::time::Duration;

use super::{SimulatorControl, SimulatorControlError};
use crate::simulator::clock::duration_ms;
use crate::simulator::kf_account::{AgentPresence, KfAccountState};
use crate::simulator::scenario::KfState;

impl SimulatorControl {
    /// Binds or unbinds a kf account. An invitation that belongs to the new state was sent now, or expires now. Its
    /// sessions continue, but clients cannot see them while it is not bound.
    pub fn set_kf_state(
        &self,
        appid: &str,
        kf_account: &str,
        state: KfState,
    ) -> Result<(), SimulatorControlError> {
        self.change_state(appid, kf_account, |account, now_ms| account.set_binding(state, now_ms))
    }

    /// Unbinds a kf account and invites an agent. The invitation expires after this time.
    pub fn invite(
        &self,
        appid: &str,
        kf_account: &str,
        open_for: Duration,
    ) -> Result<(), SimulatorControlError> {
        self.change_state(appid, kf_account, |account, now_ms| {
            account.invite(now_ms.saturating_add(duration_ms(open_for)));
        })
    }

    /// Adds a kf account by its full name: bound, with no sessions except those that tests open. If it exists already, it
    /// is bound again.
    pub fn add_kf_account(&self, appid: &str, kf_account: &str) -> Result<(), SimulatorControlError> {
        let official = self.official(appid)?;
        if official.kf_account(kf_account).is_some() {
            return self.set_kf_state(appid, kf_account, KfState::Bound);
        }
        let state = self.shared.world.new_kf_account_state(official, kf_account, self.shared.clock.now_ms());
        official.add_kf_account(kf_account, state);
        Ok(())
    }

    /// Changes the nickname of a kf account.
    pub fn set_nickname(
        &self,
        appid: &str,
        kf_account: &str,
        nickname: &str,
    ) -> Result<(), SimulatorControlError> {
        self.change_state(appid, kf_account, |account, _| account.nickname = nickname.into())
    }

    /// Sets whether the agent is online.
    pub fn set_presence(
        &self,
        appid: &str,
        kf_account: &str,
        presence: AgentPresence,
    ) -> Result<(), SimulatorControlError> {
        self.change_state(appid, kf_account, |account, _| account.presence = presence)
    }

    fn change_state(
        &self,
        appid: &str,
        kf_account: &str,
        change: impl FnOnce(&mut KfAccountState, i64),
    ) -> Result<(), SimulatorControlError> {
        let account = self.kf_account(appid, kf_account)?;
        let now_ms = self.now_after_transfers(appid)?;
        change(&mut account.current_state(now_ms, &self.shared.ledger), now_ms);
        Ok(())
    }
}
