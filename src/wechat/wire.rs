//! Reading what WeChat answers, tolerantly where that is safe and strictly where it matters.
//!
//! The errcode is looked at first: it may be absent, a number or a string, and one other than 0 counts whatever
//! stands beside it. A list of sessions is taken whole or not at all: one unusable entry makes the answer
//! malformed, because leaving an entry out would end its session. Texts may hold raw control characters, bytes that
//! are no UTF-8, and a byte order mark; the Content-Type is never looked at.
//!
//! Nothing here panics on any bytes, and no error text holds a part of the answer but `errmsg`.

pub mod agents;
pub mod component;
mod scalar;

use std::{borrow::Cow, fmt, time::Duration};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use self::scalar::{Errcode, Text, errcode, integer, seconds};
use crate::domain::snapshot::{ObservedSessions, Session};

/// A well-formed answer of getsessionlist.
#[derive(Debug, PartialEq, Eq)]
pub enum SessionList<'a> {
    /// These sessions are open.
    Listed(ObservedSessions<'a>),
    /// Success without a list: the key is absent, or null. Whether WeChat means an empty list is not documented.
    Keyless,
}

/// An access token as given out.
#[derive(Deserialize)]
pub struct TokenAnswer<'a> {
    /// The token.
    #[serde(borrow)]
    pub access_token: Cow<'a, str>,
    /// How long it is valid.
    #[serde(deserialize_with = "seconds")]
    pub expires_in: Duration,
}

/// Why an answer cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum WireError {
    /// An errcode other than 0, with its errmsg.
    Refused {
        /// The errcode.
        code: i64,
        /// The errmsg as it came.
        message: String,
    },
    /// Not what the API promises.
    Malformed(String),
}

/// The body as text: without byte order mark, with control characters inside strings escaped as JSON wants it, and
/// with a replacement character for what is no UTF-8. Borrowed when nothing had to be done.
pub fn text(body: &[u8]) -> Cow<'_, str> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    // The lossy reading goes byte by byte, and nearly no answer needs it.
    let text = str::from_utf8(body).map_or_else(|_| String::from_utf8_lossy(body), Cow::Borrowed);
    // Not `any`: without an early end this is done in vectors.
    if !text.bytes().fold(false, |found, byte| found | (byte < b' ')) {
        return text;
    }
    match escape_control_characters(&text) {
        Some(escaped) => Cow::Owned(escaped),
        None => text,
    }
}

/// Reads an answer of getsessionlist.
pub fn session_list(text: &str) -> Result<SessionList<'_>, WireError> {
    let envelope = match serde_json::from_str::<Envelope<'_>>(text) {
        Ok(envelope) => envelope,
        Err(error) => return Err(refusal(text).unwrap_or_else(|| malformed(text, &error))),
    };
    if envelope.errcode != 0 {
        return Err(refused(envelope.errcode, &envelope.errmsg));
    }
    match envelope.list {
        List::Sessions(sessions) => Ok(SessionList::Listed(ObservedSessions::new(sessions))),
        List::Absent if envelope.unknown_keys => {
            Err(WireError::Malformed("an object without sessionlist, with other keys".into()))
        }
        List::Absent => Ok(SessionList::Keyless),
    }
}

/// Reads an answer of the two token calls.
pub fn token(text: &str) -> Result<TokenAnswer<'_>, WireError> {
    if let Some(refusal) = refusal(text) {
        return Err(refusal);
    }
    let answer: TokenAnswer<'_> = serde_json::from_str(text).map_err(|error| malformed(text, &error))?;
    if answer.access_token.is_empty() {
        return Err(WireError::Malformed("an empty access_token".into()));
    }
    Ok(answer)
}

/// The refusal that an answer holds, whatever else it holds.
pub(super) fn refusal(text: &str) -> Option<WireError> {
    let Verdict { errcode, errmsg } = serde_json::from_str(text).ok()?;
    (errcode != 0).then(|| refused(errcode, &errmsg.unwrap_or_default().0))
}

fn refused(code: i64, errmsg: &str) -> WireError {
    WireError::Refused { code, message: errmsg.to_owned() }
}

/// serde's own texts quote the value they stumbled over, which may be an openid: only the place is kept.
fn malformed(text: &str, error: &serde_json::Error) -> WireError {
    use serde_json::error::Category;
    let what = match error.classify() {
        _ if text.trim().is_empty() => return WireError::Malformed("an empty body".into()),
        _ if text.trim_start().starts_with('<') => {
            return WireError::Malformed("HTML or XML, not JSON".into());
        }
        Category::Eof => "JSON that breaks off",
        Category::Syntax | Category::Io => "not JSON",
        Category::Data => "JSON of another shape than documented",
    };
    WireError::Malformed(format!("{what}, at line {} column {}", error.line(), error.column()))
}

struct Envelope<'a> {
    errcode: i64,
    errmsg: Cow<'a, str>,
    list: List<'a>,
    unknown_keys: bool,
}

