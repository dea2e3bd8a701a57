//! The simulated WeChat API, as its clients see it: byte by byte over a plain connection.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not their helpers"
)]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use kfwatch::simulator::{
    Answered, ControlError, CustomerFlow, Endpoint, Fault, FaultRule, KfState, OnConnection, PollRecord,
    Scenario, Simulator, Spread, Style,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const APPID: &str = "wx0123456789abcdef";
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const KF1: &str = "kf1@test";
const PATIENCE: Duration = Duration::from_secs(10);

/// One official account with a bound, an unbound, an invited and an invalid kf account, and nobody there.
fn quiet() -> Scenario {
    let text = format!(
        r#"
        [[official_accounts]]
        name = "shop"
        appid = "{APPID}"
        secret = "{SECRET}"
        wechat_id = "test"
        kf_accounts = [
            {{ prefix = "kf1", nickname = "M/ing" }},
            {{ prefix = "kf2", state = "unbound" }},
            {{ prefix = "kf3", state = "unbound_waiting" }},
            {{ prefix = "kf4", state = "invalid" }},
        ]
        "#
    );
    Scenario::from_toml(&text).unwrap()
}

fn styled(style: Style) -> Scenario {
    let mut scenario = quiet();
    scenario.official_accounts[0].style = style;
    scenario
}

fn lively() -> Scenario {
    let secs = |mean, min, max| Spread {
        mean: Duration::from_secs(mean),
        min: Duration::from_secs(min),
        max: Duration::from_secs(max),
    };
    Scenario {
        seed: 5,
        customers: CustomerFlow {
            initial: 2,
            gap: Some(secs(10, 1, 40)),
            wait: secs(5, 1, 20),
            stay: Some(secs(30, 10, 90)),
            returning: 0.2,
        },
        ..quiet()
    }
}

async fn start(scenario: Scenario) -> Simulator {
    Simulator::start(scenario, SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap()
}

/// One connection, kept alive.
struct Client {
    stream: TcpStream,
    token: String,
}

#[derive(Debug)]
struct Response {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn errcode(&self) -> i64 {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()["errcode"].as_i64().unwrap_or(0)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Client {
    /// With a token from `stable_token`, which nothing else disturbs.
    async fn connect(simulator: &Simulator) -> Client {
        let mut client = Client::without_token(simulator).await;
        client.token = client.stable_token(false).await["access_token"].as_str().unwrap().to_owned();
        client
    }

    async fn without_token(simulator: &Simulator) -> Client {
        Client { stream: TcpStream::connect(simulator.address()).await.unwrap(), token: String::new() }
    }

    async fn stable_token(&mut self, force_refresh: bool) -> Value {
        let body = json!({"grant_type": "client_credential", "appid": APPID, "secret": SECRET,
                          "force_refresh": force_refresh});
        self.post("/cgi-bin/stable_token", &body.to_string()).await.json()
    }

    async fn classic_token(&mut self) -> Value {
        self.get(&token_path(APPID, SECRET)).await.json()
    }

    async fn poll(&mut self, kf_account: &str) -> Response {
        self.try_poll(kf_account).await.unwrap()
    }

    async fn try_poll(&mut self, kf_account: &str) -> io::Result<Response> {
        let path = poll_path(&self.token, kf_account);
        self.request("GET", &path, "").await
    }

    async fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, "").await.unwrap()
    }

    async fn post(&mut self, path: &str, body: &str) -> Response {
        self.request("POST", path, body).await.unwrap()
    }

    /// A GET of an endpoint that takes nothing but the token.
    async fn ask(&mut self, endpoint: Endpoint) -> Response {
        self.get(&format!("{}?access_token={}", endpoint.path(), self.token)).await
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: simulator\r\nContent-Length: {length}\r\n\r\n{body}");
        self.stream.write_all(request.as_bytes()).await
    }

    async fn request(&mut self, method: &str, path: &str, body: &str) -> io::Result<Response> {
        self.send(method, path, body).await?;
        tokio::time::timeout(PATIENCE, self.response()).await?
    }

    async fn response(&mut self) -> io::Result<Response> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let status = head[9..12].parse().unwrap();
        let mut response = Response { status, head, body: Vec::new() };
        let length: usize = response.header("content-length").unwrap().parse().unwrap();
        response.body.resize(length, 0);
        self.stream.read_exact(&mut response.body).await?;
        Ok(response)
    }
}

fn token_path(appid: &str, secret: &str) -> String {
    format!("/cgi-bin/token?grant_type=client_credential&appid={appid}&secret={secret}")
}

fn poll_path(token: &str, kf_account: &str) -> String {
    format!("/customservice/kfsession/getsessionlist?access_token={token}&kf_account={kf_account}")
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

async fn eventually_polled(simulator: &Simulator, polls: u64) {
    let control = simulator.control();
    eventually("a poll", || control.polls_of(APPID, KF1).unwrap() == polls).await;
}

#[tokio::test]
async fn a_session_is_listed_until_it_is_closed() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    assert_eq!(client.poll(KF1).await.body, br#"{"sessionlist":[]}"#);
    control.open_session(APPID, KF1, "oA", Some(1_795_331_551)).unwrap();
    let listed = client.poll("kf1%40test").await;
    assert_eq!(listed.body, br#"{"sessionlist":[{"createtime":1795331551,"openid":"oA"}]}"#);
    assert_eq!(listed.header("content-type"), Some("application/json; encoding=utf-8"));
    assert!(listed.header("date").is_some());
    control.close_session(APPID, KF1, "oA").unwrap();
    assert_eq!(client.poll(KF1).await.body, br#"{"sessionlist":[]}"#);
    assert_eq!(control.close_session(APPID, KF1, "oA"), Err(ControlError::NoSession("oA".to_owned())));
}

#[tokio::test]
async fn every_mistake_of_a_caller_has_its_errcode() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    let token = client.token.clone();
    let gets = [
        ("/cgi-bin/token?grant_type=password&appid=a&secret=b".to_owned(), 40002),
        ("/cgi-bin/token?grant_type=client_credential&secret=b".to_owned(), 41002),
        (format!("/cgi-bin/token?grant_type=client_credential&appid={APPID}"), 41004),
        (token_path("wx1", SECRET), 40013),
        (token_path(APPID, "wrong"), 40125),
        ("/cgi-bin/stable_token".to_owned(), 43002),
        (poll_path("", KF1), 41001),
        (poll_path("nonsense", KF1), 40001),
        (poll_path(&token, "kf2@test"), 65402),
        (poll_path(&token, "kf3@test"), 65402),
        (poll_path(&token, "kf4@test"), 65401),
        (poll_path(&token, "nobody@test"), 65401),
        (poll_path(&token, ""), 65401),
    ];
    for (path, errcode) in gets {
        assert_eq!(client.get(&path).await.errcode(), errcode, "{path}");
    }
    let stable =
        |secret| format!(r#"{{"grant_type":"client_credential","appid":"{APPID}","secret":"{secret}"}}"#);
    let posts = [
        (poll_path(&token, KF1), String::new(), 43001),
        ("/cgi-bin/stable_token".to_owned(), "no json".to_owned(), 47001),
        ("/cgi-bin/stable_token".to_owned(), "{}".to_owned(), 40002),
        ("/cgi-bin/stable_token".to_owned(), stable("wrong"), 40125),
        (
            format!("/cgi-bin/openapi/quota/get?access_token={token}"),
            r#"{"cgi_path":"/x"}"#.to_owned(),
            76021,
        ),
    ];
    for (path, body, errcode) in posts {
        assert_eq!(client.post(&path, &body).await.errcode(), errcode, "{path}");
    }
    let nowhere = client.get("/cgi-bin/nowhere").await;
    assert_eq!((nowhere.status, nowhere.header("content-type")), (404, Some("text/html; charset=utf-8")));
}

#[tokio::test]
async fn an_error_says_hint_and_rid() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    let error = client.poll("kf4@test").await.json();
    let message = error["errmsg"].as_str().unwrap();
    assert!(message.starts_with("invalid custom service account hint: ["), "{message}");
    assert!(message.contains("] rid: "), "{message}");
}

#[tokio::test]
async fn a_classic_token_lives_on_for_the_overlap_and_no_longer() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::without_token(&simulator).await;
    let issued = client.classic_token().await;
    assert_eq!(issued["expires_in"], 7200);
    client.token = issued["access_token"].as_str().unwrap().to_owned();
    control.meddle(APPID).unwrap();
    assert_eq!(client.poll(KF1).await.errcode(), 0);
    control.advance(Duration::from_secs(300));
    assert_eq!(client.poll(KF1).await.errcode(), 40001);
}

#[tokio::test]
async fn a_stable_token_is_untouched_by_classic_ones() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    for _ in 0..3 {
        client.classic_token().await;
    }
    simulator.control().advance(Duration::from_secs(1_000));
    assert_eq!(client.poll(KF1).await.errcode(), 0);
    let again = client.stable_token(false).await;
    assert_eq!(again["access_token"].as_str(), Some(&*client.token));
    let expires_in = again["expires_in"].as_i64().unwrap();
    assert!((6_190..=6_200).contains(&expires_in), "{expires_in}");
    assert_ne!(client.stable_token(true).await["access_token"].as_str(), Some(&*client.token));
}

#[tokio::test]
async fn expired_and_revoked_tokens_have_their_own_errcodes() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    control.expire_tokens(APPID).unwrap();
    assert_eq!(client.poll(KF1).await.errcode(), 42001);
    control.revoke_tokens(APPID).unwrap();
    assert_eq!(client.poll(KF1).await.errcode(), 40001);
    client.token = client.stable_token(false).await["access_token"].as_str().unwrap().to_owned();
    assert_eq!(client.poll(KF1).await.errcode(), 0);
    control.advance(Duration::from_secs(7_200));
    assert_eq!(client.poll(KF1).await.errcode(), 42001);
}

