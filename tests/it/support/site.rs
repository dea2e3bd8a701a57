//! The environment of one daemon: a directory with a configuration, a store and a sink's file.

use std::{
    fmt::Write as _,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use kfwatch::simulator::{AccountToWatch, Simulator};
use tempfile::TempDir;

use crate::support::events::Event;

/// The configured request timeout of the client.
pub(crate) const CLIENT_TIMEOUT_MS: i64 = 5_000;

/// A directory with a configuration. The store may be elsewhere.
pub(crate) struct Site {
    directory: TempDir,
    store: PathBuf,
}

/// The source of an official account's tokens.
#[derive(Clone, Copy)]
pub(crate) enum Tokens {
    Stable,
    Classic,
    /// A file with a token that the simulator issued to the test.
    File,
}

impl Site {
    pub(crate) fn new() -> Site {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("kfwatch.db");
        Site { directory, store }
    }

    /// A site whose store is in another directory.
    pub(crate) fn with_store_in(directory: &Path) -> Site {
        Site { store: directory.join("kfwatch.db"), ..Site::new() }
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    pub(crate) fn sink_file(&self) -> PathBuf {
        self.directory.path().join("events.jsonl")
    }

    /// Writes a configuration that polls these accounts every second and delivers to [`Site::sink_file`]. The
    /// collectors are disabled, so that all events follow from the polls in the ledger.
    pub(crate) fn configure(&self, simulator: &Simulator, accounts: &[(AccountToWatch, Tokens)]) {
        let mut text = format!(
            "[web]\nlisten = \"127.0.0.1:0\"\n[store]\npath = {:?}\n\
             [api]\nbase_url = \"{}\"\nconnect_timeout = \"1s\"\ntimeout = \"{CLIENT_TIMEOUT_MS}ms\"\n\
             [poll]\nschedule = \"* * * * * *\"\n\
             [collectors]\nkf_list = \"off\"\nonline = \"off\"\nwaiting = \"off\"\nquota = \"off\"\n[[sinks]]\nname = \"file\"\ntype = \"jsonl\"\npath = {:?}\n",
            self.store,
            simulator.base_url(),
            self.sink_file(),
        );
        for (account, tokens) in accounts {
            let AccountToWatch { name, appid, secret, kf_accounts } = account;
            let token = match tokens {
                Tokens::Stable => format!("source = \"stable\"\nsecret = \"{secret}\""),
                Tokens::Classic => format!("source = \"classic\"\nsecret = \"{secret}\""),
                Tokens::File => format!("source = \"file\"\npath = {:?}", self.token_file(simulator, appid)),
            };
            writeln!(
                text,
                "[[official_accounts]]\nname = \"{name}\"\nappid = \"{appid}\"\nkf_accounts = {kf_accounts:?}\n\
                 [official_accounts.token]\n{token}"
            )
            .unwrap();
        }
        std::fs::write(self.config(), text).unwrap();
    }

    /// Returns the event log as the program prints it.
    pub(crate) fn event_log(&self) -> Vec<Event> {
        let printed = Command::new(env!("CARGO_BIN_EXE_kfwatch"))
            .args(["events", "--format", "json", "-c"])
            .arg(self.config())
            .output()
            .unwrap();
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        String::from_utf8(printed.stdout).unwrap().lines().map(Event::parse).collect()
    }

    /// Returns the events in the sink's file. Fails unless it consists of whole lines.
    pub(crate) fn delivered(&self) -> Vec<Event> {
        let text = std::fs::read_to_string(self.sink_file()).unwrap_or_default();
        assert!(text.is_empty() || text.ends_with('\n'), "the file ends with half a line");
        text.lines().map(Event::parse).collect()
    }

    fn token_file(&self, simulator: &Simulator, appid: &str) -> PathBuf {
        let path = self.directory.path().join(format!("{appid}.token"));
        if !path.exists() {
            let token = simulator.control().fetch_competing_token(appid).unwrap();
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.create_new(true).write(true).mode(0o600).open(&path).unwrap();
            std::io::Write::write_all(&mut file, token.as_bytes()).unwrap();
        }
        path
    }
}
