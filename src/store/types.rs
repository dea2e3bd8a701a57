//! What goes into the store and what comes out of it.
//!
//! Times are kept in whole milliseconds; finer ones are cut when they are stored.

mod sinks;

use std::ops::AddAssign;

use jiff::Timestamp;

pub use self::sinks::*;

use crate::domain::{
    account::{Account, AccountState, Conclusion},
    clock::UnixMs,
    event::{Change, EventType},
    snapshot::Snapshot,
    tracker,
};

/// The stored row of an account: stands for it in every later call, and is never given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(pub i64);

/// The place of an event in the log: ids rise in the order of commits and are never used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogPosition(pub i64);

impl LogPosition {
    /// Before the first event.
    pub const BEGINNING: Self = Self(0);
}

/// What is stored of an account beside its sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountRecord {
    /// The state as told to consumers.
    pub state: AccountState,
    /// The last conclusion.
    pub conclusion: Option<Conclusion>,
    /// What is known of the answers behind its sessions.
    pub last_seen: tracker::LastSeen,
}

impl AccountRecord {
    /// What is to be stored after a step.
    pub fn after(step: &tracker::TrackerUpdate) -> Self {
        Self { state: step.condition.state, conclusion: step.condition.conclusion, last_seen: step.last_seen }
    }
}

/// An account as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAccount {
    /// Its row.
    pub id: AccountId,
    /// Who it is.
    pub account: Account,
    /// What is known of it.
    pub record: AccountRecord,
    /// Its open sessions.
    pub snapshot: Snapshot,
}

/// What a registration of accounts found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisteredAccounts {
    /// The configured accounts, in the order given.
    pub configured: Vec<StoredAccount>,
    /// Accounts that are stored, not configured, and not yet announced as unwatched.
    pub left: Vec<StoredAccount>,
}

/// What one poll changed.
#[derive(Clone, Debug)]
pub struct PollCommit {
    /// The account's row.
    pub id: AccountId,
    /// The account.
    pub account: Account,
    /// What happened, in order.
    pub changes: Vec<Change>,
    /// What is known of the account from now on.
    pub record: AccountRecord,
}

/// A commit that is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The newest event of the log at the time, of whatever account.
    pub last_event: LogPosition,
    /// The sequence of the account's newest event; 0 before its first.
    pub sequence: u64,
}

/// A poll that changed nothing: when the account was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSeenUpdate {
    /// The account's row.
    pub id: AccountId,
    /// See [`tracker::LastSeen::listed_sent_at`]; `None` leaves what is stored.
    pub listed_sent_at: Option<UnixMs>,
    /// See [`tracker::LastSeen::last_success_at`]; `None` leaves what is stored.
    pub last_success_at: Option<UnixMs>,
}

/// An event of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place in the log.
    pub id: LogPosition,
    /// Whose event it is: deliveries are in order within an account.
    pub account: AccountId,
    /// Its number among the account's events.
    pub sequence: u64,
    /// Its kind.
    pub event_type: EventType,
    /// When it was observed.
    pub observed_at: Timestamp,
    /// The whole event as one line of JSON.
    pub json: String,
}

/// How writing goes since the store was opened, whatever was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writes {
    /// Transactions that failed.
    pub failures: u64,
    /// Whether the last one was committed.
    pub last_succeeded: bool,
}

impl Default for Writes {
    /// Opening the store has written to it.
    fn default() -> Self {
        Self { failures: 0, last_succeeded: true }
    }
}

/// What [`prune`](super::Store::prune) removes.
#[derive(Clone, Copy, Debug)]
pub struct PruneLimits {
    /// Events observed before, if every present sink has delivered them.
    pub events_before: Timestamp,
    /// Snapshots of accounts unwatched since before.
    pub unwatched_before: Timestamp,
    /// Sinks removed before, with all that is kept of them.
    pub sinks_before: Timestamp,
    /// Dead letters that died before.
    pub dead_letters_before: Timestamp,
    /// How many events, accounts or dead letters one transaction removes at most: commits of polls wait for it.
    pub batch: usize,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Events.
    pub events: u64,
    /// Snapshots of unwatched accounts.
    pub snapshots: u64,
    /// Removed sinks.
    pub sinks: u64,
    /// Dead letters.
    pub dead_letters: u64,
}

impl AddAssign for Pruned {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.snapshots += other.snapshots;
        self.sinks += other.sinks;
        self.dead_letters += other.dead_letters;
    }
}
