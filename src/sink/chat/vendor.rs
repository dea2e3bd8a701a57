//! What the vendors of group robots differ in, in one table.
//!
//! All but Slack answer 200 whatever happened, with a code in the body: a message counts as delivered only after the code of
//! success. An answer that the table does not know is a failure, and the message is sent again.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use reqwest::{StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::Sha256;

/// Whose robot it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "these are names")]
pub enum Vendor {
    WeCom,
    DingTalk,
    Feishu,
    Slack,
}

/// What a vendor documents. Its limits are those of one robot.
struct Rules {
    name: &'static str,
    /// The longest text, in bytes. Those of DingTalk and Feishu (20 kB for a request) and of Slack (40,000 characters) are longer than
    /// anybody reads in a chat.
    max_text_bytes: usize,
    /// The time between two messages, a little longer than the limit: other programs and `kfwatch sinks test` use the robot too.
    interval: Duration,
    signature: Signature,
    codes: Codes,
}

/// Where the signature of a request is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signature {
    None,
    /// HMAC-SHA256 with the secret as key, over the time in milliseconds, a newline and the secret.
    InQuery,
    /// HMAC-SHA256 of nothing, with the time in seconds, a newline and the secret as key.
    InBody,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The group has the message.
    Delivered,
    /// The robot must wait.
    RateLimited,
    /// The robot works, but the vendor does not accept this text.
    MessageRefused,
    /// Another attempt may succeed, at the latest after the remedy.
    Failed(Option<&'static str>),
}

/// How the vendor says what became of a message.
enum Codes {
    /// A number in the body, 0 for success, beside a text for people.
    InBody { code: &'static str, text: &'static str, meanings: &'static [(i64, Verdict)] },
    /// The status and, after success, the body `ok`.
    Status,
}

const URL: Verdict = Verdict::Failed(Some(
    "it knows no such robot; copy the robot's webhook address into the file of url_file (or the variable of url_env) again",
));
const ROBOT: Verdict = Verdict::Failed(Some(
    "enable the robot again, or add a new one to the group and use its webhook address",
));
const SIGNATURE: Verdict = Verdict::Failed(Some(
    "copy the robot's signing secret into the file of secret_file (or the variable of secret_env) again, and check this machine's clock",
));
const ADDRESS: Verdict =
    Verdict::Failed(Some("add this machine's public address to the robot's IP list, or remove the list"));
const KEYWORD: Verdict =
    Verdict::Failed(Some("set the robot's keyword to \"kfwatch\": every message begins with it"));
const DINGTALK_SECURITY: Verdict = Verdict::Failed(Some(
    "compare the robot's security settings: the signing secret with secret_file (and check this machine's clock), the keyword with \
     \"kfwatch\", the IP list with this machine's public address",
));

const WECOM: Rules = Rules {
    name: "WeCom",
    max_text_bytes: 2048,
    interval: Duration::from_secs(4), // 20 a minute
    signature: Signature::None,
    codes: Codes::InBody {
        code: "errcode",
        text: "errmsg",
        meanings: &[
            (45009, Verdict::RateLimited),
            (93000, URL),
            (40058, Verdict::MessageRefused),
            (45002, Verdict::MessageRefused),
        ],
    },
};

const DINGTALK: Rules = Rules {
    name: "DingTalk",
    max_text_bytes: MAX_READABLE_BYTES,
    interval: Duration::from_secs(4), // 20 a minute, else nothing for ten minutes
    signature: Signature::InQuery,
    codes: Codes::InBody {
        code: "errcode",
        text: "errmsg",
        meanings: &[
            (130_101, Verdict::RateLimited),
            (410_100, Verdict::RateLimited),
            (310_000, DINGTALK_SECURITY),
            (300_001, URL),
            (300_005, URL),
            (400_101, URL),
            (400_106, URL),
            (400_013, ROBOT),
            (400_102, ROBOT),
            (430_101, Verdict::MessageRefused),
            (430_102, Verdict::MessageRefused),
            (430_104, Verdict::MessageRefused),
            (460_101, Verdict::MessageRefused),
        ],
    },
};

const FEISHU: Rules = Rules {
    name: "Feishu",
    max_text_bytes: MAX_READABLE_BYTES,
    interval: Duration::from_secs(1), // 100 a minute, 5 a second
    signature: Signature::InBody,
    codes: Codes::InBody {
        code: "code",
        text: "msg",
        meanings: &[
            (11232, Verdict::RateLimited),
            (19001, URL),
            (19021, SIGNATURE),
            (19022, ADDRESS),
            (19024, KEYWORD),
        ],
    },
};

const SLACK: Rules = Rules {
    name: "Slack",
    max_text_bytes: MAX_READABLE_BYTES,
    interval: Duration::from_millis(1500), // 1 a second
    signature: Signature::None,
    codes: Codes::Status,
};

/// Some fifty lines.
const MAX_READABLE_BYTES: usize = 8000;

/// A request that sends a message.
pub(super) struct RobotRequest {
    pub(super) url: Url,
    pub(super) body: String,
    /// Its signature, which is in one of both.
    pub(super) sign: Option<String>,
}

/// An answer, and its text for people.
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    /// The code or the status.
    pub(super) what: String,
    /// The vendor's text. It may contain anything.
    pub(super) text: String,
}

