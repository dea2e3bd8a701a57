//! Reads the event log with or without a running daemon. Takes no lock and changes nothing.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::Connection;

use super::{
    error::StoreError,
    sqlite::{accounts, connection, events},
    types::{AccountId, EventFilter, EventPage, LogPosition},
};
use crate::domain::account::Account;

/// A read-only view of the event log.
#[derive(Debug)]
pub struct EventLog {
    connection: Connection,
}

impl EventLog {
    /// Opens the log of an existing store. Rejects the same files as [`Store::open`](super::Store::open).
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { connection: connection::open_for_reading(path)? })
    }

    /// Returns a position before the events that were observed at `since` or later, without a scan of all events before
    /// it. In a large log, events observed while the clock was wrong by more than an hour may be before that position.
    pub fn before(&self, since: Timestamp) -> Result<LogPosition, StoreError> {
        events::position_before(&*self.connection.unchecked_transaction()?, since)
    }

    /// The kf accounts that may have events, also those that are no longer watched.
    pub fn accounts(&self) -> Result<Vec<(AccountId, Account)>, StoreError> {
        accounts::names(&self.connection)
    }

    /// The first matching events, at most `limit`, from one consistent view of the log.
    pub fn read(&self, filter: &EventFilter, limit: usize) -> Result<EventPage, StoreError> {
        events::read_matching(&*self.connection.unchecked_transaction()?, filter, limit)
    }
}
