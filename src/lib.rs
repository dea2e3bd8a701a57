//! kfwatch watches WeChat customer service sessions: it polls getsessionlist on a schedule, records the differences as
//! session-start and session-end events in a durable log, delivers them, and exports metrics to Prometheus.
//!
//! At each tick of a [`schedule`], [`poll`] calls [`wechat`] for an account's sessions and compares the answer with the
//! previous snapshot ([`domain`]). The events are committed to the [`store`] together with the new snapshot, and
//! [`dispatch`] delivers them from there to each [`sink`]. [`status`] has the views of the accounts; [`metrics`] and [`web`]
//! show them. [`control`] carries out an operator's commands, [`secrets`] reads secret files again, [`tls`] loads the TLS roots, [`reload`]
//! passes on who asks for a changed configuration, [`stdio`] writes to standard output
//! and standard error, and [`app`] builds and runs all of it.

/// The revision of the source code, if the build knew it.
pub const REVISION: &str = match option_env!("KFWATCH_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod dispatch;
pub mod domain;
mod file_system;
mod http;
pub mod logging;
pub mod metrics;
pub mod poll;
pub mod reload;
pub mod schedule;
pub mod secrets;
pub mod simulator;
pub mod sink;
pub mod status;
pub mod stdio;
pub mod store;
pub mod tls;
pub mod web;
pub mod wechat;

use self::domain::peer_text::{PeerText, sanitized};

/// The error, its cause, the cause of that, and so on.
pub(crate) fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Formats an error with its chain of causes, on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let texts: Vec<String> = causes(error).map(ToString::to_string).collect();
    sanitized(&texts.join(": "))
}

/// The text of the innermost cause of an error of a connection, which says most. It may quote the peer.
pub(crate) fn innermost_cause(error: &(dyn std::error::Error + 'static)) -> PeerText {
    causes(error).last().unwrap_or(error).to_string().into()
}