impl Vendor {
    fn rules(self) -> &'static Rules {
        match self {
            Self::WeCom => &WECOM,
            Self::DingTalk => &DINGTALK,
            Self::Feishu => &FEISHU,
            Self::Slack => &SLACK,
        }
    }

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        self.rules().name
    }

    pub(super) fn interval(self) -> Duration {
        self.rules().interval
    }

    pub(super) fn max_text_bytes(self) -> usize {
        self.rules().max_text_bytes
    }

    /// The vendor whose robots have addresses with this host.
    pub fn from_host(host: &str) -> Option<Self> {
        match host {
            "qyapi.weixin.qq.com" => Some(Self::WeCom),
            "oapi.dingtalk.com" => Some(Self::DingTalk),
            "open.feishu.cn" | "open.larksuite.com" => Some(Self::Feishu),
            "hooks.slack.com" => Some(Self::Slack),
            _ => None,
        }
    }

    /// Whether its robots can require signatures.
    pub fn signs(self) -> bool {
        self.rules().signature != Signature::None
    }

    /// Replaces what could notify people, or look like another text, in a name. A kf account always contains `@`, and nobody is
    /// notified by one within a word.
    pub(super) fn escaped(self, name: &str) -> String {
        match self {
            Self::Slack => name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"),
            Self::WeCom | Self::DingTalk | Self::Feishu => name.replace('<', "＜").replace('>', "＞"),
        }
    }

    /// The request that sends this text.
    pub(super) fn request(
        self,
        mut url: Url,
        text: &str,
        secret: Option<&SecretString>,
        now: Timestamp,
    ) -> RobotRequest {
        let mut body = match self {
            Self::WeCom => json!({ "msgtype": "text", "text": { "content": text } }),
            Self::DingTalk => {
                json!({ "msgtype": "text", "text": { "content": text }, "at": { "isAtAll": false } })
            }
            Self::Feishu => json!({ "msg_type": "text", "content": { "text": text } }),
            Self::Slack => json!({ "text": text, "mrkdwn": false, "unfurl_links": false }),
        };
        let secret = secret.map(|secret| secret.expose_secret());
        let sign = match (self.rules().signature, secret) {
            (Signature::InQuery, Some(secret)) => {
                let timestamp = now.as_millisecond().to_string();
                let sign = hmac(secret, &format!("{timestamp}\n{secret}"));
                url.query_pairs_mut().append_pair("timestamp", &timestamp).append_pair("sign", &sign);
                Some(sign)
            }
            (Signature::InBody, Some(secret)) => {
                let timestamp = now.as_second().to_string();
                let sign = hmac(&format!("{timestamp}\n{secret}"), "");
                body["sign"] = sign.as_str().into();
                body["timestamp"] = timestamp.into();
                Some(sign)
            }
            (Signature::None, _) | (_, None) => None,
        };
        RobotRequest { url, body: body.to_string(), sign }
    }

    /// What an answer says. `body` may be truncated.
    pub(super) fn answer(self, status: StatusCode, body: &[u8]) -> Answer {
        match self.rules().codes {
            Codes::Status => by_status(status, body),
            Codes::InBody { code, text, meanings } => {
                let json: Option<Value> = serde_json::from_slice(body).ok();
                let code = json.as_ref().and_then(|json| json.get(code)).and_then(Value::as_i64);
                let text = json.as_ref().and_then(|json| json.get(text)).and_then(Value::as_str);
                let verdict = match code {
                    Some(0) if status.is_success() => Verdict::Delivered,
                    Some(code) => {
                        let known = meanings.iter().find(|(known, _)| *known == code);
                        known.map_or(unknown(status), |(_, verdict)| *verdict)
                    }
                    None if status.is_success() => Verdict::Failed(Some(
                        "this is no answer of a robot; check the webhook address, and what else may answer there",
                    )),
                    None => unknown(status),
                };
                let what = code.map_or_else(|| status.to_string(), |code| format!("code {code}"));
                Answer { verdict, what, text: without_hint(text.unwrap_or_default()) }
            }
        }
    }
}

