//! What a peer writes reaches the log, the terminal and the pages as short, visible text on one line, and stops nothing.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
};

use crate::support::{
    delivery::{eventually_logged, home, open, webhook},
    process::{Home, Process, WeChat, quiet},
    receiver::{Answer, Receiver},
    wait::eventually,
};

/// Clears a terminal, forges a line of the log, reverses text, and separates lines in some viewers.
const EVIL: &str = "evil\n2026-11-22T07:22:45Z ERROR forged\x1b[2J\u{9b}2J\u{202e}\u{2028}\x07end";

/// Longer than any line may be.
const MAX_LINE_BYTES: usize = 2_000;

/// Fails if a text of the program contains what only the peer can have written there.
#[track_caller]
fn assert_clean(place: &str, text: &str) {
    for (number, line) in text.lines().enumerate() {
        assert!(line.len() <= MAX_LINE_BYTES, "{place}: line {number} has {} bytes", line.len());
        assert!(!line.starts_with("2026-11-22T07:22:45Z ERROR forged"), "{place}: line {number} is forged");
        let odd = line.find(|c: char| c.is_control() || "\u{202e}\u{2028}".contains(c));
        assert_eq!(odd, None, "{place}: line {number}: {line:?}");
    }
}

/// The lines of a page are of any length.
#[track_caller]
fn assert_page_clean(page: &str) {
    assert!(!page.contains(&"x".repeat(MAX_LINE_BYTES)), "a peer's text is too long");
    let odd = page.find(|c: char| c.is_control() && c != '\n' || "\u{202e}\u{2028}".contains(c));
    assert_eq!(odd, None, "{page:?}");
}

/// Evil text of a megabyte.
fn evil_megabyte() -> String {
    EVIL.to_owned() + &"x".repeat(1 << 20)
}

/// Starts a server that answers each connection with `serve`. It ends with the test's process.
fn serve(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A WeChat whose body for each request path is whatever `answer` returns.
fn wechat_that_answers(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    serve(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some((path, length)) = read_head(&mut reader) {
            let body = answer(&path);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let sent =
                reader.read_exact(&mut vec![0; length]).and_then(|()| stream.write_all(head.as_bytes()));
            if sent.and_then(|()| stream.write_all(&body)).is_err() {
                break;
            }
        }
    })
}

/// The path of a request, and the length of its body.
fn read_head(reader: &mut impl BufRead) -> Option<(String, usize)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let path = head.split(' ').nth(1)?.to_owned();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    Some((path, length.unwrap_or(0)))
}

/// A home that watches one kf account of this WeChat, with a token in a file. `more` is appended to its configuration.
fn home_of(wechat: SocketAddr, more: &str) -> Home {
    let home = Home::new();
    home.write("token", "88_token");
    home.write(
        "config.toml",
        &format!(
            "[web]\nlisten = \"127.0.0.1:0\"\n[api]\nbase_url = \"http://{wechat}\"\n\
             [poll]\nschedule = \"* * * * * *\"\n{more}\n\
             [[official_accounts]]\nname = \"shop\"\nappid = \"wx0123456789abcdef\"\nkf_accounts = [\"kf1@shop\"]\n\
             [official_accounts.token]\nsource = \"file\"\npath = \"token\"\n"
        ),
    );
    home
}

#[test]
fn errmsg_cannot_forge_or_flood_the_log() {
    let body = serde_json::json!({"errcode": 48_001, "errmsg": evil_megabyte()}).to_string();
    let wechat = wechat_that_answers(move |_| body.clone().into_bytes());
    let home = home_of(wechat, "");
    let polled = home.run("poll");
    assert_clean("kfwatch poll", &polled.stdout);
    assert!(polled.stdout.contains("errcode 48001: evil"), "{polled:?}");
    let daemon = home.daemon();
    eventually_logged(&daemon, "errcode 48001: evil");
    assert_page_clean(&daemon.get("/").text());
    assert_clean("the log", &daemon.terminate().stderr);
}

/// How a fake NATS server misbehaves.
enum Nats {
    /// Its first words.
    Greeting(String),
    /// The answer to a login.
    Login(String),
    /// The answer to a published event, outside of an acknowledgement.
    Error(String),
    /// The acknowledgement of a published event.
    Acknowledgement(String),
}

const INFO: &str = "INFO {\"server_id\":\"x\",\"server_name\":\"x\",\"version\":\"2.10.0\",\"go\":\"go1\",\
    \"host\":\"127.0.0.1\",\"port\":4222,\"headers\":true,\"max_payload\":1048576,\"proto\":1,\"jetstream\":true}\r\n";

