//! Commands of an operator: `kfwatch poll`, `kfwatch check --online`, `kfwatch sessions`, `kfwatch reload` and the commands on sinks, and
//! the control socket through which a running daemon carries them out.
//!
//! [`operations`] polls and checks. In the daemon it works with the daemon's own official accounts, and so shares their tokens,
//! poll guards and backoff; without a daemon, with official accounts made for the one command. A second token fetch could
//! invalidate the daemon's token, so while a daemon runs a command only sends a request ([`client`]) and prints the response. Polls
//! made here are never committed, and nothing at WeChat is changed. Commands on sinks belong to
//! [`dispatch::admin`](crate::dispatch::admin). A reload is only passed on ([`reload`](crate::reload)).
//!
//! The socket file lies in the directory of the store, and only its owner can use it ([`socket`]). [`server`] serves HTTP on it:
//! `POST /v1/poll`, `POST /v1/check` and `POST /v1/sessions`, each with an [`AccountFilter`] as its query,
//! `POST /v1/sinks?action=…` and `POST /v1/reload?mode=…`. They take no body, and return one line of JSON for
//! each result as it arrives, and a last line that says that the response is complete. Empty lines in between are heartbeats.
//! `GET /v1/health` answers at once with status 200, or 503 and what stalls.

mod check;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod executor;
mod lanes;
pub(crate) mod operations;
mod poll;
mod quota;
pub mod report;
mod requests;
mod selection;
pub(crate) mod server;
pub mod sessions;
pub(crate) mod socket;

use std::{path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    dispatch::admin::SinkCommand,
    domain::account_filter::AccountFilter,
    reload::{PlannedChange, ReloadMode},
};

/// Why there can be no control socket with this path, if it is too long.
pub(crate) fn problem_of_socket(path: &Path) -> Option<String> {
    socket::check(path).err().map(|error| crate::chain(&error))
}

/// A command that the daemon carries out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ControlCommand {
    /// Poll each selected kf account once.
    Poll(AccountFilter),
    /// Check with WeChat that each selected account works.
    Check(AccountFilter),
    /// List the open sessions. Reads memory only.
    Sessions(AccountFilter),
    Sinks(SinkCommand),
    /// Apply the changed configuration, or only report what would change.
    Reload(ReloadMode),
}

impl ControlCommand {
    /// Whether it calls WeChat, changes a sink or applies a configuration. The log has such commands.
    fn changes_something(&self) -> bool {
        match self {
            Self::Poll(_) | Self::Check(_) | Self::Reload(ReloadMode::Apply) => true,
            Self::Sessions(_) | Self::Reload(ReloadMode::DryRun) => false,
            Self::Sinks(command) => !matches!(command, SinkCommand::Show | SinkCommand::DeadLetters { .. }),
        }
    }

    /// Whether all replicas of a cluster carry it out, each for its own shards. The others ask this replica alone; what they read of sinks
    /// is the same everywhere.
    fn concerns_all_replicas(&self) -> bool {
        match self {
            Self::Poll(_) | Self::Check(_) => true,
            Self::Sinks(_) => self.changes_something(),
            Self::Sessions(_) | Self::Reload(_) => false,
        }
    }

    fn path(&self) -> &'static str {
        match self {
            Self::Poll(_) => POLL_PATH,
            Self::Check(_) => CHECK_PATH,
            Self::Sessions(_) => SESSIONS_PATH,
            Self::Sinks(_) => SINKS_PATH,
            Self::Reload(_) => RELOAD_PATH,
        }
    }
}

// The version in these paths is that of the reports and of `ResponseLine`: it changes whenever an older client would misread them.
const POLL_PATH: &str = "/v1/poll";
const CHECK_PATH: &str = "/v1/check";
const SESSIONS_PATH: &str = "/v1/sessions";
const SINKS_PATH: &str = "/v1/sinks";
const RELOAD_PATH: &str = "/v1/reload";
const HEALTH_PATH: &str = "/v1/health";

/// One line of a response.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ResponseLine<T> {
    Row(T),
    /// Something that a person should know while there are no results yet.
    Note(String),
    /// There are no more results, for this reason.
    Failed(String),
    /// There are no results: the filter selects no account, as this text says.
    UnknownAccount(String),
    /// The response is complete.
    Done,
}

/// The query of a reload.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadQuery {
    mode: ReloadMode,
}

/// One row of the response to a reload.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReloadRow {
    Change(PlannedChange),
    Deferred(String),
    Warning(String),
    /// The configuration was refused, for this reason.
    Refused(String),
}

/// The header in which a daemon states its version.
const VERSION_HEADER: &str = "kfwatch-version";

/// A daemon that has no result to send sends an empty line this often.
const HEARTBEAT: Duration = Duration::from_secs(5);
