//! Accounts and the commits of their polls.

use jiff::Timestamp;

use super::ids::{AccountId, LogPosition};
use crate::domain::{
    account::{Account, AccountCondition, AccountState, Conclusion},
    clock::UnixMs,
    event::Change,
    snapshot::Snapshot,
    tracker,
};

/// What is stored about an account in addition to its sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountRecord {
    /// The state of which consumers received the last event.
    pub state: AccountState,
    pub conclusion: Option<Conclusion>,
    /// What is known about the answers that its sessions come from.
    pub last_seen: tracker::LastSeen,
}

impl AccountRecord {
    /// The record to store after a tracker update.
    pub fn after(update: &tracker::TrackerUpdate) -> Self {
        let condition = &update.condition;
        Self { state: condition.state, conclusion: condition.conclusion, last_seen: update.last_seen }
    }
}

/// An account as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAccount {
    pub id: AccountId,
    pub account: Account,
    pub record: AccountRecord,
    pub snapshot: Snapshot,
}

impl StoredAccount {
    /// The tracker that continues from what is stored.
    pub fn into_tracker(self) -> tracker::AccountTracker {
        tracker::AccountTracker {
            condition: AccountCondition::restored(self.record.state, self.record.conclusion),
            snapshot: self.snapshot,
            last_seen: self.record.last_seen,
            ..tracker::AccountTracker::default()
        }
    }
}

/// The result of registering accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisteredAccounts {
    /// The configured accounts, in the order given.
    pub configured: Vec<StoredAccount>,
    /// Accounts that are stored, not configured, and not yet reported as unwatched.
    pub left: Vec<StoredAccount>,
}

/// What one poll changed.
#[derive(Clone, Debug)]
pub struct PollCommit {
    pub id: AccountId,
    pub account: Account,
    pub changes: Vec<Change>,
    /// The account's record after the poll.
    pub record: AccountRecord,
}

impl PollCommit {
    /// When the account became unwatched, if it did.
    pub(in crate::store) fn unwatched_at(&self) -> Option<Timestamp> {
        self.changes.iter().rev().find_map(|change| match change {
            Change::StateChanged { transition, observed_at, .. }
                if transition.to == AccountState::Unwatched =>
            {
                Some(*observed_at)
            }
            _ => None,
        })
    }
}

/// The result of a commit that is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The newest event of the log at that time, of any account.
    pub last_event: LogPosition,
    /// The sequence of the account's newest event; 0 before its first.
    pub sequence: u64,
}

/// When an account was seen by a poll that changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSeenUpdate {
    pub id: AccountId,
    /// See [`tracker::LastSeen::listed_sent_at`]; `None` keeps the stored value.
    pub listed_sent_at: Option<UnixMs>,
    /// See [`tracker::LastSeen::last_success_at`]; `None` keeps the stored value.
    pub last_success_at: Option<UnixMs>,
}
