//! A daemon that watches 65 simulated official accounts, and the monitoring kit.

use std::{collections::BTreeMap, net::SocketAddr};

use kfwatch::simulator::Scenario;
use serde_json::{Value, json};

use super::notifications::PREFIX;
use crate::support::{
    alertmanager::{Alertmanager, Receiver},
    kit::{a_tenth, routes_to, shipped},
    loopback::free_address,
    process::{Home, Process, WeChat, get, quiet},
    prometheus::Prometheus,
    wait::eventually,
};

pub(super) const OFFICIAL_ACCOUNTS: usize = 65;

/// About a tenth of the default intervals, or the shortest that kfwatch accepts. The quota is looked up more often, because that of
/// one official account is used up soon after the start.
const INTERVALS: &str = r#"
[poll]
schedule = "*/4 * * * * *"
spread = "3s"
blind_after = "30s"
[backoff]
busy = ["0s", "6s"]
unbound = ["0s", "6s"]
bad_request = ["0s", "6s"]
unknown = ["0s", "6s"]
token_rejected = ["1s", "12s"]
address_not_allowed = ["3s", "12s"]
not_authorized = ["6s", "30s"]
not_enabled = ["6s", "30s"]
day_quota = "3m"
[collectors]
kf_list = "30s"
online = "10s"
waiting = "10s"
quota = "1m"
"#;

/// The name of the official account at this index.
pub(super) fn shop(index: usize) -> String {
    format!("shop{index:02}")
}

/// Official accounts with one kf account each. The second has two more.
pub(super) fn shops() -> Scenario {
    let names: Vec<String> = (0..OFFICIAL_ACCOUNTS).map(shop).collect();
    let accounts: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let mut scenario = quiet(&accounts);
    let more = quiet(&[("", 3)]).official_accounts.remove(0).kf_accounts;
    scenario.official_accounts[1].kf_accounts = more;
    scenario.ledger = false;
    scenario
}

/// The processes of one machine.
pub(super) struct Stack {
    pub(super) wechat: WeChat,
    pub(super) home: Home,
    daemon: Option<Process>,
    pub(super) receiver: Receiver,
    alertmanager: Alertmanager,
    _prometheus: Prometheus,
}

impl Stack {
    /// Starts them. `more` is appended to the configuration of kfwatch.
    pub(super) fn start(wechat: WeChat, home: Home, more: &str) -> Self {
        let target = free_address();
        let configuration =
            format!("{}\n{INTERVALS}\n[web]\nlisten = \"{target}\"\n{more}", wechat.configuration());
        home.write("config.toml", &configuration);
        // Not shortened to a tenth: seven such stacks keep this machine busy.
        let home = home.set("KFWATCH__API__TIMEOUT", "5s");
        let daemon = Some(home.daemon());
        let receiver = Receiver::start();
        home.write("kfwatch.tmpl", &shipped("alertmanager/kfwatch.tmpl"));
        let alertmanager = Alertmanager::start(&home, &routes(receiver.address).to_string());
        home.write("kfwatch.rules.yml", &a_tenth(&shipped("prometheus/kfwatch.rules.yml")));
        let scrapes = a_tenth(&shipped("prometheus/prometheus.yml"))
            // Half as often as shipped, for the same reason.
            .replace(": 1500ms", ": 3s")
            .replace("127.0.0.1:9093", &alertmanager.address.to_string())
            .replace("127.0.0.1:9877", &target.to_string());
        let prometheus = Prometheus::start(&home, &scrapes);
        eventually("the rules", || {
            let rules = get(prometheus.address, "/api/v1/rules", "").text();
            rules.contains("WechatKfTargetDown").then_some(())
        });
        Self { wechat, home, daemon, receiver, alertmanager, _prometheus: prometheus }
    }

    /// Kills the daemon with SIGKILL.
    pub(super) fn kill(&mut self) {
        self.daemon = None;
    }

    pub(super) fn restart(&mut self) {
        self.daemon = Some(self.home.daemon());
    }

    /// Counts the alerts for people that are inhibited now, by name.
    pub(super) fn inhibited(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for alert in self.alertmanager.all_alerts() {
            let is_inhibited = alert["status"]["inhibitedBy"].as_array().is_some_and(|by| !by.is_empty());
            if is_inhibited && alert["labels"]["severity"] != "none" {
                let name = alert["labels"]["alertname"].as_str().unwrap_or_default();
                *counts.entry(name.trim_start_matches(PREFIX).to_owned()).or_default() += 1;
            }
        }
        counts
    }

    /// The warnings in the daemon's log.
    pub(super) fn warnings(&self) -> String {
        let log = self.daemon.as_ref().map(Process::stderr).unwrap_or_default();
        let warnings = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
        warnings.take(20).collect::<Vec<_>>().join("\n")
    }
}

/// The shipped routes, without repetitions and at every hour of the day.
fn routes(receiver: SocketAddr) -> Value {
    fn repeat_never(route: &mut Value) {
        route["repeat_interval"] = json!("1d");
        for child in route["routes"].as_array_mut().into_iter().flatten() {
            repeat_never(child);
        }
    }
    let mut routes = routes_to(receiver, receiver, a_tenth);
    repeat_never(&mut routes["route"]);
    routes["time_intervals"][0]["time_intervals"] =
        json!([{"times": [{"start_time": "00:00", "end_time": "24:00"}]}]);
    routes
}
