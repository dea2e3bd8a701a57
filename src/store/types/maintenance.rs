//! Types for pruning, the size limit, and whether writes succeed.

use std::{iter::Sum, ops::AddAssign};

use jiff::Timestamp;

use super::ids::LogPosition;

/// Failed transactions since the store was opened, and whether the last one succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteStats {
    pub failures: u64,
    /// Whether the last one was committed.
    pub last_succeeded: bool,
}

impl Default for WriteStats {
    /// Opening the store has written to it.
    fn default() -> Self {
        Self { failures: 0, last_succeeded: true }
    }
}

impl Sum for WriteStats {
    /// Of several stores.
    fn sum<I: Iterator<Item = Self>>(stats: I) -> Self {
        stats.fold(Self::default(), |sum, next| Self {
            failures: sum.failures + next.failures,
            last_succeeded: sum.last_succeeded && next.last_succeeded,
        })
    }
}

/// What [`prune`](super::super::Store::prune) removes.
#[derive(Clone, Copy, Debug)]
pub struct PruneLimits {
    /// Events observed before this time, if every configured sink has delivered them.
    pub events_before: Timestamp,
    /// Snapshots of accounts that have been unwatched since before this time.
    pub unwatched_before: Timestamp,
    /// Sinks removed before this time, with everything stored about them.
    pub sinks_before: Timestamp,
    /// Dead letters stored before this time.
    pub dead_letters_before: Timestamp,
    /// How many events, accounts or dead letters one transaction removes at most. Commits of polls wait for it.
    pub batch: usize,
}

/// How much was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub events: u64,
    pub snapshots: u64,
    pub sinks: u64,
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

/// The size to which [`prune_to_size`](super::super::Store::prune_to_size) prunes the store.
#[derive(Clone, Copy, Debug)]
pub struct SizeLimit {
    /// The used bytes of the store: without free pages and without the write-ahead log.
    pub bytes: u64,
    /// How many events one transaction removes at most. Commits of polls wait for it.
    pub batch: usize,
}

/// The outcome of one step of [`prune_to_size`](super::super::Store::prune_to_size).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SizePruneOutcome {
    /// The store is small enough.
    SmallEnough,
    /// A batch of events was removed.
    Removed { events: u64 },
    /// A sink still has to deliver the oldest event.
    Blocked { sink: String, cursor: LogPosition },
    /// There are no events to remove. The rest of the store is too large.
    NothingLeft,
}