#[tokio::test]
async fn a_frozen_secret_and_a_refused_address_stop_token_calls_only() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    control.freeze_secret(APPID).unwrap();
    assert_eq!(client.classic_token().await["errcode"], 40243);
    control.unfreeze_secret(APPID).unwrap();
    control.refuse_address(APPID).unwrap();
    let refused = client.stable_token(false).await;
    assert_eq!(refused["errcode"], 40164);
    assert!(refused["errmsg"].as_str().unwrap().starts_with("invalid ip 203.0.113.7 "), "{refused}");
    assert_eq!(client.poll(KF1).await.errcode(), 0);
    control.allow_address(APPID).unwrap();
    assert!(client.stable_token(false).await["access_token"].is_string());
}

#[tokio::test]
async fn kf_accounts_can_be_bound_unbound_removed_and_added() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    control.set_kf_state(APPID, "kf2@test", KfState::Bound).unwrap();
    assert_eq!(client.poll("kf2@test").await.errcode(), 0);
    control.set_kf_state(APPID, KF1, KfState::UnboundExpired).unwrap();
    assert_eq!(client.poll(KF1).await.errcode(), 65402);
    control.set_kf_state(APPID, KF1, KfState::Invalid).unwrap();
    assert_eq!(client.poll(KF1).await.errcode(), 65401);
    control.add_kf_account(APPID, KF1).unwrap();
    assert_eq!(client.poll(KF1).await.errcode(), 0);
    control.add_kf_account(APPID, "new@test").unwrap();
    assert_eq!(client.poll("new@test").await.errcode(), 0);
}

