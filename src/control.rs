//! What a person asks for by `kfwatch poll` and `kfwatch check --online`, and the socket through which a running daemon
//! does it.
//!
//! [`operations`] does the work in one way for both: in the daemon with its own official accounts, and with them their
//! tokens, claims and holds; where no daemon runs, with official accounts that the command has made. A second fetch of
//! a token could void the daemon's, so beside a daemon a command only asks ([`client`]) and prints. Nothing is committed
//! here, and nothing at WeChat is changed.
//!
//! The socket lies beside the store and is its owner's alone ([`socket`]). On it [`server`] speaks HTTP: `POST /v1/poll`
//! or `POST /v1/check`, without a body, are answered with a line of JSON for each result, as it comes, and a last line
//! that says that it was all. Empty lines in between mean that the daemon is still at it.

mod check;
pub mod client;
pub mod operations;
pub mod report;
pub mod server;
pub mod socket;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Poll every kf account once.
    Poll,
    /// Ask WeChat for all that tells whether everything is in order.
    Check,
}

impl Command {
    /// Where it is asked for. The version is that of the rows and lines: another one does not understand them.
    fn path(self) -> &'static str {
        match self {
            Self::Poll => "/v1/poll",
            Self::Check => "/v1/check",
        }
    }

    fn from_path(path: &str) -> Option<Self> {
        [Self::Poll, Self::Check].into_iter().find(|command| command.path() == path)
    }
}

/// A line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line<T> {
    /// A result.
    Row(T),
    /// There will be no more results, and why.
    Failed(String),
    /// That was all.
    Done,
}

/// The header in which a daemon says which kfwatch it is.
const VERSION_HEADER: &str = "kfwatch-version";

/// How often a daemon that has nothing to tell yet says that it is still there.
const HEARTBEAT: Duration = Duration::from_secs(5);
