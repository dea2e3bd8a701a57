//! What kfwatch is about, without the world: accounts, snapshots, their difference, events, transfers, holds, streaks
//! of failures, progress, and what servers ask for by `Retry-After`.
//!
//! Everything here is pure and synchronous: no clock is read, nothing is fetched or stored, and what cannot be
//! expressed cannot fail. Time comes in as an argument ([`clock::Moment`]), so that a day can be rehearsed in a
//! second. The rest of the program depends on this module; it depends on nothing of ours.

pub mod account;
pub mod agents;
pub mod backoff;
pub mod clock;
pub mod collector_intervals;
pub mod cron;
pub mod diff;
pub mod endpoint;
pub mod errcode;
pub mod error_class;
pub mod event;
pub mod failure_streak;
pub mod progress;
pub mod remedy;
pub mod retry_after;
pub mod sink_state;
pub mod snapshot;
pub mod spread;
pub mod tracker;
pub mod transfer;
