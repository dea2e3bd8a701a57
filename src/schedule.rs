//! When to poll.

pub mod cron;
