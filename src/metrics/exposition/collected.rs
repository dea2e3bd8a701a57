//! What collectors know of official accounts.

use super::Page;
use crate::{
    domain::agents::Collector,
    status::{Collected, Table},
};

/// A family with one value for each official account.
struct Family {
    name: &'static str,
    help: &'static str,
    value: fn(&Collected) -> Option<u64>,
}

const FAMILIES: [Family; 5] = [
    Family {
        name: "wechat_kf_online_accounts",
        help: "Kf accounts of the official account that are online, watched or not, as getonlinekflist last said.",
        value: |collected| collected.online_accounts,
    },
    Family {
        name: "wechat_kf_waiting_customers",
        help: "Customers who wait for an agent, as getwaitcase last said.",
        value: |collected| collected.waiting.map(|queue| queue.users),
    },
    Family {
        name: "wechat_kf_waiting_oldest_message_timestamp_seconds",
        help: "The oldest time of a last message among the waiting customers (the first hundred) that getwaitcase last \
               listed; absent when nobody waits.",
        value: |collected| collected.waiting?.oldest_message_at?.try_into().ok(),
    },
    Family {
        name: "wechat_kf_api_quota_limit",
        help: "Calls of getsessionlist that WeChat allows a day, as openapi/quota/get last said.",
        value: |collected| collected.quota.map(|quota| quota.limit),
    },
    Family {
        name: "wechat_kf_api_quota_remaining",
        help: "Calls of getsessionlist left today, whoever made the others, as openapi/quota/get last said.",
        value: |collected| collected.quota.map(|quota| quota.remaining),
    },
];

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    /// What is known of each official account as a whole, and since when.
    pub(super) fn collected(&mut self, table: &Table) {
        for Family { name, help, value } in FAMILIES {
            self.header(name, "gauge", help);
            for official_account in table.official_accounts() {
                let value = value(&official_account.collected());
                if let Some(value) = value {
                    self.series(name, &[&official_account.labels], value);
                }
            }
        }
        let name = "kfwatch_collector_last_success_timestamp_seconds";
        self.header(name, "gauge", "When the collector last had an answer: what it told is as old.");
        for official_account in table.official_accounts() {
            for collector in Collector::ALL {
                let at = official_account.collected().last_success_at(collector);
                if let Some(at) = at.and_then(|at| u64::try_from(at.as_second()).ok()) {
                    let labels = [&*official_account.labels, ",collector=\"", collector.as_str(), "\""];
                    self.series(name, &labels, at);
                }
            }
        }
    }
}
