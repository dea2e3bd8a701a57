//! Control of kf accounts: bound or not, online or not, there or not.

use std::sync::MutexGuard;
use std::time::Duration;

use super::super::attendance::{Attendance, Presence};
use super::super::clock::duration_ms;
use super::super::scenario::KfState;
use super::{Control, ControlError};

impl Control {
    /// Binds or unbinds a kf account; an invitation that comes with it was sent just now, or has just expired. Its
    /// sessions go on, unseen while it is not bound.
    pub fn set_kf_state(&self, appid: &str, kf_account: &str, state: KfState) -> Result<(), ControlError> {
        self.with_attendance(appid, kf_account, |mut attendance, now_ms| attendance.set_state(state, now_ms))
    }

    /// Unbinds a kf account, and invites an agent to it; the invitation expires after this time.
    pub fn invite(&self, appid: &str, kf_account: &str, open_for: Duration) -> Result<(), ControlError> {
        self.with_attendance(appid, kf_account, |mut attendance, now_ms| {
            attendance.invite(now_ms.saturating_add(duration_ms(open_for)));
        })
    }

    /// Adds a kf account by its full name: bound, without customers of its own. One that was there is bound again.
    pub fn add_kf_account(&self, appid: &str, kf_account: &str) -> Result<(), ControlError> {
        let official = self.official(appid)?;
        if official.kf_account(kf_account).is_some() {
            return self.set_kf_state(appid, kf_account, KfState::Bound);
        }
        let newcomer = self.shared.world.newcomer(official, kf_account, self.shared.clock.now_ms());
        official.add_kf_account(kf_account, newcomer);
        Ok(())
    }

    /// Removes a kf account: it is invalid, and in no list.
    pub fn remove_kf_account(&self, appid: &str, kf_account: &str) -> Result<(), ControlError> {
        self.set_kf_state(appid, kf_account, KfState::Invalid)
    }

    /// Gives a kf account another nickname.
    pub fn set_nickname(&self, appid: &str, kf_account: &str, nickname: &str) -> Result<(), ControlError> {
        self.with_attendance(appid, kf_account, |mut attendance, _| attendance.nickname = nickname.into())
    }

    /// Says whether an agent is online.
    pub fn set_presence(
        &self,
        appid: &str,
        kf_account: &str,
        presence: Presence,
    ) -> Result<(), ControlError> {
        self.with_attendance(appid, kf_account, |mut attendance, _| attendance.presence = presence)
    }

    fn with_attendance(
        &self,
        appid: &str,
        kf_account: &str,
        act: impl FnOnce(MutexGuard<'_, Attendance>, i64),
    ) -> Result<(), ControlError> {
        let account = self.kf_account(appid, kf_account)?;
        let now_ms = self.settled(appid)?;
        act(account.attendance(now_ms, &self.shared.ledger), now_ms);
        Ok(())
    }
}
