//! Secrets appear nowhere: not in logs at level trace, errors, pages, metrics, redirects or the process title.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
};

use crate::support::{
    process::{Home, Process, WeChat, appid, quiet, secret},
    wait::eventually,
};
use kfwatch::simulator::{ApiCall, Fault, FaultRule, KfState};

/// Names modules as well, because a filter for a module overrides the filter that silences its crate.
pub(crate) const LOUDEST: &str = "trace,hyper=trace,hyper::proto=trace,hyper_util=trace,hyper_util::client=trace,reqwest=trace,\
    reqwest::connect=trace,reqwest::async_impl=trace,rustls=trace,tower_http=trace";

/// The customer of the sessions.
const OPENID: &str = "oDF3iY9P32sK_5GgYiRkjsabcdef";

/// The server of a third party: answers every request with 404 and records its headers.
struct ThirdParty {
    address: SocketAddr,
    received: Arc<Mutex<String>>,
}

impl ThirdParty {
    fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::<Mutex<String>>::default();
        let record = Arc::clone(&received);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while let Some(Ok(line)) =
                    lines.next().filter(|line| line.as_ref().is_ok_and(|line| !line.is_empty()))
                {
                    record.lock().unwrap().push_str(&(line + "\n"));
                }
                let _ = stream
                    .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        Self { address, received }
    }
}

/// A fault of two calls of this endpoint.
fn failing(fault: Fault, endpoint: ApiCall) -> FaultRule {
    FaultRule { endpoint: Some(endpoint), times: Some(2), ..FaultRule::new(fault) }
}

/// Everything that can go wrong with a call of getsessionlist.
fn faults(third_party: SocketAddr) -> Vec<Fault> {
    vec![
        Fault::Errcode(-1),
        Fault::Errcode(40001),
        Fault::Errcode(40014),
        Fault::Errcode(47001),
        Fault::Errcode(99_999),
        Fault::ErrcodeAsText(65402),
        Fault::ExpireTokens,
        Fault::RevokeTokens,
        Fault::CompetingTokenFetch,
        Fault::HttpStatus(502),
        Fault::HttpStatus(414),
        Fault::Unavailable(1),
        Fault::Redirect(format!("http://{third_party}/elsewhere")),
        Fault::Html,
        Fault::EmptyBody,
        Fault::EmptyGbkBody,
        Fault::TruncatedBody,
        Fault::Close,
        Fault::Reset,
        Fault::Hang,
        Fault::OversizedBody,
        Fault::Garbage,
        Fault::InvalidUtf8,
        Fault::ByteOrderMark,
        Fault::ControlCharacters,
        Fault::ListOfWrongType,
        Fault::EntryWithoutOpenid,
        Fault::CreatetimeNoNumber,
    ]
}

fn assert_no_secret_in(place: &str, text: &str, secrets: &[String]) {
    for secret in secrets {
        if let Some(at) = text.find(secret.as_str()) {
            let line = text[..at].matches('\n').count();
            panic!("a secret is in {place}: {:?}", text.lines().nth(line));
        }
    }
    assert!(!text.contains("access_token="), "{place} has the URL of a request");
}

/// Requests the stable token from the simulator, which returns the same one until it expires.
fn token(wechat: &WeChat, index: usize) -> String {
    let body = format!(
        "{{\"grant_type\":\"client_credential\",\"appid\":\"{}\",\"secret\":\"{}\"}}",
        appid(index),
        secret(index)
    );
    let mut stream = std::net::TcpStream::connect(wechat.address()).unwrap();
    let head =
        format!("POST /cgi-bin/stable_token HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n", body.len());
    stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).unwrap();
    let answer = std::io::read_to_string(stream).unwrap();
    let token = answer.split("\"access_token\":\"").nth(1).unwrap().split('"').next().unwrap();
    token.to_owned()
}

