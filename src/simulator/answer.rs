//! Rendering: what goes over the wire, byte by byte, into one buffer.

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue, LOCATION, RETRY_AFTER};

use super::attendance::Session;
use super::fault::Fault;
use super::scenario::Style;

/// White space in front of an oversized body.
const OVERSIZED_BODY_BYTES: usize = 10 * 1024 * 1024;
/// Bytes of an entry of sessionlist, about; a guess too low costs a reallocation.
const SESSION_ENTRY_BYTES: usize = 72;

const JSON: HeaderValue = HeaderValue::from_static("application/json; encoding=utf-8");
const TEXT_PLAIN: HeaderValue = HeaderValue::from_static("text/plain");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const HTML_GBK: HeaderValue = HeaderValue::from_static("text/html; charset=gbk");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A response before it is sent.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: HeaderValue,
    pub(super) extra_header: Option<(HeaderName, HeaderValue)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn json(body: Vec<u8>) -> Self {
        Answer { status: StatusCode::OK, content_type: JSON, extra_header: None, body }
    }

    /// HTTP status 200 and an errcode, with hint and rid behind its message.
    pub(super) fn error(errcode: i64, now_ms: i64) -> Self {
        let message = error_message(errcode, now_ms);
        Answer::json(format!(r#"{{"errcode":{errcode},"errmsg":"{message}"}}"#).into_bytes())
    }

    pub(super) fn text_plain(self) -> Self {
        Answer { content_type: TEXT_PLAIN, ..self }
    }

    pub(super) fn html(status: StatusCode) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        let page = format!(
            "<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
             <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
        );
        Answer { status, content_type: HTML, extra_header: None, body: page.into_bytes() }
    }

    pub(super) fn not_found() -> Self {
        Answer::html(StatusCode::NOT_FOUND)
    }

    fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        Answer { extra_header: Some((name, value)), ..self }
    }
}

