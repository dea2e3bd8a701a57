//! Group robots as their vendors document them, for chat sinks: a [`Receiver`] that checks the address, the signature, the size of
//! the text and how many messages come in a minute, and answers 200 with an error code as each vendor does. It shares no code with
//! kfwatch.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use super::{
    process::Home,
    receiver::{Answer, Delivery, Receiver},
    wait::eventually,
};

/// The key in every robot's address, and the secret that it signs with.
pub(crate) const KEY: &str = "693axxx6-7aoc-4bc4-97a0-0ec2sifa5aaa";
pub(crate) const SECRET: &str = "SEC0123456789abcdef0123456789abcdef";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vendor {
    WeCom,
    DingTalk,
    Feishu,
    Slack,
}

impl Vendor {
    pub(crate) const ALL: [Self; 4] = [Self::WeCom, Self::DingTalk, Self::Feishu, Self::Slack];

    /// The value of the key `vendor`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::WeCom => "wecom",
            Self::DingTalk => "dingtalk",
            Self::Feishu => "feishu",
            Self::Slack => "slack",
        }
    }

    fn path(self) -> String {
        match self {
            Self::WeCom => format!("cgi-bin/webhook/send?key={KEY}"),
            Self::DingTalk => format!("robot/send?access_token={KEY}"),
            Self::Feishu => format!("open-apis/bot/v2/hook/{KEY}"),
            Self::Slack => format!("services/T00000000/B00000000/{KEY}"),
        }
    }

    pub(crate) fn signs(self) -> bool {
        matches!(self, Self::DingTalk | Self::Feishu)
    }

    fn success(self) -> Answer {
        match self {
            Self::WeCom | Self::DingTalk => ok(r#"{"errcode":0,"errmsg":"ok"}"#),
            Self::Feishu => {
                ok(r#"{"StatusCode":0,"StatusMessage":"success","code":0,"data":{},"msg":"success"}"#)
            }
            Self::Slack => ok("ok"),
        }
    }

    /// The answer to a robot that sends too much.
    fn rate_limited(self) -> Answer {
        match self {
            Self::WeCom => ok(r#"{"errcode":45009,"errmsg":"api freq out of limit"}"#),
            Self::DingTalk => {
                ok(r#"{"errcode":130101,"errmsg":"send too fast, exceed 20 times per minute"}"#)
            }
            Self::Feishu => ok(r#"{"code":11232,"data":{},"msg":"frequency limited psm[lark]appID[1500]"}"#),
            Self::Slack => Answer::Status(429, "Retry-After: 1\r\n".to_owned(), "rate_limited".to_owned()),
        }
    }

    /// The same with a `Retry-After`.
    pub(crate) fn rate_limited_for(self, seconds: u32) -> Answer {
        match self.rate_limited() {
            Answer::Status(status, _, body) => {
                Answer::Status(status, format!("Retry-After: {seconds}\r\n"), body)
            }
            other => other,
        }
    }

    /// The answer to an unknown key.
    fn wrong_key(self) -> Answer {
        match self {
            Self::WeCom => {
                ok(r#"{"errcode":93000,"errmsg":"invalid webhook url, hint: [1], from ip: 10.0.0.1"}"#)
            }
            Self::DingTalk => ok(r#"{"errcode":300005,"errmsg":"token is not exist"}"#),
            Self::Feishu => {
                ok(r#"{"code":19001,"data":{},"msg":"param invalid: incoming webhook access token invalid"}"#)
            }
            Self::Slack => Answer::Status(404, String::new(), "no_service".to_owned()),
        }
    }

    fn wrong_signature(self) -> Answer {
        match self {
            Self::DingTalk => {
                ok(r#"{"errcode":310000,"errmsg":"sign not match, more: [https://ding-doc.dingtalk.com]"}"#)
            }
            _ => ok(
                r#"{"code":19021,"msg":"sign match fail or timestamp is not within one hour from current time"}"#,
            ),
        }
    }

    fn too_long(self) -> Answer {
        match self {
            Self::WeCom => ok(r#"{"errcode":40058,"errmsg":"content exceed max length 2048"}"#),
            Self::DingTalk => ok(r#"{"errcode":460101,"errmsg":"message too long, exceed 20000 bytes"}"#),
            Self::Feishu => ok(r#"{"code":9499,"msg":"Bad Request"}"#),
            Self::Slack => Answer::Status(400, String::new(), "msg_too_long".to_owned()),
        }
    }

    fn is_too_long(self, text: &str, body: &str) -> bool {
        match self {
            Self::WeCom => text.len() > 2048,
            Self::DingTalk | Self::Feishu => body.len() > 20_000,
            Self::Slack => text.chars().count() > 40_000,
        }
    }

    /// The answer to a text that the vendor does not accept.
    fn refused_text(self) -> Answer {
        match self {
            Self::WeCom => ok(r#"{"errcode":40058,"errmsg":"invalid content"}"#),
            Self::DingTalk => ok(r#"{"errcode":430104,"errmsg":"content is inappropriate"}"#),
            Self::Feishu => ok(r#"{"code":9499,"msg":"Bad Request"}"#),
            Self::Slack => Answer::Status(400, String::new(), "invalid_payload".to_owned()),
        }
    }

    /// The text of a message, if its form is as documented.
    fn text(self, body: &Value) -> Option<String> {
        let text = match self {
            Self::WeCom | Self::DingTalk if body["msgtype"] == "text" => &body["text"]["content"],
            Self::Feishu if body["msg_type"] == "text" => &body["content"]["text"],
            Self::Slack => &body["text"],
            _ => return None,
        };
        text.as_str().map(str::to_owned)
    }

    /// How many messages are too many in this time.
    fn limit(self) -> (usize, Duration) {
        match self {
            Self::WeCom | Self::DingTalk => (20, Duration::from_secs(60)),
            Self::Feishu => (100, Duration::from_secs(60)),
            Self::Slack => (1, Duration::from_secs(1)),
        }
    }

    /// Whether the signature is that of the secret, and not older than an hour.
    fn is_signed(self, query: &HashMap<String, String>, body: &Value) -> bool {
        let (timestamp, sign, seconds) = match self {
            Self::DingTalk => {
                let Some(timestamp) = query.get("timestamp") else { return false };
                (timestamp.clone(), query.get("sign").cloned(), timestamp.parse::<i64>().unwrap() / 1000)
            }
            _ => {
                let Some(timestamp) = body["timestamp"].as_str() else { return false };
                (timestamp.to_owned(), body["sign"].as_str().map(str::to_owned), timestamp.parse().unwrap())
            }
        };
        let signed = format!("{timestamp}\n{SECRET}");
        let expected = match self {
            Self::DingTalk => hmac(SECRET, &signed),
            _ => hmac(&signed, ""),
        };
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
        sign == Some(expected) && (now - seconds).abs() < 3600
    }
}

fn ok(body: &str) -> Answer {
    Answer::Status(200, "Content-Type: application/json\r\n".to_owned(), body.to_owned())
}

fn hmac(key: &str, message: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(message.as_bytes());
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}

#[derive(Default)]
struct Group {
    messages: Vec<String>,
    accepted_at: VecDeque<Instant>,
    /// Answers that are due before all others.
    trouble: VecDeque<Answer>,
    /// Messages with this text are refused.
    refused_text: Option<&'static str>,
    rate_limited: usize,
}

/// A robot in a group, which accepts what its vendor documents.
pub(crate) struct Robot {
    pub(crate) vendor: Vendor,
    pub(crate) receiver: Receiver,
    group: Arc<Mutex<Group>>,
}

impl Robot {
    pub(crate) fn start(vendor: Vendor) -> Self {
        let receiver = Receiver::start();
        let group = Arc::<Mutex<Group>>::default();
        let shared = Arc::clone(&group);
        receiver.answer(move |delivery| answer(vendor, delivery, &mut shared.lock().unwrap()));
        Self { vendor, receiver, group }
    }

    /// Its address, which contains the key.
    pub(crate) fn url(&self) -> String {
        self.receiver.url(&self.vendor.path())
    }

    /// Writes the files of a sink with the vendor's name, and returns its section of the configuration.
    pub(crate) fn sink(&self, home: &Home, more: &str) -> String {
        let name = self.vendor.word();
        home.write(&format!("{name}.url"), &(self.url() + "\n"));
        home.write(&format!("{name}.secret"), SECRET);
        let secret =
            if self.vendor.signs() { format!("secret_file = \"{name}.secret\"\n") } else { String::new() };
        format!(
            "[[sinks]]\nname = \"{name}\"\ntype = \"chat\"\nvendor = \"{name}\"\nurl_file = \"{name}.url\"\n{secret}{more}\n"
        )
    }

    /// Gives these answers to the next messages instead of accepting them.
    pub(crate) fn trouble(&self, answers: impl IntoIterator<Item = Answer>) {
        self.group.lock().unwrap().trouble.extend(answers);
    }

    /// Refuses messages with this text from now on.
    pub(crate) fn refuse(&self, text: Option<&'static str>) {
        self.group.lock().unwrap().refused_text = text;
    }

    /// Whether all trouble is over.
    pub(crate) fn is_calm(&self) -> bool {
        self.group.lock().unwrap().trouble.is_empty()
    }

    /// The accepted messages.
    pub(crate) fn messages(&self) -> Vec<String> {
        self.group.lock().unwrap().messages.clone()
    }

    /// How often it had to refuse a message because there were too many.
    pub(crate) fn rate_limited(&self) -> usize {
        self.group.lock().unwrap().rate_limited
    }

    /// Waits for a message with this text.
    pub(crate) fn eventually_reports(&self, text: &str) -> String {
        eventually(text, || self.messages().into_iter().find(|message| message.contains(text)))
    }
}

fn answer(vendor: Vendor, delivery: &Delivery, group: &mut Group) -> Answer {
    if let Some(trouble) = group.trouble.pop_front() {
        return trouble;
    }
    let path = format!("/{}", vendor.path());
    if !delivery.path.starts_with(&path) {
        return vendor.wrong_key();
    }
    assert!(delivery.header("content-type").starts_with("application/json"), "{delivery:?}");
    let query = delivery.path.split_once('?').map_or("", |(_, query)| query);
    let query: HashMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let body: Value = serde_json::from_str(&delivery.body).unwrap();
    if vendor.signs() && !vendor.is_signed(&query, &body) {
        return vendor.wrong_signature();
    }
    let text = vendor.text(&body).unwrap();
    if vendor.is_too_long(&text, &delivery.body) {
        return vendor.too_long();
    }
    let (most, time) = vendor.limit();
    let now = Instant::now();
    group.accepted_at.retain(|at| now.duration_since(*at) < time);
    if group.accepted_at.len() >= most {
        group.rate_limited += 1;
        return vendor.rate_limited();
    }
    group.accepted_at.push_back(now);
    if group.refused_text.is_some_and(|refused| text.contains(refused)) {
        return vendor.refused_text();
    }
    group.messages.push(text);
    vendor.success()
}