enum List<'a> {
    Absent,
    Sessions(Vec<Session<'a>>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Envelope<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EnvelopeVisitor)
    }
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope =
            Envelope { errcode: 0, errmsg: Cow::Borrowed(""), list: List::Absent, unknown_keys: false };
        let mut listed = false;
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            match &*key {
                "sessionlist" if listed => return Err(serde::de::Error::duplicate_field("sessionlist")),
                "sessionlist" => {
                    listed = true;
                    if let Some(entries) = map.next_value::<Option<Vec<Entry<'de>>>>()? {
                        envelope.list =
                            List::Sessions(entries.into_iter().map(|Entry(session)| session).collect());
                    }
                }
                "errcode" => envelope.errcode = map.next_value::<Errcode>()?.0,
                "errmsg" => envelope.errmsg = map.next_value::<Option<Text<'de>>>()?.unwrap_or_default().0,
                _ => {
                    envelope.unknown_keys = true;
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(envelope)
    }
}

#[derive(Deserialize)]
struct Verdict<'a> {
    #[serde(default, deserialize_with = "errcode")]
    errcode: i64,
    #[serde(default, borrow)]
    errmsg: Option<Text<'a>>,
}

struct Entry<'a>(Session<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Entry<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;

        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow)]
            openid: Cow<'a, str>,
            #[serde(deserialize_with = "integer")]
            createtime: i64,
        }
        let Fields { openid, createtime } = Fields::deserialize(deserializer)?;
        if openid.is_empty() || openid.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER)
        {
            return Err(D::Error::custom("an unusable openid"));
        }
        if Timestamp::from_second(createtime).is_err() {
            return Err(D::Error::custom("a createtime that no calendar holds"));
        }
        Ok(Self(Session { openid, createtime }))
    }
}

