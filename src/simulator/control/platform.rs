//! Control of third-party platforms: their tickets, and what official accounts grant them.

use std::sync::MutexGuard;

use super::super::component::Authorization;
use super::super::lock;
use super::{Control, ControlError};

impl Control {
    /// The component_verify_ticket that was pushed last.
    pub fn ticket(&self, component_appid: &str) -> Result<String, ControlError> {
        let now_ms = self.shared.clock.now_ms();
        Ok(lock(&self.component(component_appid)?.tickets).newest(now_ms))
    }

    /// Pushes no more tickets, until api_start_push_ticket is called.
    pub fn stop_tickets(&self, component_appid: &str) -> Result<(), ControlError> {
        let now_ms = self.shared.clock.now_ms();
        lock(&self.component(component_appid)?.tickets).stop(now_ms);
        Ok(())
    }

    /// The refresh token that the authorizer list gives for the official account.
    pub fn refresh_token(&self, appid: &str) -> Result<String, ControlError> {
        let authorization = self.authorization(appid)?;
        let listed = authorization.listed().map(|(refresh_token, _)| refresh_token.to_owned());
        listed.ok_or_else(|| ControlError::NotGranted(appid.to_owned()))
    }

    /// The official account withdraws its authorization: its component's tokens for it get 40001, api_authorizer_token
    /// 61003, and it is not in the authorizer list.
    pub fn revoke_authorization(&self, appid: &str) -> Result<(), ControlError> {
        self.authorization(appid)?.withdraw();
        lock(&self.official(appid)?.desk).revoke_authorizer();
        Ok(())
    }

    /// The official account grants its component (anew): it is in the authorizer list, with a new refresh token.
    pub fn grant_authorization(&self, appid: &str) -> Result<(), ControlError> {
        let now_ms = self.shared.clock.now_ms();
        self.authorization(appid)?.grant(now_ms);
        Ok(())
    }

    /// Makes the refresh token void: 61023, until the new one is read from the authorizer list.
    pub fn invalidate_refresh_token(&self, appid: &str) -> Result<(), ControlError> {
        self.authorization(appid)?.replace_refresh_token();
        Ok(())
    }

    fn authorization(&self, appid: &str) -> Result<MutexGuard<'_, Authorization>, ControlError> {
        let authorization = self.official(appid)?.authorization.as_ref();
        authorization.map(lock).ok_or_else(|| ControlError::NoComponent(appid.to_owned()))
    }
}
