//! A plain HTTP client of the simulator, and scenarios.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use kfwatch::simulator::{ApiCall, CustomerFlow, RandomDuration, ResponseStyle, Scenario, Simulator};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const APPID: &str = "wx0123456789abcdef";
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const KF1: &str = "kf1@test";
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// One official account with a bound, an unbound, an invited and an invalid kf account, and without customers.
pub(crate) fn quiet() -> Scenario {
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

pub(crate) fn styled(style: ResponseStyle) -> Scenario {
    let mut scenario = quiet();
    scenario.official_accounts[0].style = style;
    scenario
}

pub(crate) fn lively() -> Scenario {
    let secs = |mean, min, max| RandomDuration {
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

pub(crate) async fn start(scenario: Scenario) -> Simulator {
    Simulator::start(scenario, SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap()
}

/// A client with one connection, kept alive.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) token: String,
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn errcode(&self) -> i64 {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()["errcode"].as_i64().unwrap_or(0)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Client {
    /// Connects with a token from `stable_token`, which nothing else invalidates.
    pub(crate) async fn connect(simulator: &Simulator) -> Client {
        let mut client = Client::without_token(simulator).await;
        client.token = client.stable_token().await["access_token"].as_str().unwrap().to_owned();
        client
    }

    pub(crate) async fn without_token(simulator: &Simulator) -> Client {
        Client { stream: TcpStream::connect(simulator.address()).await.unwrap(), token: String::new() }
    }

    pub(crate) async fn stable_token(&mut self) -> Value {
        let body = json!({"grant_type": "client_credential", "appid": APPID, "secret": SECRET});
        self.post("/cgi-bin/stable_token", &body.to_string()).await.json()
    }

    pub(crate) async fn classic_token(&mut self) -> Value {
        self.get(&token_path(APPID, SECRET)).await.json()
    }

    pub(crate) async fn poll(&mut self, kf_account: &str) -> Response {
        self.try_poll(kf_account).await.unwrap()
    }

    pub(crate) async fn try_poll(&mut self, kf_account: &str) -> io::Result<Response> {
        let path = poll_path(&self.token, kf_account);
        self.request("GET", &path, "").await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, "").await.unwrap()
    }

    /// Sends a GET with one more header, `name: value`.
    pub(crate) async fn get_with(&mut self, path: &str, header: &str) -> Response {
        let request = format!("GET {path} HTTP/1.1\r\nHost: simulator\r\n{header}\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await.unwrap();
        tokio::time::timeout(PATIENCE, self.response()).await.unwrap().unwrap()
    }

    pub(crate) async fn post(&mut self, path: &str, body: &str) -> Response {
        self.request("POST", path, body).await.unwrap()
    }

    /// Sends a GET to an endpoint that needs only the token.
    pub(crate) async fn ask(&mut self, endpoint: ApiCall) -> Response {
        self.get(&format!("{}?access_token={}", endpoint.path(), self.token)).await
    }

    pub(crate) async fn send(&mut self, method: &str, path: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: simulator\r\nContent-Length: {length}\r\n\r\n{body}");
        self.stream.write_all(request.as_bytes()).await
    }

    pub(crate) async fn request(&mut self, method: &str, path: &str, body: &str) -> io::Result<Response> {
        self.send(method, path, body).await?;
        tokio::time::timeout(PATIENCE, self.response()).await?
    }

    pub(crate) async fn response(&mut self) -> io::Result<Response> {
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

pub(crate) fn token_path(appid: &str, secret: &str) -> String {
    format!("/cgi-bin/token?grant_type=client_credential&appid={appid}&secret={secret}")
}

pub(crate) fn poll_path(token: &str, kf_account: &str) -> String {
    format!("/customservice/kfsession/getsessionlist?access_token={token}&kf_account={kf_account}")
}

pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}

pub(crate) async fn eventually_polled(simulator: &Simulator, polls: u64) {
    let control = simulator.control();
    eventually("a poll", || control.polls_of(APPID, KF1).unwrap() == polls).await;
}
