//! Oddities of answers. All but the lists of the API page's own example were seen in the wild, or differ between pages.

use serde::Deserialize;

/// Oddities seen in answers of the real API, per official account.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResponseStyle {
    /// createtime as a string.
    pub createtime_as_text: bool,
    /// `\/` for every slash.
    pub escaped_slashes: bool,
    /// Control characters in strings as they are, which JSON forbids.
    pub raw_control_characters: bool,
    /// No `sessionlist` key when nobody is there.
    pub omit_empty_list: bool,
    /// `"errcode":0,"errmsg":"ok"` beside a success.
    pub explicit_ok: bool,
    /// Content-Type text/plain.
    pub text_plain: bool,
    /// Probability that an answer lists its sessions in another order.
    pub shuffle: f64,
    /// Probability that an answer lists one session twice.
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
    /// invite_expire_time as a string.
    pub expiry_as_text: bool,
    /// How getonlinekflist gives the number of accepted cases.
    pub accepted_case: NumberForm,
    /// Bound agents who are offline are in getonlinekflist too, with status 0.
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

/// How a number is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NumberForm {
    /// As a number.
    #[default]
    Number,
    /// As a string.
    Text,
    /// Not at all.
    Absent,
}
