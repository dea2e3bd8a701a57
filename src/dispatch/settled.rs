//! Which events after the cursor are settled, so that those that are read again are not delivered again.
//!
//! The events of a kf account are settled in order, so one position for each kf account is enough. There are at most as many
//! positions as kf accounts, and none while everything up to the newest is settled. An event that an earlier filter excluded
//! counts as settled if a later one of its kf account is: its delivery would be out of order.

use std::collections::HashMap;

use crate::store::{AccountId, LogPosition, StoredEvent};

/// The newest settled event of each kf account.
#[derive(Debug, Default)]
pub(super) struct SettledEvents {
    newest: HashMap<AccountId, LogPosition>,
    /// The newest of all.
    last: LogPosition,
}

impl SettledEvents {
    /// Records that this event and all earlier ones of its kf account are settled.
    pub(super) fn record(&mut self, event: &StoredEvent) {
        let newest = self.newest.entry(event.account).or_default();
        *newest = event.id.max(*newest);
        self.last = event.id.max(self.last);
    }

    /// Whether the event is settled.
    pub(super) fn contains(&self, event: &StoredEvent) -> bool {
        self.newest.get(&event.account).is_some_and(|newest| event.id <= *newest)
    }

    /// Forgets all positions if the cursor has passed them: no event up to it is read again.
    pub(super) fn cursor_advanced(&mut self, cursor: LogPosition) {
        if self.last <= cursor {
            self.newest.clear();
        }
    }
}
