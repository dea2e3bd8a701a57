//! The types of a checked configuration, one for each section of the file.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use glob::Pattern;
use reqwest::Url;
use secrecy::SecretString;

use crate::domain::{backoff::BackoffPolicy, event::EventType};
use crate::domain::{
    collector_intervals::CollectorIntervals, cron::Schedule, language::Language, local_time::LocalZone,
};
use crate::logging::LogFormat;
use crate::secrets::SameSecret;
use crate::sink::{chat::ChatOptions, nats::NatsOptions, webhook::WebhookOptions};
use crate::store::PostgresOptions;
use crate::tls::CaFile;
use crate::wechat::{
    http::HttpVersion,
    token::{ComponentCredentials, TokenSource},
};

/// A valid configuration, and warnings for its owner.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    /// Complete and valid.
    pub config: Config,
    /// Settings that work but deserve attention, each in one line.
    pub warnings: Vec<String>,
}

/// Everything that can be configured, validated and complete. Contains the content of secrets and of certificate files, so that two
/// configurations are equal only if they do the same.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the type of a section describes it")]
pub struct Config {
    /// How long a drain may take before the process ends anyway.
    pub shutdown_timeout: Duration,
    /// How often the files are read to find out whether they have changed; `None` turns it off.
    pub reload_interval: Option<Duration>,
    pub web: WebConfig,
    pub log: LogConfig,
    pub store: StoreConfig,
    pub control: ControlConfig,
    pub api: ApiConfig,
    pub poll: PollConfig,
    /// How long to back off after failures. Longest backoffs are between a second and a day, first ones not longer.
    pub backoff_policy: BackoffPolicy,
    pub collectors: CollectorIntervals,
    /// Which series are exported.
    pub metrics: MetricsConfig,
    /// At least one, with unique names and appids, in the order of the files.
    pub official_accounts: Vec<OfficialAccountConfig>,
    /// At least one, with unique names.
    pub sinks: Vec<SinkConfig>,
}

/// The part of a configuration that commands on the store need.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// Log output.
    pub log: LogConfig,
    /// The database.
    pub store: StoreConfig,
    /// Where a running daemon accepts commands.
    pub control: ControlConfig,
    /// Where people read and write times: `poll.timezone`.
    pub timezone: LocalZone,
}

/// `[web]`
#[derive(Clone, Debug, PartialEq)]
pub struct WebConfig {
    /// The addresses to listen on: at least one, without duplicates.
    pub listen: Vec<SocketAddr>,
    /// Whether `/-/reload` reloads the configuration.
    pub enable_reload: bool,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// A filter that `tracing_subscriber::EnvFilter` accepts.
    pub level: String,
    /// Text or JSON.
    pub format: LogFormat,
    /// The language of remedies.
    pub language: Language,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq)]
pub struct StoreConfig {
    /// Where it is.
    pub location: StoreLocation,
    /// How long events are kept after they were observed. Events that a sink has not acknowledged stay longer.
    pub event_retention: Duration,
    /// The size of the store, in bytes, above which events are removed earlier.
    pub event_log_max_bytes: u64,
    /// How long dead letters are kept.
    pub dead_letter_retention: Duration,
}

/// Where the store is.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreLocation {
    /// A SQLite file; absolute.
    File(PathBuf),
    /// A PostgreSQL database, which several replicas share.
    Postgres(Box<ClusterConfig>),
}

impl StoreLocation {
    /// The SQLite file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }
}

/// The database of `[store]`, and `[cluster]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConfig {
    /// How to connect to it.
    pub database: PostgresOptions,
    /// The name of this replica, which no other one has.
    pub name: String,
    /// Where people reach the page of this replica.
    pub advertise: Option<Url>,
}

/// `[control]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlConfig {
    /// The control socket of the daemon.
    pub socket: SocketLocation,
    /// Whether it is where a replica has it by default.
    pub is_default: bool,
}

/// The name of the socket in the directory that systemd gives to the daemon.
pub(super) const RUNTIME_SOCKET: &str = "control.sock";

/// Where a control socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketLocation {
    /// Beside this SQLite file, which may be a link or not exist yet.
    BesideFile(PathBuf),
    /// There.
    At(PathBuf),
}

impl ControlConfig {
    /// The path of the socket. Links to a SQLite file are followed, as for its lock.
    pub fn socket_path(&self) -> PathBuf {
        match &self.socket {
            SocketLocation::BesideFile(file) => {
                let mut path = file.canonicalize().unwrap_or_else(|_| file.clone()).into_os_string();
                path.push("-control");
                path.into()
            }
            SocketLocation::At(path) => path.clone(),
        }
    }

    /// The path of the socket of a running daemon. A command does not see the directory that systemd gives to the daemon.
    pub fn path_of_daemon(&self) -> PathBuf {
        let path = self.socket_path();
        let other = path.with_file_name(RUNTIME_SOCKET);
        if self.is_default && !path.exists() && other.exists() { other } else { path }
    }
}

/// The daemon that the socket belongs to.
impl fmt::Display for ControlConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            SocketLocation::BesideFile(file) => write!(f, "the kfwatch that uses {}", file.display()),
            SocketLocation::At(path) => write!(f, "the kfwatch with the control socket {}", path.display()),
        }
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Postgres(cluster) => cluster.database.fmt(f),
        }
    }
}

