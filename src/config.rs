//! The configuration: what can be set, how it is found and loaded.
//!
//! [`Config::load`] reads the TOML file, the files it includes and the variables that override it, checks everything, and
//! gives either a configuration that needs no more checking (paths are absolute, secrets read, schedules parsed) or all
//! mistakes at once, each with its place and what would be right. No secret is in any message or in any `Debug` output.
//!
//! The way of a file: `layers` merges files and environment, `raw` is the shape in which they are written, `setting` reads
//! single values without stopping at the first mistake, `check` turns the raw shape into [`Config`], and `locate` finds the
//! line for a mistake. Nothing here opens a socket, a store or a sink, and nothing reads the clock.

mod api;
mod backoff;
mod calls;
mod check;
mod environment;
mod kf_accounts;
mod layers;
mod locate;
mod mistake;
mod nats;
mod official_account;
mod raw;
mod report;
mod request_limit;
mod secret;
mod setting;
mod sink;
mod token;
mod webhook;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use glob::Pattern;
use reqwest::Url;
use secrecy::SecretString;

pub use self::api::Proxy;
pub use self::calls::CallsADay;
pub use self::environment::Environment;
pub use self::kf_accounts::MAX_KF_ACCOUNTS_PER_OFFICIAL_ACCOUNT;
pub use self::mistake::{Mistake, Mistakes, Place};
pub use self::official_account::{MAX_KF_ACCOUNTS, MAX_OFFICIAL_ACCOUNTS, MAX_SCHEDULES};
pub use self::setting::duration;
pub use self::sink::MAX_SINKS;
pub use crate::domain::backoff::BackoffPolicy;
use crate::domain::event::EventType;
use crate::domain::{collector_intervals::CollectorIntervals, cron::Schedule};
pub use crate::logging::LogFormat;
pub use crate::sink::{nats::NatsOptions, webhook::WebhookOptions};
pub use crate::wechat::{
    http::HttpVersion,
    token::{ComponentCredentials, TicketSource, TokenSource},
};

/// The variable that names the configuration file when the command line does not.
pub const PATH_VARIABLE: &str = "KFWATCH_CONFIG";

/// Where a configuration file is looked for when nothing names one, in this order.
pub const SEARCH_PATHS: [&str; 2] = ["config.toml", "/etc/kfwatch/config.toml"];

/// Everything that can be configured, checked and complete.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a drain may take before the process ends anyway.
    pub shutdown_timeout: Duration,
    /// The web server.
    pub web: Web,
    /// Log output.
    pub log: Log,
    /// The database.
    pub store: Store,
    /// How WeChat is called.
    pub api: Api,
    /// When accounts are polled.
    pub poll: Poll,
    /// How long failures hold back what failed: first waits not longer than longest ones, these from a second to a day.
    pub backoff_policy: BackoffPolicy,
    /// How often what else of official accounts is collected.
    pub collectors: CollectorIntervals,
    /// What is exported.
    pub metrics: Metrics,
    /// Whom to poll: at least one, names and appids unique, in the order of the files.
    pub official_accounts: Vec<OfficialAccount>,
    /// Where events go: at least one, names unique.
    pub sinks: Vec<Sink>,
}

/// `[web]`
#[derive(Clone, Debug)]
pub struct Web {
    /// The addresses to listen on: at least one, none twice.
    pub listen: Vec<SocketAddr>,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// A filter that `tracing_subscriber::EnvFilter` accepts.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// `[store]`
#[derive(Clone, Debug)]
pub struct Store {
    /// The database file; absolute.
    pub path: PathBuf,
    /// How long events are kept after they were observed, longer while a sink has not confirmed them.
    pub event_retention: Duration,
    /// How large the store may become, in bytes, before events are removed earlier.
    pub event_log_max_bytes: u64,
    /// How long dead letters are kept.
    pub dead_letter_retention: Duration,
}

/// `[api]`
#[derive(Clone, Debug)]
pub struct Api {
    /// Where WeChat's API is; https, or http where that was allowed. No query, fragment or credentials.
    pub base_url: Url,
    /// Whether plain http is allowed beyond this machine.
    pub allow_insecure: bool,
    /// For a connection to stand, TLS included; at most `timeout`.
    pub connect_timeout: Duration,
    /// For a request, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// Requests under way at once.
    pub max_in_flight: usize,
    /// Of these, requests for one official account; at most `max_in_flight`.
    pub max_in_flight_per_official_account: usize,
    /// Bytes of an answer, unpacked; a longer one is refused.
    pub max_body_bytes: usize,
    /// The HTTP version to speak.
    pub http_version: HttpVersion,
    /// PEM certificates to trust in place of the system's; absolute. Held a certificate when the configuration was read.
    pub ca_file: Option<PathBuf>,
    /// The proxy for all calls to WeChat.
    pub proxy: Option<Proxy>,
}

/// `[poll]`, without what is resolved per official account: its schedule and its limit on requests.
#[derive(Clone, Debug)]
pub struct Poll {
    /// Polls of one tick are spread over this time.
    pub spread: Duration,
    /// After this time without a good or conclusive answer an account counts as blind.
    pub blind_after: Duration,
}

/// `[metrics]`
#[derive(Clone, Copy, Debug)]
pub struct Metrics {
    /// Whether each kf account has its own series, rather than sums per official account.
    pub per_account: bool,
}

/// `[[official_accounts]]`
#[derive(Clone, Debug)]
pub struct OfficialAccount {
    /// The label `official_account`; letters, digits, `-` and `_`.
    pub name: String,
    /// WeChat's id of it.
    pub appid: String,
    /// The full kf accounts that are named, `prefix@wechatid`: none twice, and at least one unless there are patterns.
    pub kf_accounts: Vec<String>,
    /// Kf accounts that match one of these are watched as well while getkflist lists them.
    pub patterns: Vec<Pattern>,
    /// Those that match one of these are not; none of the named ones does.
    pub exclude: Vec<Pattern>,
    /// When to poll it: its own schedule and time zone, or those of `[poll]`.
    pub schedule: Schedule,
    /// How many of its calls, those for tokens excepted, may be made a minute; its own limit, or that of `[poll]`.
    pub max_requests_per_minute: Option<NonZeroU32>,
    /// Where its access token comes from.
    pub token: Token,
}

/// `[official_accounts.token]`
#[derive(Clone, Debug)]
pub enum Token {
    /// A source of its own.
    Own(TokenSource),
    /// A third-party platform ("component") that it has authorized.
    Component {
        /// Shared by all official accounts with the same component_appid.
        credentials: Arc<ComponentCredentials>,
        /// The refresh token to begin with; without one it is looked up in WeChat's list.
        refresh_token: Option<SecretString>,
    },
}

impl Token {
    /// The word of the key `source`.
    pub fn source(&self) -> &'static str {
        match self {
            Self::Own(TokenSource::Stable { .. }) => "stable",
            Self::Own(TokenSource::Classic { .. }) => "classic",
            Self::Own(TokenSource::File { .. }) => "file",
            Self::Own(TokenSource::Server(_)) => "server",
            Self::Component { .. } => "component",
        }
    }
}

