//! Faults: what goes wrong. For whom and how often is decided by [`rules`]; what it looks like on the wire is the business of
//! `answer` and `server`.

mod rules;

use std::time::Duration;

use serde::Deserialize;

pub(super) use self::rules::{Call, Faults};
pub use self::rules::{FaultRule, OnConnection};

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// An errcode with its usual errmsg.
    Errcode(i64),
    /// The same, with the number as a string.
    ErrcodeAsText(i64),
    /// Every token of the official account (of the component, at its own calls) expires just before the call: 42001 until
    /// a new one is fetched.
    ExpireTokens,
    /// Every token of the official account (of the component, at its own calls) is forgotten just before the call: 40001.
    RevokeTokens,
    /// Another program fetches a classic token just before the call.
    Meddle,
    /// This HTTP status with an HTML page.
    HttpStatus(u16),
    /// 503 with Retry-After in seconds.
    Unavailable(u32),
    /// 302 to this location.
    Redirect(String),
    /// 200 with an HTML page.
    Html,
    /// 200 without a body.
    EmptyBody,
    /// 200 without a body, Content-Type text/html; charset=gbk.
    EmptyGbkBody,
    /// The announced Content-Length is never reached.
    TruncatedBody,
    /// The connection is closed in good order before any answer.
    Close,
    /// The connection is reset before any answer.
    Reset,
    /// No answer until the client goes.
    Hang,
    /// The right answer, later.
    #[serde(deserialize_with = "friendly_duration")]
    Slow(Duration),
    /// The right answer in many small pieces over this time.
    #[serde(deserialize_with = "friendly_duration")]
    Drip(Duration),
    /// The right answer behind ten megabytes of white space.
    OversizedBody,
    /// Bytes without any meaning.
    Garbage,
    /// The right answer with bytes that are not UTF-8 inside a string.
    InvalidUtf8,
    /// The right answer behind a byte order mark.
    ByteOrderMark,
    /// The right answer with raw control characters inside a string.
    ControlCharacters,
    /// The right answer as text/plain.
    TextPlain,
    /// A success without sessionlist.
    ListAbsent,
    /// A success where sessionlist is null.
    ListNull,
    /// A success where sessionlist is an object.
    ListOfWrongType,
    /// An entry without openid among the sessions.
    EntryWithoutOpenid,
    /// An entry whose createtime is no number among the sessions.
    CreatetimeNoNumber,
}

impl Fault {
    /// A word for logs and for the ledger.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Fault::Errcode(_) => "errcode",
            Fault::ErrcodeAsText(_) => "errcode_as_text",
            Fault::ExpireTokens => "expire_tokens",
            Fault::RevokeTokens => "revoke_tokens",
            Fault::Meddle => "meddle",
            Fault::HttpStatus(_) => "http_status",
            Fault::Unavailable(_) => "unavailable",
            Fault::Redirect(_) => "redirect",
            Fault::Html => "html",
            Fault::EmptyBody => "empty_body",
            Fault::EmptyGbkBody => "empty_gbk_body",
            Fault::TruncatedBody => "truncated_body",
            Fault::Close => "close",
            Fault::Reset => "reset",
            Fault::Hang => "hang",
            Fault::Slow(_) => "slow",
            Fault::Drip(_) => "drip",
            Fault::OversizedBody => "oversized_body",
            Fault::Garbage => "garbage",
            Fault::InvalidUtf8 => "invalid_utf8",
            Fault::ByteOrderMark => "byte_order_mark",
            Fault::ControlCharacters => "control_characters",
            Fault::TextPlain => "text_plain",
            Fault::ListAbsent => "list_absent",
            Fault::ListNull => "list_null",
            Fault::ListOfWrongType => "list_of_wrong_type",
            Fault::EntryWithoutOpenid => "entry_without_openid",
            Fault::CreatetimeNoNumber => "createtime_no_number",
        }
    }

    /// Whether it spoils the list of sessions, and so can happen to getsessionlist only.
    pub(super) fn spoils_session_list(&self) -> bool {
        matches!(
            self,
            Fault::ListAbsent
                | Fault::ListNull
                | Fault::ListOfWrongType
                | Fault::EntryWithoutOpenid
                | Fault::CreatetimeNoNumber
        )
    }

    /// Whether the answer stays right in substance, but has a form that a careful client may refuse.
    pub(super) fn disfigures(&self) -> bool {
        matches!(
            self,
            Fault::OversizedBody | Fault::ByteOrderMark | Fault::InvalidUtf8 | Fault::ControlCharacters
        )
    }
}

fn friendly_duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    jiff::fmt::serde::unsigned_duration::friendly::compact::required::deserialize(deserializer)
}
