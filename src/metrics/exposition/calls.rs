//! What is counted for each official account: calls, their errors, tokens.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use super::Page;
use crate::{
    status::{OfficialAccountStatus, Table},
    wechat::Endpoint,
};

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    /// What is counted for each official account as a whole.
    pub(super) fn calls(&mut self, table: &Table) {
        let official_accounts = table.official_accounts();
        self.header(
            "kfwatch_api_requests_total",
            "counter",
            "Calls made to WeChat; the one repeat after a broken connection does not count.",
        );
        for official_account in official_accounts {
            for (endpoint, requests) in Endpoint::ALL.iter().zip(&official_account.calls.requests) {
                let requests = requests.load(Ordering::Relaxed);
                // Most endpoints are none that this official account has a use for.
                if requests > 0 || *endpoint == Endpoint::SessionList {
                    let labels = [&official_account.labels, ",endpoint=\"", endpoint.as_str(), "\""];
                    self.series("kfwatch_api_requests_total", &labels, requests);
                }
            }
        }
        self.header(
            "kfwatch_api_errors_total",
            "counter",
            "Calls to WeChat that failed, by errcode or kind.",
        );
        for official_account in official_accounts {
            let errors = official_account.calls.errors.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for ((endpoint, code), count) in errors {
                let labels = [&official_account.labels, ",endpoint=\"", endpoint, "\",code=\"", code, "\""];
                self.series("kfwatch_api_errors_total", &labels, count);
            }
        }
        self.tokens(official_accounts);
    }

    fn tokens(&mut self, official_accounts: &[Arc<OfficialAccountStatus>]) {
        type Value = fn(&OfficialAccountStatus) -> Option<u64>;
        let families: [(&str, &str, &str, Value); 5] = [
            ("kfwatch_token_refreshes_total", "counter", "Access tokens fetched.", |official_account| {
                Some(official_account.calls.token_refreshes.load(Ordering::Relaxed))
            }),
            (
                "kfwatch_token_refresh_failures_total",
                "counter",
                "Token fetches that failed.",
                |official_account| {
                    Some(official_account.calls.token_refresh_failures.load(Ordering::Relaxed))
                },
            ),
            (
                "kfwatch_token_replaced_total",
                "counter",
                "Access tokens that WeChat refused long before they expired, because another program fetched one.",
                |official_account| Some(official_account.calls.token_replaced.load(Ordering::Relaxed)),
            ),
            (
                "kfwatch_token_expiry_timestamp_seconds",
                "gauge",
                "When the present access token expires; absent while there is none.",
                |official_account| {
                    let expires_at = official_account.calls.token_expires_at.load(Ordering::Relaxed);
                    (expires_at > 0).then_some(expires_at)
                },
            ),
            (
                "kfwatch_token_last_refresh_successful",
                "gauge",
                "1 if the last attempt to get an access token succeeded, from wherever it comes; absent before the first.",
                |official_account| official_account.calls.last_refresh().map(u64::from),
            ),
        ];
        for (name, kind, help, value) in families {
            self.header(name, kind, help);
            for official_account in official_accounts {
                if let Some(value) = value(official_account) {
                    self.series(name, &[&official_account.labels], value);
                }
            }
        }
    }
}
