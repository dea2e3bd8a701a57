//! Controls the tokens of an official account.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use super::{SimulatorControl, SimulatorControlError};
use crate::simulator::lock;
use crate::simulator::token::TokenIssuer;

impl SimulatorControl {
    /// Replaces the AppSecret: token requests with the former one get 40125. Tokens that were issued stay valid.
    pub fn rotate_secret(&self, appid: &str, secret: &str) -> Result<(), SimulatorControlError> {
        *lock(&self.official(appid)?.secret) = secret.into();
        Ok(())
    }

    /// Freezes the AppSecret: token requests get 40243.
    pub fn freeze_secret(&self, appid: &str) -> Result<(), SimulatorControlError> {
        self.official(appid)?.secret_frozen.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Undoes [`SimulatorControl::freeze_secret`].
    pub fn unfreeze_secret(&self, appid: &str) -> Result<(), SimulatorControlError> {
        self.official(appid)?.secret_frozen.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Removes the client's IP address from the allow-list. Token requests of an official account then get 40164; all
    /// requests of a component, and requests with the tokens it fetched, get 61004.
    pub fn refuse_address(&self, appid: &str) -> Result<(), SimulatorControlError> {
        self.set_address_refused(appid, true)
    }

    /// Undoes [`SimulatorControl::refuse_address`].
    pub fn allow_address(&self, appid: &str) -> Result<(), SimulatorControlError> {
        self.set_address_refused(appid, false)
    }

    /// Expires all tokens of an official account or of a component now. Requests with them get 42001.
    pub fn expire_tokens(&self, appid: &str) -> Result<(), SimulatorControlError> {
        let now_ms = self.shared.clock.now_ms();
        lock(self.token_issuer(appid)?).expire_all(now_ms);
        Ok(())
    }

    /// Revokes all tokens of an official account or of a component. Requests with them get 40001.
    pub fn revoke_tokens(&self, appid: &str) -> Result<(), SimulatorControlError> {
        lock(self.token_issuer(appid)?).revoke_all();
        Ok(())
    }

    /// Fetches a classic token, as another program would. The previous one expires after the overlap.
    pub fn fetch_competing_token(&self, appid: &str) -> Result<String, SimulatorControlError> {
        let issued = lock(&self.official(appid)?.token_issuer).issue_classic(self.shared.clock.now_ms());
        issued.map(|issued| issued.value.into()).map_err(|_| SimulatorControlError::TokenQuota)
    }

    /// Breaks the operator's token server: it returns the same invalid token until it is repaired.
    pub fn break_token_server(&self, appid: &str) -> Result<(), SimulatorControlError> {
        let official = self.official(appid)?;
        let invalid = lock(&official.token_issuer).invalid_token();
        *lock(&official.stale_token) = Some(invalid);
        Ok(())
    }

    /// Undoes [`SimulatorControl::break_token_server`].
    pub fn repair_token_server(&self, appid: &str) -> Result<(), SimulatorControlError> {
        *lock(&self.official(appid)?.stale_token) = None;
        Ok(())
    }

    fn token_issuer(&self, appid: &str) -> Result<&Mutex<TokenIssuer>, SimulatorControlError> {
        Ok(match self.component(appid) {
            Ok(component) => &component.token_issuer,
            Err(_) => &self.official(appid)?.token_issuer,
        })
    }

    fn set_address_refused(&self, appid: &str, refused: bool) -> Result<(), SimulatorControlError> {
        let address_refused = match self.component(appid) {
            Ok(component) => &component.address_refused,
            Err(_) => &self.official(appid)?.address_refused,
        };
        address_refused.store(refused, Ordering::Relaxed);
        Ok(())
    }
}
