//! Sinks: their cursors, states, backlogs, dead letters and missed events.

use std::ops::AddAssign;

use jiff::Timestamp;

use super::{events::StoredEvent, ids::LogPosition};
use crate::domain::sink_state::SinkState;

/// A configured sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkRegistration {
    pub name: String,
    /// Where a new sink starts.
    pub start: StartPosition,
    /// The destination, without secrets. A stopped sink resumes when it changes.
    pub destination: Option<String>,
}

/// Where in the log a new sink starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartPosition {
    /// With the first event committed after its registration.
    Now,
    /// With the oldest retained event.
    Beginning,
}

/// A sink after its registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredSink {
    /// The last event up to which it has acknowledged everything.
    pub cursor: LogPosition,
    /// Whether it is stopped or suspended; otherwise `Delivering`.
    pub state: SinkState,
}

/// A sink as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSink {
    pub name: String,
    /// When it was removed from the configuration.
    pub removed_at: Option<Timestamp>,
    /// Whether it is stopped or suspended; otherwise `Delivering`.
    pub state: SinkState,
    pub backlog: SinkBacklog,
    /// The newest run of events that it missed.
    pub missed: Option<MissedEvents>,
}

impl StoredSink {
    /// Adds what another shard has stored about the same sink.
    pub(crate) fn add(&mut self, other: Self) {
        let Self { state, backlog, missed, .. } = other;
        if state.is_stopped() && !self.state.is_stopped() {
            self.state = state;
        }
        self.backlog += backlog;
        let both = [self.missed, missed].into_iter().flatten();
        self.missed = both.max_by_key(|missed| missed.observed_between[1]);
    }
}

/// What a sink has not acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkBacklog {
    /// Events of the log after the cursor, selected by the sink's filter or not. The cursor passes events that the filter
    /// excludes as soon as everything before them is acknowledged.
    pub events: u64,
    /// When the first of them was observed.
    pub oldest: Option<Timestamp>,
    /// Dead letters that are stored.
    pub dead_letters: u64,
    /// Dead letters that were removed because of their age.
    pub expired_dead_letters: u64,
    /// Events of the log, selected by the filter or not, that were removed before the sink had acknowledged them.
    pub lost_events: u64,
}

impl AddAssign for SinkBacklog {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.oldest = [self.oldest, other.oldest].into_iter().flatten().min();
        self.dead_letters += other.dead_letters;
        self.expired_dead_letters = self.expired_dead_letters.max(other.expired_dead_letters);
        self.lost_events += other.lost_events;
    }
}

/// Consecutive events of the log that were removed before a sink had acknowledged them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissedEvents {
    pub events: u64,
    /// When the first and the last of them were observed.
    pub observed_between: [Timestamp; 2],
}

/// An event that a sink refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub sink: String,
    /// The whole event, because the log may prune it.
    pub event: StoredEvent,
    /// The sink's last response.
    pub reason: String,
    /// When it became a dead letter.
    pub died_at: Timestamp,
    /// Whether it is to be delivered again.
    pub retry: bool,
}

/// A cursor that was moved back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorRewind {
    /// The cursor now.
    pub cursor: LogPosition,
    /// How many events of the log it passes again, selected by the sink's filter or not.
    pub events: u64,
    /// When the first of them was observed.
    pub from: Option<Timestamp>,
}
