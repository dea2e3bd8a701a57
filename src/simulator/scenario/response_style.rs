//! Oddities of responses. All of them were seen in real responses, or differ between the pages of the documentation.

use serde::Deserialize;

/// Oddities of the responses for one official account.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResponseStyle {
    pub createtime_as_text: bool,
    /// `\/` for every slash.
    pub escaped_slashes: bool,
    /// Control characters in strings without escapes, which JSON forbids.
    pub raw_control_characters: bool,
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
    /// The form of accepted_case in getonlinekflist.
    pub accepted_case: NumberForm,
    /// getonlinekflist also lists bound agents who are offline, with status 0.
    pub lists_offline: bool,
    /// An entry whose kf_account is empty, at the end of both lists.
    pub nameless_entry: bool,
    /// getkflist calls its list `kf_online_list`, as the example of its page does.
    pub kf_list_under_online_key: bool,
    /// `kf_headimg` instead of `kf_headimgurl`.
    pub short_headimg_key: bool,
    /// getwaitcase as of 2015: createtime and kf_account instead of latest_time.
    pub old_wait_cases: bool,
    /// The times of getwaitcase as strings.
    pub waiting_since_as_text: bool,
}

/// The form of a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NumberForm {
    #[default]
    Number,
    Text,
    Absent,
}
