//! Parses the answer of getsessionlist.

use std::{borrow::Cow, fmt};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::{
    error::{WireError, refusal},
    scalar::{JsonErrcode, JsonText, integer},
};
use crate::domain::{
    characters::is_invisible,
    snapshot::{ObservedSessions, Session},
};

/// A well-formed answer of getsessionlist.
#[derive(Debug, PartialEq, Eq)]
pub enum SessionList<'a> {
    /// These sessions are open.
    Listed(ObservedSessions<'a>),
    /// Success without a list: the key is absent, or null. WeChat does not document whether this means an empty list.
    Keyless,
}

/// Parses an answer of getsessionlist.
pub fn session_list(text: &str) -> Result<SessionList<'_>, WireError> {
    let envelope = match serde_json::from_str::<Envelope<'_>>(text) {
        Ok(envelope) => envelope,
        Err(error) => return Err(refusal(text).unwrap_or_else(|| WireError::malformed(text, &error))),
    };
    if envelope.errcode != 0 {
        return Err(WireError::refused(envelope.errcode, &envelope.errmsg));
    }
    match envelope.sessions {
        Some(sessions) => Ok(SessionList::Listed(ObservedSessions::new(sessions))),
        None if envelope.unknown_keys => {
            Err(WireError::Malformed("an object without sessionlist, but with other keys".into()))
        }
        None => Ok(SessionList::Keyless),
    }
}

struct Envelope<'a> {
    errcode: i64,
    errmsg: Cow<'a, str>,
    sessions: Option<Vec<Session<'a>>>,
    unknown_keys: bool,
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
            Envelope { errcode: 0, errmsg: Cow::Borrowed(""), sessions: None, unknown_keys: false };
        let mut has_list = false;
        while let Some(JsonText(key)) = map.next_key::<JsonText<'de>>()? {
            match &*key {
                "sessionlist" if has_list => return Err(serde::de::Error::duplicate_field("sessionlist")),
                "sessionlist" => {
                    has_list = true;
                    let entries = map.next_value::<Option<Vec<SessionEntry<'de>>>>()?;
                    envelope.sessions = entries
                        .map(|entries| entries.into_iter().map(|SessionEntry(session)| session).collect());
                }
                "errcode" => envelope.errcode = map.next_value::<JsonErrcode>()?.0,
                "errmsg" => {
                    envelope.errmsg = map.next_value::<Option<JsonText<'de>>>()?.unwrap_or_default().0;
                }
                _ => {
                    envelope.unknown_keys = true;
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(envelope)
    }
}

struct SessionEntry<'a>(Session<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for SessionEntry<'a> {
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
        if openid.is_empty() || openid.contains(|c: char| is_invisible(c) || c == char::REPLACEMENT_CHARACTER)
        {
            return Err(D::Error::custom("an unusable openid"));
        }
        if Timestamp::from_second(createtime).is_err() {
            return Err(D::Error::custom("a createtime that is out of range"));
        }
        Ok(Self(Session { openid, createtime }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wechat::wire::text;

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
    fn documented_answer_is_parsed() {
        lists(r#"{"sessionlist":[{"createtime":123456789,"openid":"OPENID"}]}"#, &[("OPENID", 123_456_789)]);
        lists(r#"{"sessionlist":[]}"#, &[]);
    }

    #[test]
    fn odd_but_harmless_answers_are_parsed() {
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
    fn control_characters_in_strings_are_accepted() {
        lists("{\"errmsg\":\"o\x01k\n\",\"sessionlist\":[{\"createtime\":7,\"openid\":\"a\"}]}", &[("a", 7)]);
        lists("{\"errmsg\":\"\\\"\x02\\/\",\"sessionlist\":[]}", &[]);
        refuses("{\"errcode\":65402,\"errmsg\":\"nick\x1fname \\\x03\"}", 65402);
        assert_eq!(
            read(b"{\"errcode\":1,\"errmsg\":\"\xff\xfe\"}"),
            Err(WireError::refused(1, "\u{fffd}\u{fffd}"))
        );
    }

    #[test]
    fn errcode_counts_whatever_else_the_answer_contains() {
        refuses(r#"{"errcode":65402,"errmsg":"x"}"#, 65402);
        refuses(r#"{"errcode":"65401","errmsg":"x"}"#, 65401);
        refuses(r#"{"sessionlist":[{"createtime":7,"openid":"a"}],"errcode":-1}"#, -1);
        refuses(r#"{"errcode":45009,"sessionlist":"none"}"#, 45009);
        refuses(r#"{"sessionlist":[{}],"errcode":45009}"#, 45009);
    }

    #[test]
    fn absent_list_differs_from_empty_list() {
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
            r#"{"sessionlist":[{"createtime":7,"openid":"a\u202e"}]}"#,
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

    proptest! {
        #[test]
        fn arbitrary_bytes_list_nothing(body in prop::collection::vec(any::<u8>(), 0..300)) {
            // Random bytes are never a well-formed list of sessions.
            prop_assert!(!matches!(read(&body), Ok(Some(_))));
        }

        #[test]
        fn truncated_answer_lists_nothing(cut in 0..96usize, byte in any::<u8>()) {
            let body = br#"{"sessionlist":[{"createtime":123456789,"openid":"oA"},{"createtime":123456790,"openid":"oB"}]}"#;
            prop_assert!(!matches!(read(&body[..cut.min(body.len() - 1)]), Ok(Some(_))));
            let mut damaged = body.to_vec();
            damaged[cut.min(body.len() - 1)] = byte;
            let _ = read(&damaged);
        }
    }
}
