//! Official accounts and their kf accounts in a scenario.

use serde::Deserialize;

use super::customers::CustomerFlow;
use super::response_style::ResponseStyle;

/// One official account.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfficialAccountScript {
    /// A short name, for fault rules and for the configuration of a client.
    pub name: String,
    pub appid: String,
    pub secret: String,
    /// The part after the `@` in the names of its kf accounts.
    pub wechat_id: String,
    /// The daily limit of getsessionlist calls. Further calls get 45009.
    #[serde(default = "unlimited")]
    pub session_lists_per_day: u64,
    #[serde(default)]
    pub style: ResponseStyle,
    #[serde(default)]
    pub kf_accounts: Vec<KfAccountScript>,
}

/// One kf account.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KfAccountScript {
    /// The part before the `@`.
    pub prefix: String,
    /// Shown to customers. The default is the prefix.
    #[serde(default)]
    pub nickname: Option<String>,
    #[serde(default)]
    pub state: KfState,
    /// The default is the scenario's customers.
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
    /// Not bound, and no invitation: 65402.
    Unbound,
    /// Not bound, with a pending invitation: 65402.
    UnboundWaiting,
    /// Not bound, and the invitation was rejected: 65402.
    UnboundRejected,
    /// Unknown to WeChat, but perhaps configured in a client: 65401.
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
