//! kfwatch watches WeChat customer service sessions: it polls getsessionlist on a schedule, records the differences as
//! session-start and session-end events in a durable log, delivers them, and exports metrics to Prometheus.
//!
//! At each tick of a [`schedule`], [`poll`] calls [`wechat`] for an account's sessions and compares the answer with the
//! previous snapshot ([`domain`]). The events are committed to the [`store`] together with the new snapshot, and
//! [`dispatch`] delivers them from there to each [`sink`]. [`status`] has the views of the accounts; [`metrics`] and [`web`]
//! show them. [`control`] carries out an operator's commands, [`tls`] loads the TLS roots, and [`app`] builds and runs all
//! of it.

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
pub mod logging;
pub mod metrics;
pub mod poll;
pub mod schedule;
pub mod simulator;
pub mod sink;
pub mod status;
pub mod store;
pub mod tls;
pub mod web;
pub mod wechat;

/// Formats an error with its chain of causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line.replace('\n', " ")
}
