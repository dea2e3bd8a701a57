//! The event log for reading, beside a daemon that may be running: takes no lock and changes nothing.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::Connection;

use super::{
    error::StoreError,
    sqlite::{self, events},
    types::{LogPosition, StoredEvent},
};
use crate::domain::event::EventType;

/// A read-only view of the event log.
#[derive(Debug)]
pub struct EventLog {
    connection: Connection,
}

/// Which events to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Those after this one.
    pub after: LogPosition,
    /// Those up to this one, so that a reader of few events does not look through the whole log at once.
    pub until: Option<LogPosition>,
    /// Those observed then or later.
    pub since: Option<Timestamp>,
    /// Those of one kf account, `kf_account` or `official_account/kf_account`, or of all of one `official_account`.
    pub account: Option<String>,
    /// Those of official accounts of these names; none given means all.
    pub official_accounts: Vec<String>,
    /// Those of these kinds; none given means all.
    pub types: Vec<EventType>,
}

/// Some of the events that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    /// The events, in the order of their ids.
    pub events: Vec<StoredEvent>,
    /// Everything up to here was looked at: with this as the next `after`, a reader that follows the log looks at no
    /// event twice, however few match.
    pub next: LogPosition,
}

impl EventLog {
    /// Opens the log of an existing store. Refuses the same files as [`Store::open`](super::Store::open).
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { connection: sqlite::open_for_reading(path)? })
    }

    /// Behind which event to begin in order to read those observed at a time or later, without a look at all that came before.
    /// In a large log, some of what was observed while the clock was wrong by more than an hour can be left out by that.
    pub fn before(&self, since: Timestamp) -> Result<LogPosition, StoreError> {
        events::before(&self.connection, since)
    }

    /// The first events that match, at most `limit`; one consistent view of the log.
    pub fn read(&self, filter: &EventFilter, limit: usize) -> Result<EventPage, StoreError> {
        events::read_matching(&self.connection, filter, limit)
    }
}
