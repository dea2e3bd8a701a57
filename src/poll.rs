//! One poll: fetch the sessions of one kf account, compare them with the snapshot, commit the difference.
//!
//! Scheduled polls, commands and the first poll after a restart use the same [`SessionFetcher`]; only the daemon's
//! [`Poller`] commits. A poll needs the account's [`PollGuard`], so that an account never has two polls in flight. After a
//! failure the thing that failed backs off ([`crate::domain::backoff`]). A poll that backs off calls nothing, but still
//! counts towards `blind`, unless the backoff follows a conclusive answer about the kf account. Nothing takes effect
//! before the store has committed it: when the store fails, the snapshot stays and the next poll finds the same
//! difference again.

mod backoff;
mod collector;
mod commits;
mod discovery;
mod fetch;
mod guard;
mod kf_list;
mod official_account;
mod outcome;
mod patterns;
mod poll_log;
mod poller;
mod report;
mod transfers;

pub use self::{
    discovery::RemovedAccount,
    fetch::SessionFetcher,
    guard::{NoGuard, PollGuard},
    official_account::OfficialAccount,
    outcome::PollOutcome,
    patterns::{AccountDiscovery, DiscoveryPatterns},
    poll_log::PollLog,
    poller::{PollLimits, Poller},
};
