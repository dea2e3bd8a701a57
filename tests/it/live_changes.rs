//! A daemon whose configuration changes while it runs: in every stage of a poll and of a delivery, for every key, with mistakes, and
//! without its accounts for a time.

mod deliveries;
mod gate;
mod keys;
mod ownership;
mod polls;
mod refusals;

use serde_json::Value;

use crate::support::{
    event_log::{parsed, text},
    process::{Home, Process, appid, secret},
    wait::eventually,
};

/// A running daemon and the file that it reloads.
struct LiveDaemon {
    home: Home,
    process: Process,
}

impl LiveDaemon {
    fn start(home: Home, configuration: &str) -> Self {
        home.write("config.toml", configuration);
        let process = home.daemon();
        Self { home, process }
    }

    /// Reloads this configuration, and returns what the command printed.
    fn reload(&self, configuration: &str) -> String {
        self.home.write("config.toml", configuration);
        let ended = self.home.run("reload");
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stdout + &ended.stderr
    }

    /// Asserts that a reload of this configuration is refused, and returns what the command printed.
    fn reload_refused(&self, configuration: &str) -> String {
        self.home.write("config.toml", configuration);
        let ended = self.home.run("reload");
        assert_eq!(ended.code, Some(78), "{ended:?}");
        ended.stderr
    }

    /// The events on standard output.
    fn events(&self) -> Vec<Value> {
        let stdout = self.process.stdout();
        let whole = stdout.rfind('\n').map_or(0, |end| end + 1);
        stdout[..whole].lines().map(parsed).collect()
    }

    /// The changes of a kf account's state so far, such as `ok>unwatched`.
    fn state_changes(&self, kf_account: &str) -> Vec<String> {
        let events = self.events();
        let of_account = events.iter().filter(|event| {
            event["type"] == "kf.account.state_changed" && event["data"]["kf_account"] == kf_account
        });
        of_account.map(|event| format!("{}>{}", text(event, "/data/from"), text(event, "/data/to"))).collect()
    }

    fn eventually_changes(&self, kf_account: &str, expected: &[&str]) {
        eventually(&format!("{kf_account}: {expected:?}"), || {
            let changes = self.state_changes(kf_account);
            assert!(changes.len() <= expected.len(), "{kf_account}: {changes:?}");
            (changes == expected).then_some(())
        });
    }
}

/// An official account with these kf accounts, whose index in the simulator's scenario is `index`. `more` has further keys.
fn official_account(name: &str, index: usize, kf_accounts: &[&str], more: &str) -> String {
    format!(
        "[[official_accounts]]\nname = \"{name}\"\nappid = \"{}\"\nkf_accounts = {kf_accounts:?}\n{more}\n\
         token.secret = \"{}\"\n",
        appid(index),
        secret(index)
    )
}
