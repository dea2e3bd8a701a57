//! A real Alertmanager, and a receiver for the messages that it sends.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Instant,
};

use axum::{Router, extract::State, http::Uri, response::IntoResponse};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::support::{
    loopback::free_address,
    process::{Home, get},
    wait::{PATIENCE, eventually},
};

/// The program's name in Debian, and its upstream name.
const PROGRAMS: [&str; 2] = ["prometheus-alertmanager", "alertmanager"];

/// An Alertmanager, killed when it is dropped.
pub(crate) struct Alertmanager {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Alertmanager {
    /// Starts one with this configuration. Its files are relative to `home`.
    pub(crate) fn start(home: &Home, configuration: &str) -> Self {
        home.write("alertmanager.yml", configuration);
        let address = free_address();
        let spawn = |program: &&str| {
            Command::new(program)
                .arg(format!("--config.file={}", home.path("alertmanager.yml").display()))
                .arg(format!("--storage.path={}", home.path("alertmanager").display()))
                .arg(format!("--web.listen-address={address}"))
                .args([
                    "--cluster.listen-address=",
                    "--log.level=warn",
                    "--web.external-url=http://localhost/",
                ])
                .stdin(Stdio::null())
                .spawn()
                .ok()
        };
        let child = PROGRAMS.iter().find_map(spawn).unwrap();
        eventually("Alertmanager", || TcpStream::connect(address).ok());
        Self { child, address }
    }

    /// Returns the active alerts of this name, silenced or not.
    pub(crate) fn alerts(&self, name: &str) -> Vec<Value> {
        self.all_alerts().into_iter().filter(|alert| alert["labels"]["alertname"] == name).collect()
    }

    /// Returns all active alerts, silenced or not.
    pub(crate) fn all_alerts(&self) -> Vec<Value> {
        let answer = get(self.address, "/api/v2/alerts", "");
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    /// Posts alerts in this order, as Prometheus does. Each has `labels` and may have `annotations`.
    pub(crate) fn send(&self, alerts: &[Value]) {
        let body = json!(alerts).to_string();
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "POST /api/v2/alerts HTTP/1.0\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.split(' ').nth(1), Some("200"), "{answer}");
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Stands in for the webhook and for WeCom: accepts and records every message.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    received: Received,
    _runtime: Runtime,
}

/// Times, paths and bodies.
type Received = Arc<Mutex<Vec<(Instant, String, String)>>>;

impl Receiver {
    pub(crate) fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let received = Received::default();
        let app = Router::new().fallback(receive).with_state(Arc::clone(&received));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, received, _runtime: runtime }
    }

    /// Returns the alerts of this name and status that the webhook received.
    pub(crate) fn alerts(&self, name: &str, status: &str) -> Vec<Value> {
        let messages = self.messages("").into_iter();
        let alerts = messages.flat_map(|message| message["alerts"].as_array().cloned().unwrap_or_default());
        alerts.filter(|alert| alert["labels"]["alertname"] == name && alert["status"] == status).collect()
    }

    /// Returns the texts that WeCom received.
    pub(crate) fn texts(&self) -> Vec<String> {
        let messages = self.messages("/message/send").into_iter();
        messages.filter_map(|message| Some(message["text"]["content"].as_str()?.to_owned())).collect()
    }

    /// Returns all messages whose path ends with `end_of_path`.
    pub(crate) fn messages(&self, end_of_path: &str) -> Vec<Value> {
        self.timed_messages(end_of_path).into_iter().map(|(_, message)| message).collect()
    }

    /// The same, with the times of their arrival.
    pub(crate) fn timed_messages(&self, end_of_path: &str) -> Vec<(Instant, Value)> {
        let received = self.received.lock().unwrap();
        let sent = received.iter().filter(|(_, path, _)| path.ends_with(end_of_path));
        sent.filter_map(|(at, _, body)| Some((*at, serde_json::from_str(body).ok()?))).collect()
    }
}

async fn receive(State(received): State<Received>, uri: Uri, body: String) -> impl IntoResponse {
    received.lock().unwrap().push((Instant::now(), uri.path().to_owned(), body));
    // WeCom's response to a token request and to a message.
    r#"{"errcode":0,"errmsg":"ok","access_token":"token","expires_in":7200}"#
}
