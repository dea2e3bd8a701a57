//! Reports the requests that the simulator has received.

use std::sync::atomic::Ordering;

use super::{SimulatorControl, SimulatorControlError};
use crate::simulator::api_call::ApiCall;
use crate::simulator::lock;
use crate::simulator::token_calls::TokenCall;
use crate::simulator::world::OfficialAccount;

impl SimulatorControl {
    /// Number of requests to an endpoint so far.
    pub fn requests(&self, endpoint: ApiCall) -> u64 {
        self.shared.requests[endpoint as usize].load(Ordering::Relaxed)
    }

    /// Number of requests to an endpoint that name this official account or this component.
    pub fn requests_of(&self, appid: &str, endpoint: ApiCall) -> Result<u64, SimulatorControlError> {
        let requests = match self.component(appid) {
            Ok(component) => &component.requests,
            Err(_) => &self.official(appid)?.requests,
        };
        Ok(requests[endpoint as usize].load(Ordering::Relaxed))
    }

    /// Number of getsessionlist requests for this kf account, including refused ones.
    pub fn polls_of(&self, appid: &str, kf_account: &str) -> Result<u64, SimulatorControlError> {
        Ok(self.kf_account(appid, kf_account)?.polls.load(Ordering::Relaxed))
    }

    /// The first 100,000 requests for tokens, tickets or refresh tokens, in order, including refused ones.
    pub fn token_calls(&self) -> Vec<TokenCall> {
        lock(&self.shared.token_calls).clone()
    }

    /// The maximum number of getsessionlist requests that were in flight at once for any one kf account.
    pub fn max_in_flight_of_any_kf_account(&self) -> usize {
        let officials = self.shared.world.official_accounts();
        let accounts = officials.iter().flat_map(OfficialAccount::kf_accounts);
        accounts.map(|kf| kf.in_flight.max()).max().unwrap_or(0)
    }

    /// The maximum number of getsessionlist requests that were in flight at once for this official account.
    pub fn max_in_flight_of_official_account(&self, appid: &str) -> Result<usize, SimulatorControlError> {
        Ok(self.official(appid)?.in_flight.max())
    }
}