/// The answer that stands in the right one's place; none if the fault leaves the right one to be made.
pub(super) fn instead_of_answer(fault: &Fault, now_ms: i64) -> Option<Answer> {
    let answer = match fault {
        Fault::Errcode(0) => Answer::json(br#"{"errcode":0,"errmsg":"ok"}"#.to_vec()),
        Fault::Errcode(errcode) => Answer::error(*errcode, now_ms),
        Fault::ErrcodeAsText(errcode) => {
            let message = error_message(*errcode, now_ms);
            Answer::json(format!(r#"{{"errcode":"{errcode}","errmsg":"{message}"}}"#).into_bytes())
        }
        Fault::HttpStatus(status) => Answer::html(StatusCode::from_u16(*status).unwrap_or_default()),
        Fault::Unavailable(seconds) => Answer::html(StatusCode::SERVICE_UNAVAILABLE)
            .with_header(RETRY_AFTER, HeaderValue::from(*seconds)),
        Fault::Redirect(location) => {
            let location = HeaderValue::from_str(location).unwrap_or(HeaderValue::from_static("/"));
            Answer::html(StatusCode::FOUND).with_header(LOCATION, location)
        }
        Fault::Html => Answer::html(StatusCode::OK),
        Fault::EmptyBody | Fault::Close | Fault::Reset | Fault::Hang => Answer::json(Vec::new()),
        Fault::EmptyGbkBody => Answer { content_type: HTML_GBK, ..Answer::json(Vec::new()) },
        Fault::Garbage => {
            let body = (0..=u8::MAX).map(|byte| byte.wrapping_mul(167).wrapping_add(13)).collect();
            Answer { content_type: OCTETS, ..Answer::json(body) }
        }
        _ => return None,
    };
    Some(answer)
}

/// The right answer as the fault leaves it.
pub(super) fn disfigured(answer: Answer, fault: &Fault) -> Answer {
    let body = answer.body;
    let body = match fault {
        Fault::OversizedBody => [vec![b' '; OVERSIZED_BODY_BYTES], body].concat(),
        Fault::ByteOrderMark => [b"\xef\xbb\xbf".as_slice(), &body].concat(),
        Fault::InvalidUtf8 => with_note(&body, b"\xff\xfe\xc3"),
        Fault::ControlCharacters => with_note(&body, b"a\x01b\tc\nd"),
        _ => body,
    };
    let answer = Answer { body, ..answer };
    if *fault == Fault::TextPlain { answer.text_plain() } else { answer }
}

/// The JSON object with one more string in front.
fn with_note(object: &[u8], note: &[u8]) -> Vec<u8> {
    let members = object.strip_prefix(b"{").unwrap_or(object);
    let comma: &[u8] = if members == b"}" { b"" } else { b"," };
    [b"{\"note\":\"", note, b"\"", comma, members].concat()
}

/// The message of an errcode, as WeChat words it, with its hint and rid.
fn error_message(errcode: i64, now_ms: i64) -> String {
    let message = match errcode {
        -1 => "system error",
        40001 => {
            "invalid credential, access_token is invalid or not latest, could get access_token by \
             getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r"
        }
        40002 => "invalid grant_type",
        40013 => "invalid appid",
        40014 => "invalid access_token",
        40097 => "invalid args",
        40125 => "invalid appsecret",
        40164 => "invalid ip 203.0.113.7 ipv6 ::ffff:203.0.113.7, not in whitelist",
        40243 => "invalid appsecret: appsecret is frozen",
        41001 => "access_token missing",
        41002 => "appid missing",
        41004 => "appsecret missing",
        41018 => "component_appid missing",
        42001 => "access_token expired",
        43001 => "require GET method",
        43002 => "require POST method",
        45009 => "reach max api daily quota limit",
        45011 => "api minute-quota reach limit, must slower, retry next minute",
        47001 => "data format error",
        48001 => "api unauthorized",
        50002 => "user limited",
        61003 => "component is not authorized by this account",
        61004 => "access clientip is not registered",
        61005 => "component ticket is expired",
        61006 => "component ticket is invalid",
        61011 => "invalid component",
        61023 => "refresh_token is invalid",
        65400 => "please enable new custom service, or wait for a while if you have enabled",
        65401 => "invalid custom service account",
        65402 => "kf account need to bind wechat user",
        76021 => "cgi_path not found, please check",
        _ => "unknown error",
    };
    let seconds = now_ms.div_euclid(1_000);
    let [hint, first, second] = [(); 3].map(|()| fastrand::u32(..));
    format!("{message} hint: [{hint:08x}{errcode:05}] rid: {seconds:08x}-{first:08x}-{second:08x}")
}

/// The answer of getsessionlist; the fault may spoil it.
pub(super) fn session_list<'a>(
    sessions: impl ExactSizeIterator<Item = &'a Session>,
    style: &Style,
    fault: Option<&Fault>,
) -> Vec<u8> {
    let mut body = Object::new(style, 64 + sessions.len() * SESSION_ENTRY_BYTES);
    let spoiled = fault.filter(|fault| fault.spoils_session_list());
    match spoiled {
        Some(Fault::ListAbsent) => return body.finish(),
        Some(Fault::ListNull) => body.raw("sessionlist", b"null"),
        Some(Fault::ListOfWrongType) => body.raw("sessionlist", br#"{"createtime":1,"openid":"o"}"#),
        None if sessions.len() == 0 && style.omit_empty_list => {}
        _ => {
            body.array("sessionlist", sessions, |entry, session| {
                if style.createtime_as_text {
                    entry.text("createtime", itoa::Buffer::new().format(session.createtime));
                } else {
                    entry.number("createtime", session.createtime);
                }
                entry.text("openid", &session.openid);
            });
            body.spoil_array(match spoiled {
                Some(Fault::EntryWithoutOpenid) => br#"{"createtime":1795331551}"#,
                Some(Fault::CreatetimeNoNumber) => br#"{"createtime":"soon","openid":"oNoNumber"}"#,
                _ => b"",
            });
        }
    }
    body.finish()
}

/// A JSON object being written.
#[derive(Debug)]
pub(super) struct Object<'a> {
    style: &'a Style,
    out: Vec<u8>,
}

impl<'a> Object<'a> {
    /// An object of the answer's own: with errcode 0 in front if the account's style is so.
    pub(super) fn new(style: &'a Style, capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity);
        out.push(b'{');
        let mut object = Object { style, out };
        if style.explicit_ok {
            object.number("errcode", 0);
            object.text("errmsg", "ok");
        }
        object
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        self.string(value);
    }

    pub(super) fn number(&mut self, key: &str, value: i64) {
        self.raw(key, itoa::Buffer::new().format(value).as_bytes());
    }

    pub(super) fn raw(&mut self, key: &str, json: &[u8]) {
        self.key(key);
        self.out.extend_from_slice(json);
    }

    /// An array of objects, each written by `entry`.
    pub(super) fn array<T>(
        &mut self,
        key: &str,
        items: impl IntoIterator<Item = T>,
        mut entry: impl FnMut(&mut Object<'a>, T),
    ) {
        self.key(key);
        self.out.push(b'[');
        for item in items {
            self.separate();
            self.out.push(b'{');
            entry(self, item);
            self.out.push(b'}');
        }
        self.out.push(b']');
    }

    /// An object as the value of a key.
    pub(super) fn object(&mut self, key: &str, members: impl FnOnce(&mut Object<'a>)) {
        self.key(key);
        self.out.push(b'{');
        members(self);
        self.out.push(b'}');
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.out.push(b'}');
        self.out
    }

    /// Adds raw JSON to the array just written.
    fn spoil_array(&mut self, entry: &[u8]) {
        if !entry.is_empty() {
            self.out.pop();
            self.separate();
            self.out.extend_from_slice(entry);
            self.out.push(b']');
        }
    }

    fn key(&mut self, key: &str) {
        self.separate();
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// A comma, unless an object or array has just been opened.
    fn separate(&mut self) {
        if !matches!(self.out.last(), Some(b'{' | b'[')) {
            self.out.push(b',');
        }
    }

    fn string(&mut self, value: &str) {
        self.out.push(b'"');
        let plain = |byte: u8| byte >= b' ' && !matches!(byte, b'"' | b'\\' | b'/');
        if value.bytes().all(plain) {
            self.out.extend_from_slice(value.as_bytes());
        } else {
            value.bytes().for_each(|byte| self.escaped(byte));
        }
        self.out.push(b'"');
    }

    fn escaped(&mut self, byte: u8) {
        match byte {
            b'"' | b'\\' => self.out.extend_from_slice(&[b'\\', byte]),
            b'/' if self.style.escaped_slashes => self.out.extend_from_slice(br"\/"),
            ..b' ' if self.style.raw_control_characters => self.out.push(byte),
            ..b' ' => self.out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => self.out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(style: &Style, members: impl FnOnce(&mut Object<'_>)) -> String {
        let mut object = Object::new(style, 0);
        members(&mut object);
        String::from_utf8(object.finish()).unwrap()
    }

    #[test]
    fn objects_and_arrays_are_separated_by_commas() {
        let text = rendered(&Style::default(), |object| {
            object.number("count", 2);
            object.array("list", [1, 2], |entry, number| {
                entry.number("a", number);
                entry.text("b", "x");
            });
            object.object("inner", |inner| inner.raw("c", b"null"));
        });
        assert_eq!(text, r#"{"count":2,"list":[{"a":1,"b":"x"},{"a":2,"b":"x"}],"inner":{"c":null}}"#);
    }

    #[test]
    fn strings_are_escaped() {
        let value = "a\"b\\c/d\u{1}\u{4f60}";
        let text = rendered(&Style::default(), |object| object.text("k", value));
        assert_eq!(text, "{\"k\":\"a\\\"b\\\\c/d\\u0001\u{4f60}\"}");
        let style = Style { escaped_slashes: true, explicit_ok: true, ..Style::default() };
        let text = rendered(&style, |object| object.text("k", "a/b"));
        assert_eq!(text, r#"{"errcode":0,"errmsg":"ok","k":"a\/b"}"#);
    }

    #[test]
    fn an_error_has_hint_and_rid() {
        let answer = Answer::error(65401, 0x6112_3150 * 1_000);
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["errcode"], 65401);
        let message = body["errmsg"].as_str().unwrap();
        assert!(message.starts_with("invalid custom service account hint: ["), "{message}");
        let rid = message.rsplit(" rid: ").next().unwrap();
        assert_eq!(rid.split('-').map(str::len).collect::<Vec<_>>(), [8, 8, 8]);
        assert!(rid.starts_with("61123150"));
    }

    #[test]
    fn a_note_can_be_added_to_any_object() {
        assert_eq!(with_note(b"{}", b"n"), br#"{"note":"n"}"#);
        assert_eq!(with_note(br#"{"a":1}"#, b"n"), br#"{"note":"n","a":1}"#);
    }
}
