//! What a person asks for by `kfwatch poll`, `kfwatch check --online`, and what concerns sinks, and the socket through which a
//! running daemon does it.
//!
//! [`operations`] does what calls WeChat in one way for both: in the daemon with its own official accounts, and with them their
//! tokens, claims and holds; where no daemon runs, with official accounts that the command has made. A second fetch of
//! a token could void the daemon's, so beside a daemon a command only asks ([`client`]) and prints. No poll is committed
//! here, and nothing at WeChat is changed. What concerns sinks is [`dispatch::admin`](crate::dispatch::admin)'s.
//!
//! The socket lies beside the store and is its owner's alone ([`socket`]). On it [`server`] speaks HTTP: `POST /v1/poll`,
//! `POST /v1/check` or `POST /v1/sinks?action=…`, without a body, are answered with a line of JSON for each result, as it comes,
//! and a last line that says that it was all. Empty lines in between mean that the daemon is still at it.

mod check;
pub mod client;
pub mod operations;
pub mod report;
pub mod server;
pub mod socket;
mod turns;

use std::time::Duration;

use axum::extract::{Query, rejection::QueryRejection};
use hyper::Uri;
use serde::{Deserialize, Serialize};

use crate::dispatch::admin::SinkCommand;

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Poll every kf account once.
    Poll,
    /// Ask WeChat for all that tells whether everything is in order.
    Check,
    /// Something of sinks.
    Sinks(SinkCommand),
}

impl Command {
    /// Where it is asked for. The version is that of the rows and lines: another one does not understand them.
    fn path(&self) -> &'static str {
        match self {
            Self::Poll => POLL_PATH,
            Self::Check => CHECK_PATH,
            Self::Sinks(_) => SINKS_PATH,
        }
    }

    /// `None` if there is nothing there to ask for; an error if what is asked for is not understood.
    fn from_uri(uri: &Uri) -> Option<Result<Self, QueryRejection>> {
        match uri.path() {
            POLL_PATH => Some(Ok(Self::Poll)),
            CHECK_PATH => Some(Ok(Self::Check)),
            SINKS_PATH => Some(Query::try_from_uri(uri).map(|Query(command)| Self::Sinks(command))),
            _ => None,
        }
    }
}

const POLL_PATH: &str = "/v1/poll";
const CHECK_PATH: &str = "/v1/check";
const SINKS_PATH: &str = "/v1/sinks";

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
