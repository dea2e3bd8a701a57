//! kfwatch watches WeChat customer service sessions: it polls getsessionlist on a schedule, turns the differences
//! into durable session-start and session-end events, and exports what it sees to Prometheus.
//!
//! A tick of a [`schedule`] makes [`poll`] ask [`wechat`] for an account's sessions and compare the answer with what
//! is known ([`domain`]); the difference is committed to the [`store`] together with the new snapshot; [`dispatch`]
//! reads the log from there for each [`sink`]. [`metrics`] and [`status`] see what happens, [`web`] shows it, [`control`]
//! does what a person asks for, and [`app`] puts all of it together. Whom connections [`trust`] is one answer for all.

/// The revision of the source that was built, where the build was told of it.
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

/// An error with its causes, each once, on one line.
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