/// Escapes control characters inside strings; `None` if there are none there.
fn escape_control_characters(text: &str) -> Option<String> {
    let mut result = String::new();
    let mut copied = 0;
    let (mut in_string, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        if in_string && byte < b' ' {
            result.push_str(&text[copied..at]);
            // A backslash before it would escape our escape: a control character cannot be escaped itself.
            result.push_str(if escaped { "\\" } else { "" });
            result.push_str(&format!("\\u{byte:04x}"));
            copied = at + 1;
        }
        match byte {
            b'"' if !escaped => in_string = !in_string,
            _ => {}
        }
        escaped = in_string && byte == b'\\' && !escaped;
    }
    (copied > 0).then(|| {
        result.push_str(&text[copied..]);
        result
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(body: &[u8]) -> Result<Option<Vec<(String, i64)>>, WireError> {
        session_list(&text(body)).map(|list| match list {
            SessionList::Listed(observed) => Some(
                observed
                    .sessions()
                    .iter()
                    .map(|session| (session.openid.to_string(), session.createtime))
                    .collect(),
            ),
            SessionList::Keyless => None,
        })
    }

    /// The answer lists these sessions.
    #[track_caller]
    fn lists(body: &str, expected: &[(&str, i64)]) {
        let expected = expected.iter().map(|&(openid, createtime)| (openid.to_owned(), createtime)).collect();
        assert_eq!(read(body.as_bytes()), Ok(Some(expected)), "{body}");
    }

    #[track_caller]
    fn refuses(body: &str, code: i64) {
        assert!(
            matches!(read(body.as_bytes()), Err(WireError::Refused { code: c, .. }) if c == code),
            "{body}"
        );
    }

    #[track_caller]
    fn malformed(body: &[u8]) {
        assert!(matches!(read(body), Err(WireError::Malformed(_))), "{}", String::from_utf8_lossy(body));
    }

    #[test]
    fn the_documented_answer_is_read() {
        lists(r#"{"sessionlist":[{"createtime":123456789,"openid":"OPENID"}]}"#, &[("OPENID", 123_456_789)]);
        lists(r#"{"sessionlist":[]}"#, &[]);
    }

    #[test]
    fn odd_but_harmless_shapes_are_read_alike() {
        lists(r#"{"errcode":0,"errmsg":"ok","sessionlist":[{"createtime":7,"openid":"a"}]}"#, &[("a", 7)]);
        lists(r#"{"errcode":"0","sessionlist":[{"createtime":"7","openid":"a"}]}"#, &[("a", 7)]);
        lists(r#"{"sessionlist":[{"openid":"a\/b","createtime":7,"new":[{}]}],"new":1}"#, &[("a/b", 7)]);
        lists("\u{feff}{ \"sessionlist\" :\r\n\t[ ] }\n", &[]);
        lists(
            r#"{"sessionlist":[{"createtime":7,"openid":"a"},{"openid":"a","createtime":"7"}]}"#,
            &[("a", 7)],
        );
    }

    #[test]
    fn control_characters_inside_strings_do_no_harm() {
        lists("{\"errmsg\":\"o\x01k\n\",\"sessionlist\":[{\"createtime\":7,\"openid\":\"a\"}]}", &[("a", 7)]);
        lists("{\"errmsg\":\"\\\"\x02\\/\",\"sessionlist\":[]}", &[]);
        refuses("{\"errcode\":65402,\"errmsg\":\"nick\x1fname \\\x03\"}", 65402);
        assert_eq!(read(b"{\"errcode\":1,\"errmsg\":\"\xff\xfe\"}"), Err(refused(1, "\u{fffd}\u{fffd}")));
    }

    #[test]
    fn an_errcode_counts_whatever_stands_beside_it() {
        refuses(r#"{"errcode":65402,"errmsg":"x"}"#, 65402);
        refuses(r#"{"errcode":"65401","errmsg":"x"}"#, 65401);
        refuses(r#"{"sessionlist":[{"createtime":7,"openid":"a"}],"errcode":-1}"#, -1);
        refuses(r#"{"errcode":45009,"sessionlist":"none"}"#, 45009);
        refuses(r#"{"sessionlist":[{}],"errcode":45009}"#, 45009);
    }

    #[test]
    fn success_without_a_list_is_told_apart_from_an_empty_list() {
        for body in ["{}", r#"{"errcode":0}"#, r#"{"errcode":0,"errmsg":"ok"}"#, r#"{"sessionlist":null}"#] {
            assert_eq!(read(body.as_bytes()), Ok(None), "{body}");
        }
    }

    #[test]
    fn everything_else_is_malformed() {
        for body in [
            "",
            " ",
            "null",
            "[]",
            "7",
            "<html><body>502 Bad Gateway</body></html>",
            r#"{"kf_list":[]}"#,
            r#"{"errcode":0,"errmsg":"ok","data":{}}"#,
            r#"{"sessionlist":{}}"#,
            r#"{"sessionlist":"a"}"#,
            r#"{"sessionlist":[null]}"#,
            r#"{"sessionlist":[{"createtime":7}]}"#,
            r#"{"sessionlist":[{"createtime":7,"openid":""}]}"#,
            r#"{"sessionlist":[{"createtime":7,"openid":null}]}"#,
            r#"{"sessionlist":[{"createtime":7,"openid":"a\u001b[2J"}]}"#,
            r#"{"sessionlist":[{"openid":"a"}]}"#,
            r#"{"sessionlist":[{"createtime":"soon","openid":"a"}]}"#,
            r#"{"sessionlist":[{"createtime":7.5,"openid":"a"}]}"#,
            r#"{"sessionlist":[{"createtime":99999999999999,"openid":"a"}]}"#,
            r#"{"sessionlist":[{"createtime":7,"openid":"a"}"#,
            r#"{"sessionlist":[]} {"sessionlist":[]}"#,
            r#"{"sessionlist":[],"sessionlist":[]}"#,
            r#"{"errcode":true}"#,
        ] {
            malformed(body.as_bytes());
        }
        malformed(b"{\"sessionlist\":[{\"createtime\":7,\"openid\":\"a\xff\"}]}");
        malformed(&[0; 100]);
    }

    #[test]
    fn no_error_quotes_the_answer() {
        let body = r#"{"sessionlist":[{"createtime":"oSECRETopenid","openid":"oSECRETopenid"}]}"#;
        let Err(WireError::Malformed(reason)) = read(body.as_bytes()) else { panic!("not malformed") };
        assert!(!reason.contains("oSECRET"), "{reason}");
    }

    #[test]
    fn token_answers_are_read() {
        let token = |body| {
            super::token(body).map(|token| (token.access_token.to_string(), token.expires_in.as_secs()))
        };
        assert_eq!(token(r#"{"access_token":"T","expires_in":7200}"#), Ok(("T".into(), 7200)));
        assert_eq!(token(r#"{"errcode":"0","access_token":"T","expires_in":"345"}"#), Ok(("T".into(), 345)));
        assert!(matches!(
            token(r#"{"errcode":40013,"errmsg":"invalid appid"}"#),
            Err(WireError::Refused { code: 40013, .. })
        ));
        for body in
            ["", "{}", r#"{"access_token":"","expires_in":7200}"#, r#"{"access_token":"T","expires_in":-1}"#]
        {
            assert!(matches!(token(body), Err(WireError::Malformed(_))), "{body}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_list_nothing(body in prop::collection::vec(any::<u8>(), 0..300)) {
            // Random bytes are never a well-formed list of sessions.
            prop_assert!(!matches!(read(&body), Ok(Some(_))));
            let _ = token(&text(&body));
        }

        #[test]
        fn a_cut_or_damaged_answer_never_lists_other_sessions(cut in 0..96usize, byte in any::<u8>()) {
            let body = br#"{"sessionlist":[{"createtime":123456789,"openid":"oA"},{"createtime":123456790,"openid":"oB"}]}"#;
            prop_assert!(!matches!(read(&body[..cut.min(body.len() - 1)]), Ok(Some(_))));
            let mut damaged = body.to_vec();
            damaged[cut.min(body.len() - 1)] = byte;
            let _ = read(&damaged);
        }
    }
}