/// WeCom numbers its answers, as in `invalid webhook url, hint: [1795331551], from ip: …`. Without the number, an answer that repeats
/// is logged once.
fn without_hint(text: &str) -> String {
    let parts = text.split_once(", hint: [").and_then(|(what, rest)| Some((what, rest.split_once(']')?.1)));
    parts.map_or_else(|| text.to_owned(), |(what, rest)| what.to_owned() + rest)
}

fn unknown(status: StatusCode) -> Verdict {
    if status == StatusCode::TOO_MANY_REQUESTS { Verdict::RateLimited } else { Verdict::Failed(None) }
}

fn by_status(status: StatusCode, body: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(body).trim().to_owned();
    let verdict = match status {
        StatusCode::OK if text == "ok" => Verdict::Delivered,
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => Verdict::MessageRefused,
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE => URL,
        status => unknown(status),
    };
    Answer { verdict, what: status.to_string(), text }
}

/// HMAC-SHA256 in base64.
fn hmac(key: &str, message: &str) -> String {
    // An HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else { return String::new() };
    mac.update(message.as_bytes());
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_counts_as_delivered_only_with_code_of_success() {
        let check = |vendor: Vendor, status: u16, body: &str, expected: Verdict| {
            let answer = vendor.answer(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert_eq!(answer.verdict, expected, "{vendor:?} {status} {body}");
        };
        for (vendor, good) in [
            (Vendor::WeCom, "{\"errcode\":0,\"errmsg\":\"ok\"}"),
            (Vendor::DingTalk, "{\"errcode\":0}"),
            (Vendor::Feishu, "{\"code\":0,\"msg\":\"success\",\"StatusCode\":0}"),
            (Vendor::Slack, "ok"),
        ] {
            check(vendor, 200, good, Verdict::Delivered);
            check(vendor, 503, good, Verdict::Failed(None));
            check(vendor, 429, "", Verdict::RateLimited);
            for bad in ["", "{}", "[]", "{\"errcode\":\"0\",\"code\":null}", "<html>"] {
                let answer = vendor.answer(StatusCode::OK, bad.as_bytes());
                assert!(matches!(answer.verdict, Verdict::Failed(_)), "{vendor:?} {bad}");
            }
        }
        check(Vendor::WeCom, 200, "{\"errcode\":-1}", Verdict::Failed(None));
        check(Vendor::Feishu, 400, "{\"code\":19024}", KEYWORD);
        check(Vendor::Slack, 410, "channel_is_archived", URL);
    }

    #[test]
    fn number_of_answer_is_left_out() {
        let text = "invalid webhook url, hint: [17], from ip: 10.0.0.1, more info at https://x";
        assert_eq!(without_hint(text), "invalid webhook url, from ip: 10.0.0.1, more info at https://x");
        for text in ["", "ok", "x, hint: [1"] {
            assert_eq!(without_hint(text), text);
        }
    }
}
