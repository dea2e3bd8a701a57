//! Oddities of responses. All of them were seen in real responses, or differ between the pages of the documentation.

use serde::Deserialize;

/// Oddities of the responses for one official account.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResponseStyle {
    pub createtime_as_text: bool,
    /// `\/` for every slash.
    pub escaped_slashes: bool,
    /// No `sessionlist` key without sessions.
    pub omit_empty_list: bool,
    /// `"errcode":0,"errmsg":"ok"` in successful responses.
    pub explicit_ok: bool,
    pub text_plain: bool,
    /// The probability that a response lists its sessions in another order.
    pub shuffle: f64,
    /// The probability that a response lists one session twice.
    pub duplicate: f64,
    /// Oddities of the lists of agents and of waiting customers.
    pub agents: AgentListStyle,
}

/// Oddities of getkflist, getonlinekflist and getwaitcase.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentListStyle {
    /// kf_id of the other type: a string in getkflist, a number in getonlinekflist.
    pub kf_id_of_other_type: bool,
    pub expiry_as_text: bool,
    pub accepted_case_as_text: bool,
    /// getonlinekflist also lists bound agents who are offline, with status 0.
    pub lists_offline: bool,
    /// getwaitcase as of 2015: createtime and kf_account instead of latest_time.
    pub old_wait_cases: bool,
}
