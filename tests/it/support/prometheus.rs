//! A real Prometheus, or a VictoriaMetrics in its place, that scrapes the daemon.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::support::{
    loopback::free_address,
    process::{Home, get},
    wait::eventually,
};

/// A Prometheus server, killed when it is dropped.
pub(crate) struct Prometheus {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Prometheus {
    /// Starts one that scrapes only this kfwatch, every second.
    pub(crate) fn scraping(home: &Home, target: SocketAddr) -> Self {
        Self::start(
            home,
            &format!(
                "global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: kfwatch\n    \
                 static_configs: [{{targets: [\"{target}\"]}}]\n"
            ),
        )
    }

    /// Starts one with this configuration. Its files are relative to `home`.
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

    /// Starts a VictoriaMetrics with this scrape configuration. It answers the same requests, without rules.
    pub(crate) fn victoria_metrics(home: &Home, configuration: &str) -> Self {
        home.write("victoria-metrics.yml", configuration);
        let address = free_address();
        let child = Command::new("victoria-metrics")
            .arg(format!("-promscrape.config={}", home.path("victoria-metrics.yml").display()))
            .arg(format!("-storageDataPath={}", home.path("victoria-metrics").display()))
            .arg(format!("-httpListenAddr={address}"))
            // By default, queries leave out the last 30 seconds.
            .args(["-search.latencyOffset=1s", "-search.disableCache", "-loggerLevel=ERROR"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        eventually("VictoriaMetrics", || std::net::TcpStream::connect(address).ok());
        Self { child, address }
    }

    /// Returns the current values of a query.
    pub(crate) fn query(&self, query: &str) -> Vec<f64> {
        let values = self.series(query).into_iter();
        values.map(|series| series["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }

    /// Returns the value of a query at each second between two UNIX times; `None` where it has none.
    pub(crate) fn each_second(&self, query: &str, from: i64, to: i64) -> Vec<Option<f64>> {
        let query = encoded(query);
        let path = format!("/api/v1/query_range?query={query}&start={from}&end={to}&step=1");
        let answer: Value = serde_json::from_slice(&get(self.address, &path, "").body).unwrap();
        let values = answer["data"]["result"][0]["values"].as_array().cloned().unwrap_or_default();
        let value = |second: i64| {
            let found = values.iter().find(|value| value[0].as_i64() == Some(second))?;
            found[1].as_str()?.parse().ok()
        };
        (from..=to).map(value).collect()
    }

    /// Returns the current series of a query, each as `{"metric": {…}, "value": [time, "…"]}`.
    pub(crate) fn series(&self, query: &str) -> Vec<Value> {
        let answer = get(self.address, &format!("/api/v1/query?query={}", encoded(query)), "");
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
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A query as it stands in a URL.
fn encoded(query: &str) -> String {
    query.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
