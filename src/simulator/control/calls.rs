//! What was called, how often and when.

use std::sync::atomic::Ordering;

use super::super::requests::TokenCall;
use super::super::routes::Endpoint;
use super::super::world::OfficialAccount;
use super::{Control, ControlError};

impl Control {
    /// Requests of an endpoint up to now, whoever made them.
    pub fn requests(&self, endpoint: Endpoint) -> u64 {
        self.shared.requests[endpoint as usize].load(Ordering::Relaxed)
    }

    /// Requests of an endpoint that could be attributed to this official account, or to this component.
    pub fn requests_of(&self, appid: &str, endpoint: Endpoint) -> Result<u64, ControlError> {
        let requests = match self.component(appid) {
            Ok(component) => &component.requests,
            Err(_) => &self.official(appid)?.requests,
        };
        Ok(requests[endpoint as usize].load(Ordering::Relaxed))
    }

    /// getsessionlist requests for this kf account, refused ones included.
    pub fn polls_of(&self, appid: &str, kf_account: &str) -> Result<u64, ControlError> {
        Ok(self.kf_account(appid, kf_account)?.polls.load(Ordering::Relaxed))
    }

    /// Every request for tokens, tickets or refresh tokens up to now, in order, refused ones included; the first
    /// [`MAX_TOKEN_CALLS`](super::super::MAX_TOKEN_CALLS) of them.
    pub fn token_calls(&self) -> Vec<TokenCall> {
        self.shared.token_calls.copy()
    }

    /// The most getsessionlist requests that any one kf account ever had in flight at once.
    pub fn max_in_flight_of_any_kf_account(&self) -> usize {
        let officials = self.shared.world.official_accounts();
        let accounts = officials.iter().flat_map(OfficialAccount::kf_accounts);
        accounts.map(|kf| kf.in_flight.max()).max().unwrap_or(0)
    }

    /// The most getsessionlist requests that this kf account ever had in flight at once.
    pub fn max_in_flight_of(&self, appid: &str, kf_account: &str) -> Result<usize, ControlError> {
        Ok(self.kf_account(appid, kf_account)?.in_flight.max())
    }

    /// The most getsessionlist requests that this official account ever had in flight at once.
    pub fn max_in_flight_of_official_account(&self, appid: &str) -> Result<usize, ControlError> {
        Ok(self.official(appid)?.in_flight.max())
    }
}
