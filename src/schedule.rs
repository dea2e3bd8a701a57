//! When to poll: turns the ticks of cron schedules into polls, and polls into calls.
//!
//! 1. tokio-cron-scheduler signals each tick ([`cron_jobs`]).
//! 2. Each schedule has a [`ticker`]. It computes from the same expressions when the next tick is due and starts its
//!    [`sweep`], even if no signal came: the scheduler misses ticks while a clock that went back catches up, and after a
//!    change of the UTC offset.
//! 3. The accounts of a tick enter one [`queue`], each at its offset in the spread. An account that is still there from the
//!    previous tick is an overrun.
//! 4. The [`workers`] take polls from the queue and make them.
//!
//! What is collected once per official account has an interval instead of a cron schedule ([`collectors`]).
//!
//! Official accounts come and go, and move between schedules, while all of this runs.

pub mod collectors;
pub mod cron_jobs;
pub mod queue;
pub mod spread_plan;
pub mod sweep;
pub mod ticker;
pub mod workers;
