//! Official accounts and their kf accounts in a scenario.

use serde::Deserialize;

use super::customers::CustomerFlow;
use super::response_style::ResponseStyle;

/// One official account.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfficialAccountScript {
    /// Short name, for selectors and for the configuration of a client.
    pub name: String,
    /// The account's appid.
    pub appid: String,
    /// The account's AppSecret.
    pub secret: String,
    /// What follows the `@` in the names of its kf accounts.
    pub wechat_id: String,
    /// Calls of getsessionlist allowed a day; more get 45009.
    #[serde(default = "unlimited")]
    pub session_lists_per_day: u64,
    /// Oddities of its answers.
    #[serde(default)]
    pub style: ResponseStyle,
    /// Its service agents.
    #[serde(default)]
    pub kf_accounts: Vec<KfAccountScript>,
}

/// One kf account.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KfAccountScript {
    /// What precedes the `@`.
    pub prefix: String,
    /// Shown to customers; the prefix if absent.
    #[serde(default)]
    pub nickname: Option<String>,
    /// Whether it can be used.
    #[serde(default)]
    pub state: KfState,
    /// Its customers, if they differ from the scenario's.
    #[serde(default)]
    pub customers: Option<CustomerFlow>,
}

/// Whether a kf account can be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KfState {
    /// Bound to a WeChat user.
    #[default]
    Bound,
    /// Not bound, nobody invited: 65402.
    Unbound,
    /// Not bound, an invitation is waiting for its answer: 65402.
    UnboundWaiting,
    /// Not bound, the invitation was rejected: 65402.
    UnboundRejected,
    /// Not bound, the invitation expired: 65402.
    UnboundExpired,
    /// Unknown to WeChat, though a client may have it configured: 65401.
    Invalid,
}

impl OfficialAccountScript {
    /// `prefix@wechat_id`, the name by which the API knows a kf account.
    pub fn full_name(&self, kf: &KfAccountScript) -> String {
        format!("{}@{}", kf.prefix, self.wechat_id)
    }

    /// Whether this is its name or appid.
    pub(super) fn is(&self, wanted: &str) -> bool {
        self.name == wanted || self.appid == wanted
    }
}

pub(super) fn unlimited() -> u64 {
    100_000_000
}
