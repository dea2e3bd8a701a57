//! What the daemon knows at this moment: accounts, sinks and calls.
//!
//! Polls, collectors and dispatchers write here; metrics, pages and commands read. Nothing here calls WeChat or reads the
//! store.

mod account;
mod calls;
mod cluster;
mod label;
mod liveness;
mod sink_status;
mod table;

#[cfg(test)]
pub(crate) use self::account::unpolled;
pub(crate) use self::{
    account::PollSlot,
    cluster::{ReplicaStatus, Takeover},
};
pub use self::{
    account::{AccountView, AgentInfo, PollCounters, WatchedAccount},
    calls::CallCounters,
    cluster::ClusterStatus,
    label::{escaped, push_escaped},
    liveness::Liveness,
    sink_status::{SinkActivity, SinkStatus, SinkTable},
    table::{AccountTable, CollectorReadings, OfficialAccountList, OfficialAccountStatus},
};
