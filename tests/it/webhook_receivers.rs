//! The receivers of deploy/webhook, run with python3 and node, accept what the daemon sends and nothing else. Without node its test
//! is skipped; tests/run.sh installs it.

use std::{
    io::Write,
    net::TcpStream,
    process::{Command, Stdio},
};

use crate::support::{
    delivery::{self, eventually_delivered, webhook},
    event_log::EventLog,
    process::{Home, Process, WeChat, quiet},
    receiver::KEYS,
    wait::{eventually, wall_ms},
};
use standardwebhooks::Webhook;

/// A receiver of deploy/webhook with the second of two keys.
struct Receiver {
    process: Process,
    port: u16,
}

impl Receiver {
    fn start(home: &Home, interpreter: &str, script: &str) -> Self {
        home.write("keys", &format!("{}\n", KEYS[1]));
        let mut command = Command::new(interpreter);
        command
            .arg(format!("{}/deploy/webhook/{script}", env!("CARGO_MANIFEST_DIR")))
            .args([home.path("keys").as_os_str(), "0".as_ref()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let process = Process::spawn(command);
        let port = eventually("its port", || {
            let (_, rest) = process
                .stderr()
                .split_once("http://127.0.0.1:")
                .map(|(a, b)| (a.to_owned(), b.to_owned()))?;
            rest.split_once('/')?.0.parse().ok()
        });
        Self { process, port }
    }

    fn handled(&self) -> Vec<String> {
        self.process.stdout().lines().map(str::to_owned).collect()
    }

    /// Posts an event with this id, and returns the status of the response.
    fn post(&self, id: &str, timestamp: i64, signature: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "POST /kf HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\nwebhook-id: {id}\r\n\
             webhook-timestamp: {timestamp}\r\nwebhook-signature: {signature}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let response = std::io::read_to_string(stream).unwrap();
        response.split(' ').nth(1).unwrap().to_owned()
    }
}

fn accepts_only_signed_events_once(interpreter: &str, script: &str) {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let home = Home::new().without_collectors();
    let receiver = Receiver::start(&home, interpreter, script);
    // Both keys sign, as during a rotation.
    home.write("both", &KEYS.join("\n"));
    let url = format!("http://127.0.0.1:{}/kf", receiver.port);
    let sink =
        webhook("crm", &url, "secret_file = \"both\"").replace(&format!("secret = \"{}\"\n", KEYS[0]), "");
    delivery::configure(&home, &wechat, &sink);
    let daemon = home.daemon();
    for (kf_account, openid) in [("kf1@shop", "oA"), ("kf2@shop", "oB"), ("kf1@shop", "oC")] {
        delivery::open(&wechat.control(), kf_account, openid);
    }
    eventually("three events", || (receiver.handled().len() == 3).then_some(()));
    eventually_delivered(&daemon, "crm");
    assert_eq!(home.run("events replay --sink crm --since 1h").code, Some(0));
    eventually("the repeats", || {
        (delivery::sink_metric(&daemon, "crm", "delivered_events_total") >= 6.0).then_some(())
    });
    EventLog::of(&home).assert_received("crm", receiver.handled().iter().map(String::as_str));
    assert_eq!(receiver.handled().len(), 3, "duplicates are dropped");

    let key = Webhook::new(KEYS[1]).unwrap();
    let now = wall_ms() / 1000;
    let signed = |id: &str, at: i64| key.sign(id, at, b"{}").unwrap();
    for (case, at, signature, expected) in [
        ("good", now, signed("good", now), "204"),
        ("slow-clock", now - 240, signed("slow-clock", now - 240), "204"),
        ("fast-clock", now + 240, signed("fast-clock", now + 240), "204"),
        ("too-old", now - 400, signed("too-old", now - 400), "401"),
        ("too-new", now + 400, signed("too-new", now + 400), "401"),
        ("other-id", now, signed("another", now), "401"),
        ("other-key", now, Webhook::new(KEYS[0]).unwrap().sign("other-key", now, b"{}").unwrap(), "401"),
        ("no-signature", now, String::new(), "401"),
    ] {
        assert_eq!(receiver.post(case, at, &signature, "{}"), expected, "{case}");
    }
    assert_eq!(receiver.post("changed", now, &signed("changed", now), "{ }"), "401");
    assert_eq!(receiver.post("good", now, &signed("good", now), "{}"), "204", "a duplicate is confirmed");
    assert_eq!(receiver.handled().len(), 6);
}

#[test]
fn python_receiver_accepts_only_signed_events_once() {
    accepts_only_signed_events_once("python3", "receiver.py");
}

#[test]
fn node_receiver_accepts_only_signed_events_once() {
    if Command::new("node").arg("--version").output().is_err() {
        println!("SKIPPED: there is no node to run deploy/webhook/receiver.mjs");
        return;
    }
    accepts_only_signed_events_once("node", "receiver.mjs");
}
