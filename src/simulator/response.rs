//! A response before it is sent, the error messages of WeChat, and the responses that faults produce.

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue, LOCATION, RETRY_AFTER};

use super::fault::Fault;

/// White space before an oversized body.
const OVERSIZED_BODY_BYTES: usize = 10 * 1024 * 1024;

const JSON: HeaderValue = HeaderValue::from_static("application/json; encoding=utf-8");
const TEXT_PLAIN: HeaderValue = HeaderValue::from_static("text/plain");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const HTML_GBK: HeaderValue = HeaderValue::from_static("text/html; charset=gbk");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

#[derive(Debug)]
pub(super) struct SimulatedResponse {
    pub(super) status: StatusCode,
    pub(super) content_type: HeaderValue,
    pub(super) extra_header: Option<(HeaderName, HeaderValue)>,
    pub(super) body: Vec<u8>,
}

impl SimulatedResponse {
    pub(super) fn json(body: Vec<u8>) -> Self {
        SimulatedResponse { status: StatusCode::OK, content_type: JSON, extra_header: None, body }
    }

    /// Returns HTTP status 200 with an errcode, as WeChat refuses a request.
    pub(super) fn error(errcode: i64, now_ms: i64) -> Self {
        let message = error_message(errcode, now_ms);
        SimulatedResponse::json(format!(r#"{{"errcode":{errcode},"errmsg":"{message}"}}"#).into_bytes())
    }

    pub(super) fn text_plain(self) -> Self {
        SimulatedResponse { content_type: TEXT_PLAIN, ..self }
    }

    pub(super) fn html(status: StatusCode) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        let page = format!(
            "<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
             <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
        );
        SimulatedResponse { status, content_type: HTML, extra_header: None, body: page.into_bytes() }
    }

    pub(super) fn not_found() -> Self {
        SimulatedResponse::html(StatusCode::NOT_FOUND)
    }

    /// Applies a fault that changes an otherwise correct response.
    pub(super) fn altered_by(self, fault: &Fault) -> Self {
        let body = self.body;
        let body = match fault {
            Fault::OversizedBody => [vec![b' '; OVERSIZED_BODY_BYTES], body].concat(),
            Fault::ByteOrderMark => [b"\xef\xbb\xbf".as_slice(), &body].concat(),
            Fault::InvalidUtf8 => with_note(&body, b"\xff\xfe\xc3"),
            Fault::ControlCharacters => with_note(&body, b"a\x01b\tc\nd"),
            _ => body,
        };
        let response = SimulatedResponse { body, ..self };
        if *fault == Fault::TextPlain { response.text_plain() } else { response }
    }

    fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        SimulatedResponse { extra_header: Some((name, value)), ..self }
    }
}

/// Returns the response that replaces the correct one. None if the fault needs the correct one.
pub(super) fn fault_response(fault: &Fault, now_ms: i64) -> Option<SimulatedResponse> {
    let response = match fault {
        Fault::Errcode(0) => SimulatedResponse::json(br#"{"errcode":0,"errmsg":"ok"}"#.to_vec()),
        Fault::Errcode(errcode) => SimulatedResponse::error(*errcode, now_ms),
        Fault::ErrcodeAsText(errcode) => {
            let message = error_message(*errcode, now_ms);
            SimulatedResponse::json(format!(r#"{{"errcode":"{errcode}","errmsg":"{message}"}}"#).into_bytes())
        }
        Fault::HttpStatus(status) => {
            SimulatedResponse::html(StatusCode::from_u16(*status).unwrap_or_default())
        }
        Fault::Unavailable(seconds) => SimulatedResponse::html(StatusCode::SERVICE_UNAVAILABLE)
            .with_header(RETRY_AFTER, HeaderValue::from(*seconds)),
        Fault::Redirect(location) => {
            let location = HeaderValue::from_str(location).unwrap_or(HeaderValue::from_static("/"));
            SimulatedResponse::html(StatusCode::FOUND).with_header(LOCATION, location)
        }
        Fault::Html => SimulatedResponse::html(StatusCode::OK),
        Fault::EmptyBody | Fault::Close | Fault::Reset | Fault::Hang => SimulatedResponse::json(Vec::new()),
        Fault::EmptyGbkBody => {
            SimulatedResponse { content_type: HTML_GBK, ..SimulatedResponse::json(Vec::new()) }
        }
        Fault::Garbage => {
            let body = (0..=u8::MAX).map(|byte| byte.wrapping_mul(167).wrapping_add(13)).collect();
            SimulatedResponse { content_type: OCTETS, ..SimulatedResponse::json(body) }
        }
        _ => return None,
    };
    Some(response)
}

/// Inserts a string as the first member of a JSON object.
fn with_note(object: &[u8], note: &[u8]) -> Vec<u8> {
    let members = object.strip_prefix(b"{").unwrap_or(object);
    let comma: &[u8] = if members == b"}" { b"" } else { b"," };
    [b"{\"note\":\"", note, b"\"", comma, members].concat()
}

/// Returns the errmsg of an errcode in WeChat's words, with hint and rid.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_is_inserted_into_any_object() {
        assert_eq!(with_note(b"{}", b"n"), br#"{"note":"n"}"#);
        assert_eq!(with_note(br#"{"a":1}"#, b"n"), br#"{"note":"n","a":1}"#);
    }
}