#[tokio::test]
async fn the_kf_list_tells_bindings_and_invitations() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    let list = client.ask(Endpoint::GetKfList).await.json();
    let list = list["kf_list"].as_array().unwrap();
    assert_eq!(list.len(), 3, "the invalid account is not there");
    assert_eq!((&list[0]["kf_nick"], &list[0]["kf_wx"]), (&json!("M/ing"), &json!("agent_1001")));
    assert_eq!((list[1].get("kf_wx"), list[1].get("invite_status")), (None, None));
    assert_eq!(list[2]["invite_status"], "waiting");
    assert_eq!(list[2].get("kf_wx"), None);
}

#[tokio::test]
async fn customers_wait_before_an_agent_accepts_them() {
    let simulator = start(lively()).await;
    let mut client = Client::connect(&simulator).await;
    let mut waited = 0;
    for _ in 0..30 {
        simulator.control().advance(Duration::from_secs(5));
        let waiting = client.ask(Endpoint::GetWaitCase).await.json();
        let listed = waiting["waitcaselist"].as_array().unwrap();
        assert_eq!(waiting["count"], listed.len());
        waited += listed.len();
        let sessions = client.poll(KF1).await.json()["sessionlist"].as_array().unwrap().len();
        let online = client.ask(Endpoint::GetOnlineKfList).await.json();
        let accepted =
            online["kf_online_list"].as_array().unwrap().iter().find(|agent| agent["kf_account"] == KF1);
        assert_eq!(accepted.map_or(0, |agent| agent["accepted_case"].as_u64().unwrap()), sessions as u64);
    }
    assert!(waited > 5, "{waited}");
}

