//! Events of the log and how to select them.

use jiff::Timestamp;

use super::ids::{AccountId, LogPosition};
use crate::domain::event::EventType;

/// An event of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    pub id: LogPosition,
    /// Its kf account. Deliveries are in order within an account.
    pub account: AccountId,
    /// Its number among the account's events.
    pub sequence: u64,
    pub event_type: EventType,
    pub observed_at: Timestamp,
    /// The whole event as one line of JSON.
    pub json: String,
}

#[cfg(test)]
impl StoredEvent {
    /// An event with this JSON. Tests change what matters to them.
    pub(crate) fn sample(json: &str) -> Self {
        Self {
            id: LogPosition(1),
            account: AccountId(1),
            sequence: 1,
            event_type: EventType::SessionStarted,
            observed_at: Timestamp::UNIX_EPOCH,
            json: json.to_owned(),
        }
    }
}

/// Which events to read. An empty list selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only events after this one.
    pub after: LogPosition,
    /// Only events up to this one. Bounds how much of the log one read scans when few events match.
    pub until: Option<LogPosition>,
    /// Only events observed at this time or later.
    pub since: Option<Timestamp>,
    /// Only these kf accounts.
    pub accounts: Option<Vec<AccountId>>,
    /// Only official accounts with these names.
    pub official_accounts: Vec<String>,
    /// Only these event types.
    pub types: Vec<EventType>,
}

/// One page of the events that a filter selects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    pub events: Vec<StoredEvent>,
    /// The position up to which the log was scanned. A reader that passes it as the next `after` scans no event twice,
    /// however few match.
    pub next: LogPosition,
}
