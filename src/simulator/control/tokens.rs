//! Control of an official account's tokens, limits and permissions.

use std::sync::atomic::Ordering;

use super::super::lock;
use super::super::quota::Quota;
use super::super::routes::Endpoint;
use super::{Control, ControlError};

impl Control {
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

    /// Takes the client's address off an official account's allow-list: token calls get 40164. Off a component's: all of
    /// its calls, and those with tokens that it fetched, get 61004.
    pub fn refuse_address(&self, appid: &str) -> Result<(), ControlError> {
        self.set_address_refused(appid, true)
    }

    /// Undoes [`Control::refuse_address`].
    pub fn allow_address(&self, appid: &str) -> Result<(), ControlError> {
        self.set_address_refused(appid, false)
    }

    /// Ends the life of all tokens of an official account, or of a component's own, now: calls with them get 42001.
    pub fn expire_tokens(&self, appid: &str) -> Result<(), ControlError> {
        let now_ms = self.shared.clock.now_ms();
        match self.component(appid) {
            Ok(component) => lock(&component.desk).expire_all(now_ms),
            Err(_) => lock(&self.official(appid)?.desk).expire_all(now_ms),
        }
        Ok(())
    }

    /// Makes all tokens of an official account, or a component's own, unknown: calls with them get 40001.
    pub fn revoke_tokens(&self, appid: &str) -> Result<(), ControlError> {
        match self.component(appid) {
            Ok(component) => lock(&component.desk).revoke_all(),
            Err(_) => lock(&self.official(appid)?.desk).revoke_all(),
        }
        Ok(())
    }

    /// Fetches a classic token as another program would, which ends the former one's life after the overlap.
    pub fn meddle(&self, appid: &str) -> Result<String, ControlError> {
        let issued = lock(&self.official(appid)?.desk).issue_classic(self.shared.clock.now_ms());
        issued.map(|issued| issued.value.into()).map_err(|_| ControlError::TokenQuota)
    }

    /// Puts the operator's token server out of order: it goes on giving one token that is not valid.
    pub fn stale_token_server(&self, appid: &str) -> Result<(), ControlError> {
        let official = self.official(appid)?;
        let invalid = lock(&official.desk).invalid();
        *lock(&official.stale_token) = Some(invalid);
        Ok(())
    }

    /// Undoes [`Control::stale_token_server`].
    pub fn repair_token_server(&self, appid: &str) -> Result<(), ControlError> {
        *lock(&self.official(appid)?.stale_token) = None;
        Ok(())
    }

    /// Takes the permission for an endpoint away: calls with a valid token get 48001.
    pub fn withhold(&self, appid: &str, endpoint: Endpoint) -> Result<(), ControlError> {
        self.official(appid)?.withheld[endpoint as usize].store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Undoes [`Control::withhold`].
    pub fn permit(&self, appid: &str, endpoint: Endpoint) -> Result<(), ControlError> {
        self.official(appid)?.withheld[endpoint as usize].store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Allows so many calls a day of China from now on, those already made today included; more get 45009.
    pub fn limit_per_day(&self, appid: &str, endpoint: Endpoint, limit: u64) -> Result<(), ControlError> {
        lock(&self.official(appid)?.limits)[endpoint as usize].day.set_limit(limit);
        Ok(())
    }

    /// Allows so many calls a minute from now on, or any number; more get 45011.
    pub fn limit_per_minute(
        &self,
        appid: &str,
        endpoint: Endpoint,
        limit: Option<u64>,
    ) -> Result<(), ControlError> {
        lock(&self.official(appid)?.limits)[endpoint as usize].minute = limit.map(Quota::per_minute);
        Ok(())
    }

    fn set_address_refused(&self, appid: &str, refused: bool) -> Result<(), ControlError> {
        let component = self.component(appid).map(|component| &component.address_refused);
        let address_refused = match component {
            Ok(address_refused) => address_refused,
            Err(_) => &self.official(appid)?.address_refused,
        };
        address_refused.store(refused, Ordering::Relaxed);
        Ok(())
    }
}