/// Returns the command line and the name of the process, which every user of the machine can read.
fn title(process: &Process) -> String {
    let of = |file: &str| fs::read(format!("/proc/{}/{file}", process.id())).unwrap_or_default();
    String::from_utf8_lossy(&[of("cmdline"), of("comm")].concat()).into_owned()
}

#[test]
fn failures_log_no_secret_at_trace_level() {
    let third_party = ThirdParty::listen();
    let faults = faults(third_party.address);
    // An official account for each fault, so that no failure hides another.
    let names: Vec<(String, usize)> = (0..faults.len()).map(|index| (format!("shop{index}"), 1)).collect();
    let names: Vec<(&str, usize)> = names.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    let wechat = WeChat::play(quiet(&names));
    let control = wechat.control();
    for (index, fault) in faults.iter().enumerate() {
        control.open_session(&appid(index), &format!("kf1@shop{index}"), OPENID, None).unwrap();
        let rule = failing(fault.clone(), ApiCall::GetSessionList);
        control.inject(FaultRule { official_account: Some(appid(index)), ..rule });
    }
    let mut secrets: Vec<String> = (0..faults.len()).map(secret).collect();
    secrets.extend((0..faults.len()).map(|index| token(&wechat, index)));
    let home =
        Home::watching(&wechat, "").set("KFWATCH__LOG__LEVEL", LOUDEST).set("KFWATCH__API__TIMEOUT", "1s");
    let home = home.set("KFWATCH__API__CONNECT_TIMEOUT", "1s");
    let daemon = home.daemon();
    let polls = |index| control.polls_of(&appid(index), &format!("kf1@shop{index}")).unwrap();
    eventually("two polls of each account", || {
        (0..faults.len()).all(|index| polls(index) >= 2).then_some(())
    });
    eventually("the redirect", || daemon.stderr().contains("302").then_some(()));
    secrets.extend((0..faults.len()).map(|index| token(&wechat, index)));
    for path in ["/", "/metrics", "/-/ready", "/nowhere?access_token"] {
        assert_no_secret_in(path, &daemon.get(path).text(), &secrets);
    }
    assert_no_secret_in("the process title", &title(&daemon), &secrets);
    let metrics = daemon.get("/metrics").text();
    assert!(!metrics.contains(OPENID), "openids are no labels");
    daemon.signal("TERM");
    let ended = daemon.ended();
    assert!(ended.stderr.contains("TRACE") || ended.stderr.contains("DEBUG"), "the log level is trace");
    assert_no_secret_in("standard error", &ended.stderr, &secrets);
    assert_no_secret_in("standard output", &ended.stdout, &secrets);
    assert_eq!(*third_party.received.lock().unwrap(), "", "redirects are not followed");
}

#[test]
fn refused_tokens_log_no_secret() {
    let third_party = ThirdParty::listen();
    let faults = [
        Fault::Errcode(40001),
        Fault::Errcode(40125),
        Fault::Errcode(40013),
        Fault::Errcode(40164),
        Fault::HttpStatus(500),
        Fault::Redirect(format!("http://{}/elsewhere", third_party.address)),
        Fault::Html,
        Fault::TruncatedBody,
        Fault::Reset,
        Fault::Hang,
        Fault::Garbage,
    ];
    for source in ["stable", "classic"] {
        let names: Vec<(String, usize)> =
            (0..faults.len()).map(|index| (format!("shop{index}"), 1)).collect();
        let names: Vec<(&str, usize)> = names.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        let wechat = WeChat::play(quiet(&names));
        let endpoint = if source == "stable" { ApiCall::StableToken } else { ApiCall::Token };
        for (index, fault) in faults.iter().enumerate() {
            let rule = failing(fault.clone(), endpoint);
            wechat.control().inject(FaultRule { official_account: Some(appid(index)), ..rule });
        }
        let secrets: Vec<String> = (0..faults.len()).map(secret).collect();
        let home = Home::watching(&wechat, "")
            .set("KFWATCH__LOG__LEVEL", LOUDEST)
            .set("KFWATCH__API__TIMEOUT", "1s")
            .set("KFWATCH__API__CONNECT_TIMEOUT", "1s");
        let text = fs::read_to_string(home.path("config.toml")).unwrap();
        home.write("config.toml", &text.replace("source = \"stable\"", &format!("source = \"{source}\"")));
        let daemon = home.daemon();
        let failures = |index| {
            let name = format!("kfwatch_token_refresh_failures_total{{official_account=\"shop{index}\"}}");
            daemon.metric(&name).unwrap_or(0.0) > 0.0
        };
        eventually("a failure of each", || (0..faults.len()).all(failures).then_some(()));
        assert_no_secret_in("the status page", &daemon.get("/").text(), &secrets);
        daemon.signal("TERM");
        assert_no_secret_in("standard error", &daemon.ended().stderr, &secrets);
        let polled = home.run("poll");
        assert_no_secret_in("the output of poll", &(polled.stdout + &polled.stderr), &secrets);
        let checked = home.run("check");
        assert_no_secret_in("the output of check", &(checked.stdout + &checked.stderr), &secrets);
    }
    assert_eq!(*third_party.received.lock().unwrap(), "", "redirects are not followed");
}

