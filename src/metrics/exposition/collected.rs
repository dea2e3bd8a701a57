//! Families about official accounts that collectors fill.

use std::sync::Arc;

use super::{
    Page,
    family::{Family, gauge},
};
use crate::{
    domain::agents::Collector,
    status::{CollectorReadings, OfficialAccountStatus},
};

const FAMILIES: [Family<CollectorReadings>; 5] = [
    gauge(
        "wechat_kf_online_accounts",
        "Kf accounts that are online, polled or not, from the last response of getonlinekflist.",
        |collected| collected.online_accounts,
    ),
    gauge(
        "wechat_kf_waiting_customers",
        "Customers who wait for an agent, from the last response of getwaitcase.",
        |collected| collected.waiting.map(|queue| queue.customers),
    ),
    gauge(
        "wechat_kf_waiting_oldest_message_timestamp_seconds",
        "The oldest last message of a waiting customer (of the first hundred), from the last response of getwaitcase; absent \
         when nobody waits.",
        |collected| collected.waiting?.oldest_message_at?.try_into().ok(),
    ),
    gauge(
        "wechat_kf_api_quota_limit",
        "Calls of getsessionlist that WeChat allows per day, from the last response of openapi/quota/get.",
        |collected| collected.quota.map(|quota| quota.limit),
    ),
    gauge(
        "wechat_kf_api_quota_remaining",
        "Calls of getsessionlist left today, whoever made the others, from the last response of openapi/quota/get.",
        |collected| collected.quota.map(|quota| quota.remaining),
    ),
];

/// The series of an official account that these collectors fill.
pub(super) fn series_from(running: &[Collector]) -> u64 {
    let own = |collector: &Collector| match collector {
        Collector::KfList => 0,
        Collector::Online => 1,
        Collector::Waiting | Collector::Quota => 2,
    };
    // Each collector also has the time of its last success.
    running.iter().map(|collector| own(collector) + 1).sum()
}

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    pub(super) fn collected(&mut self, official_accounts: &[Arc<OfficialAccountStatus>]) {
        let collected: Vec<_> = official_accounts.iter().map(|of| of.readings().clone()).collect();
        let labels = official_accounts.iter().map(|of| &*of.labels);
        self.families(&FAMILIES, labels.zip(&collected));

        let name = "kfwatch_collector_last_success_timestamp_seconds";
        self.header(
            name,
            "gauge",
            "When the collector last received a response; the values from it are as old.",
        );
        for (official_account, collected) in official_accounts.iter().zip(&collected) {
            for collector in Collector::ALL {
                let at = collected.last_success_at(collector);
                if let Some(at) = at.and_then(|at| u64::try_from(at.as_second()).ok()) {
                    let labels = format!("{},collector=\"{}\"", official_account.labels, collector.as_str());
                    self.series(name, &labels, at);
                }
            }
        }
    }
}
