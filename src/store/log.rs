//! What the event log is like, whichever backend has it.
//!
//! Ids have no gaps other than those of restores, after which they continue at the beginning of a block: a commit that fails returns
//! its ids, and only the oldest events are pruned. So the events between two ids can be counted without reading them.
//!
//! Ids nearly follow time. So a position before a time is found by probing one event in each [`STRIDE`], until one is late enough. A
//! probe that finds the clock set back says nothing about the events before it. The search misses what happens within one stride: a
//! clock that was ahead by more than [`OUT_OF_ORDER_MS`], or one that was set back by as much and is still ahead of the probe before.

/// After a restore, ids continue at the beginning of a block of so many: more than a store has events in all its life.
pub(super) const BLOCK: i64 = 1_000_000_000;

/// The distance of two ids that are probed in search of a time: ten million events with a thousand probes.
pub(super) const STRIDE: i64 = 10_000;

/// A log with fewer events is scanned whole, which takes no noticeable time.
pub(super) const SMALL_LOG: u64 = 100_000;

/// How much times may be out of order in the log: polls are not committed in the order of their answers, and clocks are
/// set.
pub(super) const OUT_OF_ORDER_MS: i64 = 3_600_000;

/// The first id of the next block.
pub(super) fn next_block(id: i64) -> i64 {
    (id / BLOCK + 1) * BLOCK
}
