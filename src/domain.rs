//! The rules of kfwatch, without I/O: accounts, snapshots, diffs, events, transfers, backoff, failure streaks, progress,
//! leases.
//!
//! Everything here is pure and synchronous. Nothing reads a clock, fetches or stores; the time is an argument
//! ([`clock::Moment`]), so that a test can simulate a day in a second. All other modules may use this one; it uses none of
//! them.

pub mod account;
pub mod account_filter;
pub(crate) mod active_backoff;
pub mod agents;
pub mod backoff;
pub mod characters;
pub mod clock;
pub(crate) mod closest;
pub mod collector_intervals;
pub mod cron;
pub mod diff;
pub mod endpoint;
pub mod errcode;
pub mod error_class;
pub mod event;
pub(crate) mod failure_reason;
pub mod failure_streak;
pub mod language;
pub mod lease;
pub mod local_time;
pub mod openid;
pub mod peer_text;
pub mod plan;
pub mod progress;
pub mod quantity;
pub mod rebalance;
pub mod remedy;
pub mod retry_after;
pub mod schedule_key;
pub mod secret_text;
pub mod shard;
pub mod shared_token;
pub mod shell;
pub mod sink_state;
pub mod snapshot;
pub mod spread;
pub mod text_file;
pub mod tracker;
pub mod transfer;
