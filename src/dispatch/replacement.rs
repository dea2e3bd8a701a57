//! Hands a dispatcher the sink and the filter that replace its own while it runs.
//!
//! This is a slot, not a queue: a dispatcher executes a replacement only when no attempt is in flight, and a receiver that hangs
//! delays that. Whoever replaces must not wait for it, and only the newest replacement matters.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::{sink::Sink, store::EventFilter};

/// What a dispatcher uses from now on.
#[derive(Debug)]
pub(super) struct Replacement {
    pub(super) sink: Arc<Sink>,
    pub(super) filter: EventFilter,
    /// Whether the registration of these options has found the sink stopped.
    pub(super) is_stopped: bool,
}

/// The newest replacement that was not executed yet.
#[derive(Debug, Default)]
pub(super) struct ReplacementSlot {
    state: Mutex<SlotState>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct SlotState {
    newest: Option<Replacement>,
    is_closed: bool,
}

impl ReplacementSlot {
    /// Replaces a replacement that still waits. Does nothing if the slot is closed.
    pub(super) fn put(&self, replacement: Replacement) {
        let mut state = self.lock();
        if !state.is_closed {
            state.newest = Some(replacement);
            self.arrived.notify_one();
        }
    }

    /// Whether a replacement waits.
    pub(super) fn is_occupied(&self) -> bool {
        self.lock().newest.is_some()
    }

    /// Takes the replacement that waits.
    pub(super) fn take(&self) -> Option<Replacement> {
        self.lock().newest.take()
    }

    /// Returns when a replacement has arrived. Cancel safe.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Accepts no more replacements. One that waits stays.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::jsonl::{JsonlSink, JsonlTarget};

    fn replacement(name: &str) -> Replacement {
        let filter = EventFilter { official_accounts: vec![name.to_owned()], ..EventFilter::default() };
        let sink = Arc::new(Sink::Jsonl(Box::new(JsonlSink::new(JsonlTarget::Stdout))));
        Replacement { sink, filter, is_stopped: false }
    }

    #[tokio::test]
    async fn newest_replacement_remains_and_none_after_close() {
        let slot = ReplacementSlot::default();
        slot.put(replacement("first"));
        slot.put(replacement("second"));
        slot.close();
        slot.put(replacement("third"));
        slot.arrived().await;
        assert_eq!(slot.take().map(|taken| taken.filter.official_accounts), Some(vec!["second".to_owned()]));
        slot.put(replacement("fourth"));
        assert!(!slot.is_occupied());
    }
}
