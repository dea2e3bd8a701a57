//! Controls kf accounts: their binding, and whether they exist.

use super::{SimulatorControl, SimulatorControlError};
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
        let account = self.kf_account(appid, kf_account)?;
        let now_ms = self.now_after_transfers(appid)?;
        account.current_state(now_ms, &self.shared.ledger).set_binding(state, now_ms);
        Ok(())
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
}
