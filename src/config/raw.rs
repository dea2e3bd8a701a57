//! The shape of a configuration file: the keys of each section, and their types.
//!
//! Nothing is checked here. The modules that turn each section into its part of [`Config`](super::Config) contain the
//! defaults, the limits and the dependencies between keys.

use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

use super::setting::{Interval, Section, Setting, TextList};

/// The main file.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Root {
    pub(super) include: Setting<TextList>,
    pub(super) shutdown_timeout: Setting<Duration>,
    pub(super) reload_interval: Setting<Interval>,
    pub(super) web: Section<Web>,
    pub(super) log: Section<Log>,
    pub(super) store: Section<Store>,
    pub(super) cluster: Section<Cluster>,
    pub(super) control: Section<Control>,
    pub(super) api: Section<Api>,
    pub(super) poll: Section<Poll>,
    pub(super) backoff: Section<Backoff>,
    pub(super) collectors: Section<Collectors>,
    pub(super) metrics: Section<Metrics>,
    pub(super) official_accounts: Setting<Vec<Section<OfficialAccount>>>,
    pub(super) sinks: Setting<Vec<Section<Sink>>>,
}

/// An included file.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Included {
    pub(super) official_accounts: Setting<Vec<Section<OfficialAccount>>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Web {
    pub(super) listen: Setting<TextList>,
    pub(super) enable_reload: Setting<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    pub(super) level: Setting<String>,
    pub(super) format: Setting<String>,
    pub(super) language: Setting<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Store {
    pub(super) backend: Setting<String>,
    pub(super) path: Setting<String>,
    pub(super) url_file: Setting<String>,
    pub(super) url_env: Setting<String>,
    pub(super) url: Setting<SecretString>,
    pub(super) ca_file: Setting<String>,
    pub(super) schema: Setting<String>,
    pub(super) event_retention: Setting<Duration>,
    pub(super) event_log_max_bytes: Setting<i64>,
    pub(super) dead_letter_retention: Setting<Duration>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cluster {
    pub(super) name: Setting<String>,
    pub(super) advertise: Setting<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Control {
    pub(super) socket: Setting<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Api {
    pub(super) base_url: Setting<String>,
    pub(super) allow_insecure: Setting<bool>,
    pub(super) connect_timeout: Setting<Duration>,
    pub(super) timeout: Setting<Duration>,
    pub(super) max_in_flight: Setting<i64>,
    pub(super) max_in_flight_per_official_account: Setting<i64>,
    pub(super) max_body_bytes: Setting<i64>,
    pub(super) http_version: Setting<String>,
    pub(super) ca_file: Setting<String>,
    pub(super) proxy: Setting<SecretString>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Poll {
    pub(super) schedule: Setting<TextList>,
    pub(super) timezone: Setting<String>,
    pub(super) spread: Setting<Duration>,
    pub(super) blind_after: Setting<Duration>,
    pub(super) max_requests_per_minute: Setting<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Backoff {
    pub(super) token_rejected: Setting<BackoffTimes>,
    pub(super) busy: Setting<BackoffTimes>,
    pub(super) day_quota: Setting<Duration>,
    pub(super) address_not_allowed: Setting<BackoffTimes>,
    pub(super) not_authorized: Setting<BackoffTimes>,
    pub(super) not_enabled: Setting<BackoffTimes>,
    pub(super) unbound: Setting<BackoffTimes>,
    pub(super) bad_request: Setting<BackoffTimes>,
    pub(super) unknown: Setting<BackoffTimes>,
}

/// The first and the longest backoff, not checked against each other.
#[derive(Clone, Copy)]
pub(super) struct BackoffTimes {
    pub(super) first: Duration,
    pub(super) longest: Duration,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Collectors {
    pub(super) kf_list: Setting<Interval>,
    pub(super) online: Setting<Interval>,
    pub(super) waiting: Setting<Interval>,
    pub(super) quota: Setting<Interval>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) per_account: Setting<bool>,
    pub(super) nicknames: Setting<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct OfficialAccount {
    pub(super) name: Setting<String>,
    pub(super) appid: Setting<String>,
    pub(super) kf_accounts: Setting<TextList>,
    pub(super) exclude: Setting<TextList>,
    pub(super) schedule: Setting<TextList>,
    pub(super) timezone: Setting<String>,
    pub(super) max_requests_per_minute: Setting<i64>,
    pub(super) token: Section<Token>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Token {
    pub(super) source: Setting<String>,
    pub(super) secret_file: Setting<String>,
    pub(super) secret_env: Setting<String>,
    pub(super) secret: Setting<SecretString>,
    pub(super) path: Setting<String>,
    pub(super) url: Setting<SecretString>,
    pub(super) component_appid: Setting<String>,
    pub(super) ticket_file: Setting<String>,
    pub(super) ticket_url: Setting<SecretString>,
    pub(super) json_pointer: Setting<String>,
    pub(super) header_file: Setting<String>,
    pub(super) allow_insecure: Setting<bool>,
    pub(super) refresh_token_file: Setting<String>,
    pub(super) refresh_token_env: Setting<String>,
    pub(super) refresh_token: Setting<SecretString>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Sink {
    pub(super) name: Setting<String>,
    #[serde(rename = "type")]
    pub(super) kind: Setting<String>,
    pub(super) path: Setting<String>,
    pub(super) mode: Setting<String>,
    pub(super) group: Setting<String>,
    pub(super) vendor: Setting<String>,
    pub(super) url_file: Setting<String>,
    pub(super) url_env: Setting<String>,
    pub(super) url: Setting<SecretString>,
    pub(super) allow_insecure: Setting<bool>,
    pub(super) secret_file: Setting<String>,
    pub(super) secret_env: Setting<String>,
    pub(super) secret: Setting<SecretString>,
    pub(super) lang: Setting<String>,
    pub(super) header_files: Setting<TextList>,
    pub(super) subject_prefix: Setting<String>,
    pub(super) credentials_file: Setting<String>,
    pub(super) nkey_file: Setting<String>,
    pub(super) user: Setting<String>,
    pub(super) ca_file: Setting<String>,
    pub(super) timeout: Setting<Duration>,
    pub(super) max_in_flight: Setting<i64>,
    pub(super) start: Setting<String>,
    pub(super) types: Setting<TextList>,
    pub(super) official_accounts: Setting<TextList>,
}
