//! Families about official accounts that count calls, their errors, and tokens.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use super::{
    Page,
    family::{Family, counter, gauge},
};
use crate::{
    status::{CallCounters, OfficialAccountStatus},
    wechat::Endpoint,
};

pub(super) const TOKEN_FAMILIES: [Family<CallCounters>; 5] = [
    counter("kfwatch_token_refreshes_total", "Access tokens fetched.", |calls| {
        Some(calls.token_refreshes.load(Ordering::Relaxed))
    }),
    counter("kfwatch_token_refresh_failures_total", "Token fetches that failed.", |calls| {
        Some(calls.token_refresh_failures.load(Ordering::Relaxed))
    }),
    counter(
        "kfwatch_token_replaced_total",
        "Access tokens that WeChat refused long before they expired, because another program fetched one.",
        |calls| Some(calls.token_replaced.load(Ordering::Relaxed)),
    ),
    gauge(
        "kfwatch_token_expiry_timestamp_seconds",
        "When the current access token expires; absent while there is none.",
        |calls| Some(calls.token_expires_at.load(Ordering::Relaxed)).filter(|expires_at| *expires_at > 0),
    ),
    gauge(
        "kfwatch_token_last_refresh_successful",
        "1 if the last attempt to get an access token succeeded, whatever its source; absent before the first.",
        |calls| calls.last_refresh().map(u64::from),
    ),
];

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    pub(super) fn calls(&mut self, official_accounts: &[Arc<OfficialAccountStatus>]) {
        let name = "kfwatch_api_requests_total";
        self.header(name, "counter", "Calls to WeChat, without the one repeat on a broken connection.");
        for official_account in official_accounts {
            for (endpoint, requests) in Endpoint::ALL.iter().zip(&official_account.calls.requests) {
                let requests = requests.load(Ordering::Relaxed);
                // An official account uses only some of the endpoints; getsessionlist is there from the start.
                if requests > 0 || *endpoint == Endpoint::SessionList {
                    let labels = format!("{},endpoint=\"{}\"", official_account.labels, endpoint.as_str());
                    self.series(name, &labels, requests);
                }
            }
        }
        let name = "kfwatch_api_errors_total";
        self.header(name, "counter", "Calls to WeChat that failed, by errcode or kind of failure.");
        for official_account in official_accounts {
            let errors = official_account.calls.errors.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for ((endpoint, code), count) in errors {
                let labels = format!("{},endpoint=\"{endpoint}\",code=\"{code}\"", official_account.labels);
                self.series(name, &labels, count);
            }
        }
        self.families(&TOKEN_FAMILIES, official_accounts.iter().map(|of| (&*of.labels, &*of.calls)));
    }
}
