//! The integration tests, one module per subject, in one binary, which links once. All share the helpers in `support`.
//!
//! Tests run concurrently in this process. No test may depend on the working directory, the environment or other state of the
//! process, or change it. Tests that need other programs are ignored; `tests/run.sh` selects them by module.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports by printing, and clippy does not see that helpers belong to tests"
)]

mod support;

mod alerting;
mod backup;
mod chat;
mod classes;
mod clock_skew;
mod cluster;
mod collectors;
mod commands;
mod config;
mod conservation;
mod control;
mod dashboards;
mod day;
mod delivery;
mod delivery_changes;
mod delivery_faults;
mod discovery;
mod docs;
mod faults;
mod kf_list;
mod layers;
mod limits;
mod live_changes;
mod mistakes;
mod monitoring;
mod nats;
mod operations;
mod platform;
mod poll;
mod poll_log;
mod queue;
mod reload;
mod reload_requests;
mod schedule;
mod secrets;
mod service;
mod simulator;
mod sink_commands;
mod sinks;
mod startup;
mod store;
mod ten_faults;
mod token_races;
mod tokens;
mod usage;
mod webhook_receivers;
mod wechat;