/// `[[sinks]]`
#[derive(Clone, Debug)]
pub struct Sink {
    /// The label `sink`; letters, digits, `-` and `_`.
    pub name: String,
    /// Where its events go.
    pub target: SinkTarget,
    /// Where it starts in the event log when it was not seen before.
    pub start: SinkStart,
    /// The kinds of event that it gets; none given means all.
    pub types: Vec<EventType>,
    /// The names of the official accounts whose events it gets; none given means all.
    pub official_accounts: Vec<String>,
}

/// Where a sink's events go.
#[derive(Clone, Debug)]
pub enum SinkTarget {
    /// JSON lines on standard output.
    Stdout,
    /// JSON lines in a file.
    File {
        /// The file; absolute, and no other sink's.
        path: PathBuf,
        /// Its permission bits when it is created.
        mode: u32,
        /// The name of the group that it is given to.
        group: Option<String>,
    },
    /// An HTTP server that each event is posted to.
    Webhook(Box<WebhookOptions>),
    /// A stream of NATS JetStream that each event is published to.
    Nats(Box<NatsOptions>),
}

/// Where a new sink starts in the event log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkStart {
    /// With the events that are yet to come.
    Now,
    /// With the oldest event there is.
    Beginning,
}

/// A configuration that can be used, and what its owner should know of it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Things that work but should be looked at, each in one line.
    pub warnings: Vec<String>,
}

impl Config {
    /// Which file to load: `explicit` if given, else the one that [`PATH_VARIABLE`] names, else the first of [`SEARCH_PATHS`]
    /// that exists.
    pub fn find(explicit: Option<PathBuf>, environment: &Environment) -> Result<PathBuf, Mistakes> {
        let named = environment.get(PATH_VARIABLE).filter(|path| !path.is_empty());
        explicit.or_else(|| named.map(PathBuf::from)).map_or_else(|| first_existing(&SEARCH_PATHS), Ok)
    }

    /// Loads the file with what it includes, overridden by the variables `KFWATCH__SECTION__KEY`.
    ///
    /// Relative paths in it and in included files are relative to the directory of `path`.
    pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Mistakes> {
        let main = layers::Source::read(path)?;
        check::check(layers::read(main, environment)?, environment)
    }

    /// Loads a configuration from its text, as [`Config::load`] does. Relative paths are relative to `base_dir`, which is
    /// absolute; in mistakes the text is called `configuration`.
    pub fn from_toml(text: &str, base_dir: &Path, environment: &Environment) -> Result<Loaded, Mistakes> {
        let main = layers::Source::from_text(text, base_dir);
        check::check(layers::read(main, environment)?, environment)
    }
}

fn first_existing(paths: &[&str]) -> Result<PathBuf, Mistakes> {
    let found = paths.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| {
        let looked_at = paths.join(" and ");
        Mistake::general(format!(
            "no configuration file: --config is not given, {PATH_VARIABLE} is not set, and there is no {looked_at}; \
             write one, starting from config.example.toml"
        ))
        .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_variable() {
        let environment = Environment::from_iter([(PATH_VARIABLE, "/from/variable.toml")]);
        assert_eq!(Config::find(Some("given.toml".into()), &environment).unwrap(), Path::new("given.toml"));
        assert_eq!(Config::find(None, &environment).unwrap(), Path::new("/from/variable.toml"));
    }

    #[test]
    fn the_first_file_that_exists_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["missing.toml", "second.toml", "third.toml"].map(|name| dir.path().join(name));
        for path in &paths[1..] {
            std::fs::write(path, "").unwrap();
        }
        let names = paths.each_ref().map(|path| path.to_str().unwrap());
        assert_eq!(first_existing(&names).unwrap(), paths[1]);
    }

    #[test]
    fn when_nothing_is_found_the_mistake_says_where_was_looked() {
        let mistakes = first_existing(&["/nowhere/a.toml", "/nowhere/b.toml"]).unwrap_err();
        assert_eq!(
            mistakes.to_string(),
            "no configuration file: --config is not given, KFWATCH_CONFIG is not set, and there is no /nowhere/a.toml and \
             /nowhere/b.toml; write one, starting from config.example.toml"
        );
    }
}
