//! What is stored of sinks: how far each has confirmed, whether it is to get more, what it refused, and what it missed.

use jiff::Timestamp;

use super::{LogPosition, StoredEvent};

/// A configured sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkRegistration {
    /// Its name.
    pub name: String,
    /// Where it starts if it was not seen before.
    pub start: Start,
    /// Where it delivers to, without secrets: a sink that was stopped goes on when this changes.
    pub destination: Option<String>,
}

/// How a registered sink stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredSink {
    /// Up to where it has confirmed.
    pub cursor: LogPosition,
    /// Why it gets no more events, if it does not.
    pub stopped: Option<String>,
}

/// Where in the log a new sink starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first event committed after its registration.
    Now,
    /// With the oldest event that is retained.
    Beginning,
}

/// What a sink still has to deliver, and what it will not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// How many events of the log are behind the cursor, whether the sink wants them or not. It passes those that it
    /// does not want as soon as it has confirmed what comes before them.
    pub events: u64,
    /// When the first of them was observed.
    pub oldest: Option<Timestamp>,
    /// Events that it refused for good, and that are kept.
    pub dead_letters: u64,
    /// Of those that it refused for good, how many were removed for their age.
    pub expired_dead_letters: u64,
    /// How many events of the log, wanted by it or not, were removed before it had confirmed them.
    pub lost_events: u64,
    /// Whether it gets no more events until it is resumed.
    pub stopped: bool,
    /// Whether it is stopped because it was furthest behind when the log had reached its size.
    pub suspended: bool,
}

impl Pending {
    /// The word for a sink that gets no more events until it is resumed; `None` for one that does.
    pub fn halted(&self) -> Option<&'static str> {
        match self {
            Self { suspended: true, .. } => Some("suspended"),
            Self { stopped: true, .. } => Some("stopped"),
            _ => None,
        }
    }
}

/// A sink as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSink {
    /// Its name.
    pub name: String,
    /// Since when it is not configured any more.
    pub removed_at: Option<Timestamp>,
    /// Why it gets no more events, if it does not.
    pub stopped: Option<String>,
    /// What it has to deliver, and what it will not.
    pub pending: Pending,
    /// The newest events that it missed.
    pub gap: Option<Gap>,
}

/// Events next to each other in the log that were removed before a sink had confirmed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How many.
    pub events: u64,
    /// When the first and the last of them were observed.
    pub observed_between: [Timestamp; 2],
}

/// An event that a sink refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The sink.
    pub sink: String,
    /// The event, whole: the log may prune it.
    pub event: StoredEvent,
    /// What the sink said last.
    pub reason: String,
    /// When it was given up.
    pub died_at: Timestamp,
    /// Whether it is to be delivered once more.
    pub retry: bool,
}

/// How far a sink was moved back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewound {
    /// How many events of the log it passes once more, wanted by it or not.
    pub events: u64,
    /// When the first of them was observed.
    pub from: Option<Timestamp>,
}

/// To what size the event log is to be cut back, and how.
#[derive(Clone, Copy, Debug)]
pub struct RoomLimits {
    /// The size of the store in bytes, without what is free in its file and without its write-ahead log.
    pub bytes: u64,
    /// How many events one transaction removes at most: commits of polls wait for it.
    pub batch: usize,
}

/// What was done to make room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is enough.
    Enough,
    /// Events were removed, as many as fit into one transaction.
    Removed {
        /// How many.
        events: u64,
    },
    /// The oldest event is one that a sink still has to deliver.
    HeldBack {
        /// The sink that is furthest behind.
        sink: String,
        /// Up to where it has confirmed.
        cursor: LogPosition,
    },
    /// There are no events left to remove: what is too large is the rest of the store.
    NothingLeft,
}
