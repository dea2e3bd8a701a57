//! A real Prometheus beside the daemon.

use std::{
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::support::{
    process::{Home, get},
    wait::eventually,
};

/// A Prometheus server, killed when it is dropped.
pub(crate) struct Prometheus {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Prometheus {
    /// One that scrapes a kfwatch every second, and nothing else.
    pub(crate) fn scraping(home: &Home, target: SocketAddr) -> Self {
        Self::start(
            home,
            &format!(
                "global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: kfwatch\n    \
                 static_configs: [{{targets: [\"{target}\"]}}]\n"
            ),
        )
    }

    /// One with this configuration, whose files are relative to `home`.
    pub(crate) fn start(home: &Home, configuration: &str) -> Self {
        home.write("prometheus.yml", configuration);
        let address = free_address();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", home.path("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", home.path("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--log.level=warn", "--web.external-url=/"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        eventually("Prometheus", || std::net::TcpStream::connect(address).ok());
        Self { child, address }
    }

    /// The values that a query has now.
    pub(crate) fn query(&self, query: &str) -> Vec<f64> {
        let values = self.series(query).into_iter();
        values.map(|series| series["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }

    /// The series that a query has now, each as `{"metric": {…}, "value": [time, "…"]}`.
    pub(crate) fn series(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = get(self.address, &format!("/api/v1/query?query={encoded}"), "");
        if answer.status == 503 {
            return Vec::new();
        }
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer["status"], "success", "{answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nobody listens on at this moment.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}