/// `[api]`
#[derive(Clone, Debug, PartialEq)]
pub struct ApiConfig {
    /// WeChat's API: https, or http where that is allowed. It has no query, fragment or credentials.
    pub base_url: Url,
    /// Whether plain http is allowed to other machines.
    pub allow_insecure: bool,
    /// The limit for connecting, TLS included; at most `timeout`.
    pub connect_timeout: Duration,
    /// The limit for a request, from connecting to the last byte of the response.
    pub timeout: Duration,
    /// Concurrent requests.
    pub max_in_flight: usize,
    /// Concurrent requests for one official account; at most `max_in_flight`.
    pub max_in_flight_per_official_account: usize,
    /// The largest response that is accepted, in bytes after decompression.
    pub max_body_bytes: usize,
    /// Which version, or whether the server may choose it.
    pub http_version: HttpVersion,
    /// PEM certificates that replace the system's TLS roots; absolute. It contained a certificate when it was checked.
    pub ca_file: Option<CaFile>,
    /// The proxy for all calls to WeChat.
    pub proxy: Option<Proxy>,
}

/// An http or https proxy. Its URL may contain a password, so `Debug` shows only the host.
#[derive(Clone, PartialEq)]
pub struct Proxy {
    pub(crate) url: Url,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

/// `[poll]`, without the schedule and the rate limit, which are resolved for each official account.
#[derive(Clone, Debug, PartialEq)]
pub struct PollConfig {
    /// The polls of one tick are spread over this time.
    pub spread: Duration,
    /// An account without a conclusive answer for this long counts as blind.
    pub blind_after: Duration,
    /// Where people read and write times. Official accounts may have another zone for their schedules.
    pub timezone: LocalZone,
}

/// `[metrics]`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MetricsConfig {
    /// Whether each kf account has its own series, instead of sums per official account.
    pub per_account: bool,
    /// Whether nicknames of agents, which are names of people, are exported.
    pub nicknames: bool,
}

/// `[[official_accounts]]`
#[derive(Clone, Debug, PartialEq)]
pub struct OfficialAccountConfig {
    /// The label `official_account`: letters, digits, `-` and `_`.
    pub name: String,
    /// WeChat's id of the official account.
    pub appid: String,
    /// Kf accounts by full name (`prefix@wechatid`), without duplicates; at least one unless there are patterns.
    pub kf_accounts: Vec<String>,
    /// Kf accounts that getkflist lists and that match one of these are polled too.
    pub patterns: Vec<Pattern>,
    /// Kf accounts that match one of these are not polled; none of `kf_accounts` matches.
    pub exclude: Vec<Pattern>,
    /// Its own schedule and time zone, or those of `[poll]`.
    pub schedule: Schedule,
    /// The rate limit of its API calls except token calls: its own, or that of `[poll]`.
    pub max_requests_per_minute: Option<NonZeroU32>,
    /// Where its access token comes from.
    pub token: TokenConfig,
}

/// `[official_accounts.token]`
#[derive(Clone, Debug)]
pub enum TokenConfig {
    /// A source of its own.
    Own(TokenSource),
    /// A third-party platform ("component") that the official account has authorized.
    Component {
        /// Shared by all official accounts with the same component_appid.
        credentials: Arc<ComponentCredentials>,
        /// The initial refresh token; without one it is looked up in WeChat's list.
        refresh_token: Option<SecretString>,
    },
}

impl PartialEq for TokenConfig {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Own(one), Self::Own(other)) => one == other,
            (
                Self::Component { credentials, refresh_token },
                Self::Component { credentials: other, refresh_token: other_token },
            ) => credentials == other && refresh_token.is_same(other_token),
            (_, _) => false,
        }
    }
}

impl TokenConfig {
    /// The value of the key `source`.
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
#[derive(Clone, Debug, PartialEq)]
pub struct SinkConfig {
    /// The label `sink`: letters, digits, `-` and `_`.
    pub name: String,
    /// Where the events go.
    pub target: SinkTarget,
    /// Where a new sink starts in the event log.
    pub start: SinkStart,
    /// The event types to deliver; empty means all.
    pub types: Vec<EventType>,
    /// The names of the official accounts whose events are delivered; empty means all.
    pub official_accounts: Vec<String>,
}

/// Where a sink's events go.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkTarget {
    /// JSON lines on standard output.
    Stdout,
    /// JSON lines in a file.
    File {
        /// Absolute, and unique among the sinks.
        path: PathBuf,
        /// The permission bits of a new file.
        mode: u32,
        /// The name of the group that owns a new file.
        group: Option<String>,
    },
    /// An HTTP server that each event is posted to.
    Webhook(Box<WebhookOptions>),
    /// A stream of NATS JetStream that each event is published to.
    Nats(Box<NatsOptions>),
    /// A group robot that messages for people are sent to.
    Chat(Box<ChatOptions>),
}

/// Where a new sink starts in the event log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkStart {
    /// With the next event.
    Now,
    /// With the oldest stored event.
    Beginning,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_proxy_password() {
        let proxy = Proxy { url: "http://me:hunter2@proxy.example:3128".parse().unwrap() };
        assert_eq!(format!("{proxy:?}"), r#"Proxy { host: Some("proxy.example"), .. }"#);
    }
}