impl Nats {
    /// Serves a connection until it breaks.
    fn serve(&self, stream: &TcpStream) -> Option<()> {
        let mut writer = stream;
        let mut reader = BufReader::new(stream);
        let mut sid = String::new();
        let greeting = if let Self::Greeting(greeting) = self { greeting } else { INFO };
        writer.write_all(greeting.as_bytes()).ok()?;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match (words[..].first()?, self) {
                (&"CONNECT", Self::Login(answer)) => writer.write_all(answer.as_bytes()).ok()?,
                (&"PING", _) => writer.write_all(b"PONG\r\n").ok()?,
                (&"SUB", _) => sid = (*words.last()?).to_owned(),
                (&"HPUB", _) => {
                    let length: usize = words.last()?.parse().ok()?;
                    reader.read_exact(&mut vec![0; length + 2]).ok()?;
                    let reply = words.get(2)?;
                    match self {
                        Self::Acknowledgement(json) => {
                            let answer = format!("MSG {reply} {sid} {}\r\n{json}\r\n", json.len());
                            writer.write_all(answer.as_bytes()).ok()?;
                        }
                        Self::Error(answer) => writer.write_all(answer.as_bytes()).ok()?,
                        Self::Greeting(_) | Self::Login(_) => {}
                    }
                }
                _ => {}
            }
        }
    }

    /// Runs a daemon that publishes to this server, until the log contains each of `expected`.
    fn check(self, expected: &[&str]) {
        let server = serve(move |stream| {
            self.serve(&stream);
        });
        let wechat = WeChat::play(quiet(&[("north", 1)]));
        let bus = format!(
            "[[sinks]]\nname = \"bus\"\ntype = \"nats\"\nurl = \"nats://{server}\"\ntimeout = \"2s\"\n"
        );
        let home = home(&wechat, &bus);
        let mut daemon = home.daemon();
        open(&wechat.control(), "kf1@north", "oA");
        for text in expected {
            eventually_logged(&daemon, text);
        }
        assert_shown_clean(&home, &daemon);
        assert!(daemon.is_running());
        assert_clean("the log", &daemon.terminate().stderr);
    }
}

/// Fails unless the commands and the page show the last failure of a sink in clean text.
fn assert_shown_clean(home: &Home, daemon: &Process) {
    let sinks = eventually("a failure in kfwatch sinks", || {
        let shown = home.run("sinks").stdout;
        shown.contains("last failure").then_some(shown)
    });
    assert_clean("kfwatch sinks", &sinks);
    let page = daemon.get("/").text();
    assert!(page.contains("Last failure"), "{page}");
    assert_page_clean(&page);
}

#[test]
fn nats_greeting_cannot_forge_or_flood_the_log() {
    Nats::Greeting(format!("-ERR '{}'\r\n", evil_megabyte())).check(&["Delivery failed", "evil"]);
    Nats::Greeting(format!("{}\r\n", evil_megabyte())).check(&["Delivery failed", "evil"]);
}

#[test]
fn nats_login_refusal_cannot_forge_or_flood_the_log() {
    Nats::Login(format!("-ERR '{}'\r\n", evil_megabyte())).check(&["Delivery failed", "evil"]);
}

#[test]
fn nats_error_cannot_forge_or_flood_the_log() {
    Nats::Error(format!("-ERR '{}'\r\n", evil_megabyte())).check(&["Delivery failed", "evil"]);
}

#[test]
fn nats_acknowledgement_cannot_forge_or_flood_the_log() {
    let error = serde_json::json!({"code": 503, "err_code": 10_077, "description": evil_megabyte()});
    let acknowledgement = serde_json::json!({"type": "x", "error": error, "stream": EVIL}).to_string();
    Nats::Acknowledgement(acknowledgement).check(&["the stream does not take it: evil"]);
    Nats::Acknowledgement(EVIL.to_owned()).check(&["the server's response cannot be understood"]);
}

/// The library panics on this line.
#[test]
fn nats_error_without_text_stops_nothing() {
    Nats::Greeting("-ERR\r\n".to_owned()).check(&["the response cannot be understood"]);
    Nats::Login("-ERR\r\n".to_owned()).check(&["the response cannot be understood"]);
    Nats::Error("-ERR\r\n".to_owned()).check(&["Delivery failed"]);
}

#[test]
fn webhook_response_is_clean_in_dead_letters() {
    let receiver = Receiver::start();
    receiver.answer(|_| Answer::Status(422, String::new(), evil_megabyte()));
    let wechat = WeChat::play(quiet(&[("north", 1)]));
    let home = home(&wechat, &webhook("crm", &receiver.url("kf"), ""));
    let daemon = home.daemon();
    open(&wechat.control(), "kf1@north", "oA");
    eventually_logged(&daemon, "Event stored as a dead letter");
    let dead = home.run("events dead --sink crm");
    assert!(dead.stdout.contains("evil"), "{dead:?}");
    assert_clean("kfwatch events dead", &dead.stdout);
    assert_clean("the log", &daemon.terminate().stderr);
}

/// In GBK the second byte of some characters is that of a backslash, which then seems to escape the quote.
#[test]
fn gbk_nickname_costs_only_the_nickname() {
    let wechat = wechat_that_answers(|path| {
        let nickname = b"\xd0\xa1\x8e\x5c";
        if path.starts_with("/customservice/kfsession/getsessionlist") {
            let session = br#"{"sessionlist":[{"createtime":1795331551,"openid":"oA","kf_nick":""#;
            return [&session[..], nickname, br#""}]}"#].concat();
        }
        if path.starts_with("/cgi-bin/customservice/getkflist") {
            let listed = br#"{"kf_list":[{"kf_account":"kf1@shop","kf_nick":""#;
            return [&listed[..], nickname, br#"","kf_wx":"wx1"}]}"#].concat();
        }
        br#"{"errcode":48001,"errmsg":"no"}"#.to_vec()
    });
    let home = home_of(wechat, "[collectors]\nonline = \"off\"\nwaiting = \"off\"\nquota = \"off\"\n");
    let polled = home.run("poll --format json");
    assert_eq!(polled.code, Some(0), "{polled:?}");
    assert!(polled.stdout.contains("\"sessions\":1"), "{polled:?}");
    let checked = home.run("check --online --format json");
    assert!(checked.stdout.contains("\"bound\":true"), "{checked:?}");
    assert!(checked.stdout.contains('\u{fffd}'), "{checked:?}");
}
