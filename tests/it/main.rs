//! The integration tests, one module per subject, in one binary: they link once and share one kit, `support`.
//!
//! Tests run side by side in this process. None may depend on the working directory, the environment, or any other state of
//! the process, nor change it. Tests that need other programs are ignored; `tests/run.sh` selects them by their module.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, and clippy does not see that helpers belong to tests"
)]

mod support;

mod alerting;
mod backup;
mod classes;
mod clock_skew;
mod collectors;
mod config;
mod conservation;
mod control;
mod dashboards;
mod day;
mod delivery;
mod delivery_faults;
mod discovery;
mod docs;
mod kf_list;
mod layers;
mod limits;
mod monitoring;
mod nats;
mod operations;
mod platform;
mod poll;
mod schedule;
mod secrets;
mod service;
mod simulator;
mod sinks;
mod store;
mod token_races;
mod tokens;
mod wechat;
