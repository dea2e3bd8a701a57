//! The faults that can happen to a request. [`rules`] decides which requests have a fault; `response` and `server` produce
//! it.

mod rules;

use std::time::Duration;

use serde::Deserialize;

pub use self::rules::{ConnectionUse, FaultRule};
pub(super) use self::rules::{FaultInjector, FaultTarget};

/// A fault of a response, of its connection, or of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// An errcode with its usual errmsg.
    Errcode(i64),
    /// The same, with the number as a string.
    ErrcodeAsText(i64),
    /// All tokens of the caller expire just before the request: 42001 until a new one is fetched.
    ExpireTokens,
    /// All tokens of the caller are revoked just before the request: 40001.
    RevokeTokens,
    /// Another program fetches a classic token just before the request.
    CompetingTokenFetch,
    /// This HTTP status with an HTML page.
    HttpStatus(u16),
    /// 503 with Retry-After in seconds.
    Unavailable(u32),
    /// 302 to this location.
    Redirect(String),
    /// 200 with an HTML page.
    Html,
    EmptyBody,
    /// 200 without a body, Content-Type text/html; charset=gbk.
    EmptyGbkBody,
    /// The body is shorter than its Content-Length.
    TruncatedBody,
    /// The connection is closed normally before any response.
    Close,
    /// The connection is reset before any response.
    Reset,
    /// No response until the client disconnects.
    Hang,
    /// The correct response, after a delay.
    #[serde(deserialize_with = "friendly_duration")]
    Slow(Duration),
    /// The correct response in small pieces over this time.
    #[serde(deserialize_with = "friendly_duration")]
    Drip(Duration),
    /// The correct response after ten megabytes of white space.
    OversizedBody,
    Garbage,
    /// The correct response with bytes that are not UTF-8 inside a string.
    InvalidUtf8,
    /// The correct response after a byte order mark.
    ByteOrderMark,
    /// The correct response with raw control characters inside a string.
    ControlCharacters,
    /// The correct response as text/plain.
    TextPlain,
    /// A success without sessionlist.
    ListAbsent,
    /// A success in which sessionlist is null.
    ListNull,
    /// A success in which sessionlist is an object.
    ListOfWrongType,
    /// A session without openid.
    EntryWithoutOpenid,
    /// A session whose createtime is not a number.
    CreatetimeNoNumber,
}

impl Fault {
    /// Whether it changes the list of sessions. Such a fault happens to getsessionlist only.
    pub(super) fn alters_session_list(&self) -> bool {
        matches!(
            self,
            Fault::ListAbsent
                | Fault::ListNull
                | Fault::ListOfWrongType
                | Fault::EntryWithoutOpenid
                | Fault::CreatetimeNoNumber
        )
    }

    /// Whether the response stays correct in content, but has a form that a client may reject.
    pub(super) fn alters_form(&self) -> bool {
        matches!(
            self,
            Fault::OversizedBody | Fault::ByteOrderMark | Fault::InvalidUtf8 | Fault::ControlCharacters
        )
    }
}

fn friendly_duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    jiff::fmt::serde::unsigned_duration::friendly::compact::required::deserialize(deserializer)
}