#[tokio::test]
async fn the_quota_is_counted_and_enforced() {
    let mut scenario = quiet();
    scenario.official_accounts[0].session_lists_per_day = 2;
    let simulator = start(scenario).await;
    let mut client = Client::connect(&simulator).await;
    for errcode in [0, 0, 45009] {
        assert_eq!(client.poll(KF1).await.errcode(), errcode);
    }
    let path = format!("/cgi-bin/openapi/quota/get?access_token={}", client.token);
    let quota = client.post(&path, r#"{"cgi_path":"/customservice/kfsession/getsessionlist"}"#).await.json();
    assert_eq!(quota["quota"], json!({"daily_limit": 2, "used": 2, "remain": 0}));
}

#[tokio::test]
async fn answers_follow_the_style_of_their_account() {
    let style = Style {
        createtime_as_text: true,
        escaped_slashes: true,
        omit_empty_list: true,
        explicit_ok: true,
        text_plain: true,
        shuffle: 0.0,
        duplicate: 1.0,
    };
    let simulator = start(styled(style)).await;
    let mut client = Client::connect(&simulator).await;
    let empty = client.poll(KF1).await;
    assert_eq!(empty.body, br#"{"errcode":0,"errmsg":"ok"}"#);
    assert_eq!(empty.header("content-type"), Some("text/plain"));
    simulator.control().open_session(APPID, KF1, "o/A", Some(5)).unwrap();
    let twice = r#"{"createtime":"5","openid":"o\/A"},{"createtime":"5","openid":"o\/A"}"#;
    let expected = format!(r#"{{"errcode":0,"errmsg":"ok","sessionlist":[{twice}]}}"#);
    assert_eq!(String::from_utf8(client.poll(KF1).await.body).unwrap(), expected);
}

#[tokio::test]
async fn a_shuffled_answer_lists_the_same_sessions() {
    let simulator = start(styled(Style { shuffle: 1.0, ..Style::default() })).await;
    let mut client = Client::connect(&simulator).await;
    for number in 0..50 {
        simulator.control().open_session(APPID, KF1, &format!("o{number:02}"), Some(5)).unwrap();
    }
    let openids = |answer: Value| -> Vec<String> {
        let listed = answer["sessionlist"].as_array().unwrap().iter();
        listed.map(|session| session["openid"].as_str().unwrap().to_owned()).collect()
    };
    let [mut first, mut second] =
        [openids(client.poll(KF1).await.json()), openids(client.poll(KF1).await.json())];
    assert_ne!(first, second);
    first.sort();
    second.sort();
    assert_eq!(first, second);
}

/// The fault once, for a kf account with one open session: what comes of it, and how the ledger calls it.
async fn struck(fault: Fault) -> (io::Result<Response>, PollRecord) {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    control.open_session(APPID, KF1, "oA", Some(5)).unwrap();
    control.inject(FaultRule {
        endpoint: Some(Endpoint::GetSessionList),
        times: Some(1),
        ..FaultRule::new(fault)
    });
    let response = client.try_poll(KF1).await;
    eventually("the end of the poll", || simulator.ledger().polls.len() == 1).await;
    (response, simulator.ledger().polls.remove(0))
}

async fn body_of(fault: Fault) -> (String, Answered) {
    let (response, poll) = struck(fault).await;
    let response = response.unwrap();
    assert_eq!(response.status, 200);
    (String::from_utf8_lossy(&response.body).into_owned(), poll.answer)
}

#[tokio::test]
async fn faults_of_the_errcode() {
    for errcode in [-1, 40001, 40164, 42001, 45009, 45011, 48001, 50002, 65400, 12345] {
        let (body, answer) = body_of(Fault::Errcode(errcode)).await;
        assert!(body.starts_with(&format!(r#"{{"errcode":{errcode},"errmsg":""#)), "{body}");
        assert_eq!(answer, Answered::Refused(errcode));
    }
    let (body, answer) = body_of(Fault::ErrcodeAsText(45011)).await;
    assert!(body.starts_with(r#"{"errcode":"45011","#), "{body}");
    assert_eq!(answer, Answered::Refused(45011));
}

#[tokio::test]
async fn faults_of_the_tokens() {
    assert_eq!(body_of(Fault::ExpireTokens).await.1, Answered::Refused(42001));
    assert_eq!(body_of(Fault::RevokeTokens).await.1, Answered::Refused(40001));
    assert_eq!(body_of(Fault::Meddle).await.1, Answered::Listed(vec![0]));
}

#[tokio::test]
async fn faults_of_the_http_answer() {
    let (bad_gateway, poll) = struck(Fault::HttpStatus(502)).await;
    let bad_gateway = bad_gateway.unwrap();
    assert_eq!(bad_gateway.status, 502);
    assert!(bad_gateway.body.starts_with(b"<html>"));
    assert_eq!(poll.answer, Answered::Failed("http_status"));

    let unavailable = struck(Fault::Unavailable(3)).await.0.unwrap();
    assert_eq!((unavailable.status, unavailable.header("retry-after")), (503, Some("3")));

    let redirect = struck(Fault::Redirect("http://127.0.0.1:1/x".to_owned())).await.0.unwrap();
    assert_eq!((redirect.status, redirect.header("location")), (302, Some("http://127.0.0.1:1/x")));

    let html = struck(Fault::Html).await.0.unwrap();
    assert_eq!((html.status, html.header("content-type")), (200, Some("text/html; charset=utf-8")));

    let gbk = struck(Fault::EmptyGbkBody).await.0.unwrap();
    assert_eq!((gbk.body.len(), gbk.header("content-type")), (0, Some("text/html; charset=gbk")));

    let text = struck(Fault::TextPlain).await.0.unwrap();
    assert_eq!(text.header("content-type"), Some("text/plain"));
}

#[tokio::test]
async fn faults_of_the_body() {
    const GOOD: &str = r#""sessionlist":[{"createtime":5,"openid":"oA"}]}"#;
    let questionable = Answered::Questionable(Box::new(Answered::Listed(vec![0])));
    assert_eq!(body_of(Fault::EmptyBody).await, (String::new(), Answered::Failed("empty_body")));
    assert_eq!(body_of(Fault::Garbage).await.1, Answered::Failed("garbage"));
    let (marked, answer) = body_of(Fault::ByteOrderMark).await;
    assert_eq!((marked, answer), (format!("\u{feff}{{{GOOD}"), questionable.clone()));
    let (controls, answer) = body_of(Fault::ControlCharacters).await;
    assert_eq!((controls, answer), (format!("{{\"note\":\"a\u{1}b\tc\nd\",{GOOD}"), questionable.clone()));
    let (invalid, answer) = body_of(Fault::InvalidUtf8).await;
    assert!(invalid.contains('\u{fffd}') && invalid.ends_with(GOOD), "{invalid}");
    assert_eq!(answer, questionable);
    let (oversized, answer) = body_of(Fault::OversizedBody).await;
    assert_eq!(oversized.trim_start(), format!("{{{GOOD}"));
    assert!(oversized.len() > 10_000_000);
    assert_eq!(answer, questionable);
}

#[tokio::test]
async fn faults_of_the_list() {
    let (absent, answer) = body_of(Fault::ListAbsent).await;
    assert_eq!((&*absent, answer), ("{}", Answered::Keyless));
    let (null, answer) = body_of(Fault::ListNull).await;
    assert_eq!((&*null, answer), (r#"{"sessionlist":null}"#, Answered::Keyless));
    let spoilt = [
        (Fault::ListOfWrongType, r#"{"sessionlist":{"createtime":1,"openid":"o"}}"#),
        (
            Fault::EntryWithoutOpenid,
            r#"{"sessionlist":[{"createtime":5,"openid":"oA"},{"createtime":1795331551}]}"#,
        ),
        (
            Fault::CreatetimeNoNumber,
            r#"{"sessionlist":[{"createtime":5,"openid":"oA"},{"createtime":"soon","openid":"oNoNumber"}]}"#,
        ),
    ];
    for (fault, expected) in spoilt {
        let name = fault.as_str();
        assert_eq!(body_of(fault).await, (expected.to_owned(), Answered::Failed(name)));
    }
}

#[tokio::test]
async fn a_truncated_body_breaks_off_behind_its_first_half() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    simulator.control().inject(FaultRule::new(Fault::TruncatedBody));
    let path = poll_path(&client.token, KF1);
    client.send("GET", &path, "").await.unwrap();
    let mut received = Vec::new();
    client.stream.read_to_end(&mut received).await.unwrap();
    let received = String::from_utf8(received).unwrap();
    let (head, body) = received.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-length: 82"), "{head}");
    assert_eq!(body, r#"{"session"#);
}

#[tokio::test]
async fn a_closed_connection_ends_and_a_reset_one_is_reset() {
    let (closed, poll) = struck(Fault::Close).await;
    assert_eq!(closed.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!((poll.answer, poll.answered_at_ms), (Answered::Failed("close"), None));
    let (reset, poll) = struck(Fault::Reset).await;
    assert_eq!(reset.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(poll.answer, Answered::Failed("reset"));
}

#[tokio::test]
async fn a_fault_can_be_kept_for_reused_connections() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    let rule = FaultRule { on_connection: Some(OnConnection::Reused), ..FaultRule::new(Fault::Close) };
    simulator.control().inject(rule);
    let mut fresh = Client { token: client.token.clone(), ..Client::without_token(&simulator).await };
    assert_eq!(fresh.poll(KF1).await.errcode(), 0);
    assert!(fresh.try_poll(KF1).await.is_err());
    assert!(client.try_poll(KF1).await.is_err());
}

#[tokio::test]
async fn a_hanging_answer_never_comes_and_ends_with_its_client() {
    let simulator = start(quiet()).await;
    let mut client = Client::connect(&simulator).await;
    simulator.control().inject(FaultRule::new(Fault::Hang));
    let path = poll_path(&client.token, KF1);
    client.send("GET", &path, "").await.unwrap();
    eventually_polled(&simulator, 1).await;
    assert!(simulator.ledger().polls.is_empty());
    drop(client);
    eventually("the end of the poll", || simulator.ledger().polls.len() == 1).await;
    let poll = simulator.ledger().polls.remove(0);
    assert_eq!((poll.answered_at_ms, poll.answer), (None, Answered::Failed("hang")));
}

#[tokio::test]
async fn slow_and_dripping_answers_arrive_whole_in_their_time() {
    const LONG: Duration = Duration::from_millis(80);
    for fault in [Fault::Slow(LONG), Fault::Drip(LONG)] {
        let (response, poll) = struck(fault).await;
        assert_eq!(response.unwrap().json()["sessionlist"].as_array().unwrap().len(), 1);
        assert_eq!(poll.answer, Answered::Listed(vec![0]));
        assert!(poll.answered_at_ms.unwrap() - poll.received_at_ms >= 70, "{poll:?}");
    }
}

#[tokio::test]
async fn the_ledger_knows_what_was_listed_and_what_was_true() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    control.open_session(APPID, KF1, "oA", Some(5)).unwrap();
    control.open_session(APPID, KF1, "oB", None).unwrap();
    client.poll(KF1).await;
    control.close_session(APPID, KF1, "oA").unwrap();
    client.poll(KF1).await;
    client.poll("kf2@test").await;
    let ledger = simulator.ledger();
    assert!(!ledger.incomplete);
    let answers: Vec<&Answered> = ledger.polls.iter().map(|poll| &poll.answer).collect();
    let expected = [&Answered::Listed(vec![0, 1]), &Answered::Listed(vec![1]), &Answered::Refused(65402)];
    assert_eq!(answers, expected);
    assert!(ledger.polls.iter().all(|poll| poll.received_at_ms <= poll.answered_at_ms.unwrap()));
    let [first, second] = &ledger.sessions[..] else { panic!("{:?}", ledger.sessions) };
    assert_eq!((&*first.openid, first.createtime), ("oA", 5));
    assert!(first.closed_at_ms.is_some_and(|closed_at_ms| closed_at_ms >= first.opened_at_ms));
    assert_eq!(second.closed_at_ms, None);
    assert_eq!(second.createtime, second.opened_at_ms / 1_000);
}

#[tokio::test]
async fn every_listed_session_was_open_when_it_was_listed() {
    let simulator = start(lively()).await;
    let mut client = Client::connect(&simulator).await;
    for _ in 0..100 {
        simulator.control().advance(Duration::from_secs(7));
        client.poll(KF1).await;
    }
    let ledger = simulator.ledger();
    let mut listings = 0;
    for poll in &ledger.polls {
        let Answered::Listed(listed) = &poll.answer else { panic!("{poll:?}") };
        for (index, session) in ledger.sessions.iter().enumerate() {
            let opened = session.opened_at_ms <= poll.received_at_ms;
            let closed = session.closed_at_ms.is_some_and(|closed_at_ms| closed_at_ms <= poll.received_at_ms);
            let is_of_kf1 = *session.kf_account == *KF1;
            assert_eq!(
                listed.contains(&(index as u32)),
                is_of_kf1 && opened && !closed,
                "{session:?} {poll:?}"
            );
        }
        listings += listed.len();
    }
    assert!(listings > 50, "{listings}");
}

#[tokio::test]
async fn the_same_seed_plays_the_same_history_whatever_is_asked() {
    let history = async |seed, polls| {
        let simulator = start(Scenario { seed, ..lively() }).await;
        let mut client = Client::connect(&simulator).await;
        for _ in 0..polls {
            simulator.control().advance(Duration::from_secs(1_200 / polls));
            client.poll(KF1).await;
        }
        let stays = |session: &kfwatch::simulator::SessionRecord| {
            let stay_ms = session.closed_at_ms? - session.opened_at_ms;
            (*session.kf_account == *KF1).then(|| (session.opened_at_ms, session.openid.clone(), stay_ms))
        };
        let ledger = simulator.ledger();
        let mut history: Vec<_> = ledger.sessions.iter().filter_map(stays).collect();
        history.sort();
        history.truncate(30);
        history.into_iter().map(|(_, openid, stay_ms)| (openid, stay_ms)).collect::<Vec<_>>()
    };
    let first = history(1, 3).await;
    assert_eq!(first.len(), 30);
    assert_eq!(first, history(1, 100).await);
    assert_ne!(first, history(2, 3).await);
}

#[tokio::test]
async fn two_polls_of_one_kf_account_in_flight_are_noticed() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut patient = Client::connect(&simulator).await;
    let mut hurried = Client::connect(&simulator).await;
    for _ in 0..100 {
        patient.poll(KF1).await;
        hurried.poll(KF1).await;
    }
    assert_eq!(control.max_in_flight_of(APPID, KF1), Ok(1));
    control.inject(FaultRule { times: Some(1), ..FaultRule::new(Fault::Hang) });
    let path = poll_path(&patient.token, KF1);
    patient.send("GET", &path, "").await.unwrap();
    eventually_polled(&simulator, 201).await;
    hurried.poll(KF1).await;
    assert_eq!(control.max_in_flight_of_any_kf_account(), 2);
    assert_eq!(control.max_in_flight_of_official_account(APPID), Ok(2));
}

#[tokio::test]
async fn requests_are_counted() {
    let simulator = start(quiet()).await;
    let control = simulator.control();
    let mut client = Client::connect(&simulator).await;
    client.poll(KF1).await;
    client.poll(KF1).await;
    client.ask(Endpoint::GetWaitCase).await;
    client.get(&token_path("wx1", SECRET)).await;
    assert_eq!(control.requests(Endpoint::GetSessionList), 2);
    assert_eq!(control.polls_of(APPID, KF1), Ok(2));
    assert_eq!(control.requests_of(APPID, Endpoint::GetWaitCase), Ok(1));
    assert_eq!(control.requests_of(APPID, Endpoint::Token), Ok(0), "of an unknown appid");
    assert_eq!(control.requests(Endpoint::Token), 1);
}

#[tokio::test]
async fn nothing_listens_after_the_stop() {
    let simulator = start(quiet()).await;
    let address = simulator.address();
    let mut client = Client::connect(&simulator).await;
    simulator.stop().await;
    assert!(client.try_poll(KF1).await.is_err());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_ledger_that_is_off_says_that_it_is_not_whole() {
    let simulator = start(Scenario { ledger: false, ..quiet() }).await;
    let mut client = Client::connect(&simulator).await;
    client.poll(KF1).await;
    let ledger = simulator.ledger();
    assert!(ledger.incomplete && ledger.polls.is_empty());
}

#[tokio::test]
#[ignore = "needs python3 with wechatpy from PyPI; tests/run.sh runs it"]
async fn wechatpy_takes_it_for_wechat() {
    #[expect(clippy::disallowed_methods, reason = "the interpreter that has wechatpy is the caller's choice")]
    let python = std::env::var("KFWATCH_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let simulator = start(quiet()).await;
    simulator.control().open_session(APPID, KF1, "oA", Some(5)).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/wechatpy_client.py");
    let arguments =
        [script, &simulator.base_url(), APPID, SECRET, KF1, "kf2@test", "kf4@test"].map(str::to_owned);
    let run = move || std::process::Command::new(python).args(arguments).output();
    let output = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sessions = json!([{"createtime": 5, "openid": "oA"}]);
    assert_eq!(seen["expires_in"], 7200);
    assert_eq!(seen["accounts"][0]["kf_account"], KF1);
    assert!(seen["online"].is_array());
    assert_eq!(seen["wait_case"], json!({"count": 0, "waitcaselist": []}));
    assert_eq!(seen["sessions"], sessions);
    assert_eq!(seen["sessions_after_refusal"], sessions);
    assert_eq!([&seen["unbound"], &seen["invalid"], &seen["wrong_secret"]], [65402, 65401, 40125]);
}
