//! Controls third-party platforms: their tickets and their authorizations.

use std::sync::MutexGuard;

use super::{SimulatorControl, SimulatorControlError};
use crate::simulator::component::Authorization;
use crate::simulator::lock;

impl SimulatorControl {
    /// Returns the component_verify_ticket that was pushed last.
    pub fn ticket(&self, component_appid: &str) -> Result<String, SimulatorControlError> {
        let now_ms = self.shared.clock.now_ms();
        Ok(self.component(component_appid)?.tickets.newest(now_ms))
    }

    /// Returns the refresh token of the official account in the authorizer list.
    pub fn refresh_token(&self, appid: &str) -> Result<String, SimulatorControlError> {
        let authorization = self.authorization(appid)?;
        let listed = authorization.listed().map(|(refresh_token, _)| refresh_token.to_owned());
        listed.ok_or_else(|| SimulatorControlError::NotGranted(appid.to_owned()))
    }

    /// Withdraws the authorization of the official account: the component's tokens for it get 40001,
    /// api_authorizer_token gets 61003, and the account leaves the authorizer list.
    pub fn revoke_authorization(&self, appid: &str) -> Result<(), SimulatorControlError> {
        self.authorization(appid)?.withdraw();
        lock(&self.official(appid)?.token_issuer).revoke_authorizer();
        Ok(())
    }

    /// Grants the authorization again: the account is in the authorizer list, with a new refresh token.
    pub fn grant_authorization(&self, appid: &str) -> Result<(), SimulatorControlError> {
        let now_ms = self.shared.clock.now_ms();
        self.authorization(appid)?.grant(now_ms);
        Ok(())
    }

    /// Replaces the refresh token. The old one gets 61023; the new one is in the authorizer list.
    pub fn invalidate_refresh_token(&self, appid: &str) -> Result<(), SimulatorControlError> {
        self.authorization(appid)?.replace_refresh_token();
        Ok(())
    }

    fn authorization(&self, appid: &str) -> Result<MutexGuard<'_, Authorization>, SimulatorControlError> {
        let authorization = self.official(appid)?.authorization.as_ref();
        authorization.map(lock).ok_or_else(|| SimulatorControlError::NoComponent(appid.to_owned()))
    }
}