#[test]
fn configuration_mistakes_show_no_secret() {
    let hidden = "0123456789abcdef0123456789abcdef".to_owned();
    for token in [
        format!("secret = \"{hidden}"),
        format!("secret = {hidden}"),
        format!("secret = \"{hidden}\"\nsecret_env = \"X\""),
        format!("sceret = \"{hidden}\""),
        format!("secret_file = \"{hidden}\"\nsecret = \"{hidden}\""),
        format!("secret = \"{hidden}\\n{hidden}\""),
    ] {
        let home = Home::new();
        home.write(
            "config.toml",
            &format!(
                "[[official_accounts]]\nname = \"shop\"\nappid = \"wx0000000000000000\"\nkf_accounts = [\"kf1@shop\"]\n\
                 [official_accounts.token]\n{token}\n"
            ),
        );
        for command in ["run", "check", "poll", "events"] {
            let ended = home.run(command);
            // Commands on the store accept mistakes elsewhere.
            assert!(ended.code == Some(78) || command == "events", "{command}: {token}");
            assert_no_secret_in(command, &(ended.stdout + &ended.stderr), std::slice::from_ref(&hidden));
        }
    }
}

#[test]
fn openids_are_not_logged_at_any_level() {
    let wechat = WeChat::play(quiet(&[("shop", 2)]));
    let control = wechat.control();
    control.open_session(&appid(0), "kf1@shop", OPENID, None).unwrap();
    let home = Home::watching(&wechat, "").set("KFWATCH__LOG__LEVEL", LOUDEST);
    let daemon = home.daemon();
    eventually("the start", || daemon.stdout().contains(OPENID).then_some(()));
    for fault in
        [Fault::EntryWithoutOpenid, Fault::CreatetimeNoNumber, Fault::TruncatedBody, Fault::InvalidUtf8]
    {
        let before = control.polls_of(&appid(0), "kf1@shop").unwrap();
        control.inject(FaultRule { times: Some(1), ..FaultRule::new(fault) });
        eventually("another poll", || {
            (control.polls_of(&appid(0), "kf1@shop").unwrap() > before).then_some(())
        });
    }
    control.close_session(&appid(0), "kf1@shop", OPENID).unwrap();
    control.set_kf_state(&appid(0), "kf2@shop", KfState::Unbound).unwrap();
    eventually("the end", || daemon.stdout().contains("kf.session.ended").then_some(()));
    assert!(!daemon.get("/metrics").text().contains(OPENID));
    daemon.signal("TERM");
    let ended = daemon.ended();
    assert!(ended.stderr.contains("TRACE"), "the log level is trace");
    assert!(!ended.stderr.contains(OPENID), "{}", ended.stderr);
}
