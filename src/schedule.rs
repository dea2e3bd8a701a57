//! When to poll: ticks of cron schedules, turned into polls that wait for their turn.
//!
//! tokio-cron-scheduler triggers the ticks ([`triggers`]). It may miss some: it follows a changed UTC offset only when
//! told, and stands still while a clock that was set back catches up. So each schedule has a [`ticker::Ticker`] that knows
//! from the same cron expressions when the next tick is due, serves it itself when no trigger came, and counts it.
//! Accounts of a tick go into one [`queue`], from which a bounded number of workers take them; an account that is
//! still there from the tick before is an overrun. What is asked for each official account as a whole has no cron
//! schedule but an interval ([`collectors`]).

pub mod collectors;
pub mod queue;
mod spread;
pub mod ticker;
pub mod triggers;
pub mod worker;
