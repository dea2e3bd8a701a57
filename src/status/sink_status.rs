//! The state of a sink and its last deliveries, as its dispatcher saw them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::domain::sink_state::SinkState;

/// What the dispatcher of one sink reports. Readers copy it.
#[derive(Debug)]
pub struct SinkStatus {
    /// The sink's name.
    pub name: String,
    activity: Mutex<SinkActivity>,
}

/// What happened to a sink since the daemon was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkActivity {
    /// Its state, as far as the dispatcher knows: the store may have suspended it a moment ago.
    pub state: SinkState,
    /// When it last acknowledged an event.
    pub last_delivery_at: Option<Timestamp>,
    /// When an attempt last failed for the sink as a whole, and why. Safe to log.
    pub last_failure: Option<(Timestamp, String)>,
}

impl SinkStatus {
    /// A sink that nothing was delivered to yet.
    pub fn new(name: String, state: SinkState) -> Self {
        Self { name, activity: Mutex::new(SinkActivity { state, ..SinkActivity::default() }) }
    }

    /// Records that the sink acknowledged events.
    pub fn record_delivery(&self, at: Timestamp) {
        self.activity().last_delivery_at = Some(at);
    }

    /// Records that the sink responded, even if it refused the event.
    pub fn record_response(&self) {
        let state = &mut self.activity().state;
        if let SinkState::Failing { .. } = state {
            *state = SinkState::Delivering;
        }
    }

    /// Records that an attempt failed for the sink as a whole.
    pub fn record_failure(&self, at: Timestamp, reason: String) {
        let mut activity = self.activity();
        activity.last_failure = Some((at, reason.clone()));
        // An attempt may fail after the sink was stopped.
        if !activity.state.is_stopped() {
            activity.state = SinkState::Failing { reason };
        }
    }

    /// Stops, suspends or resumes the sink.
    pub fn set_state(&self, state: SinkState) {
        self.activity().state = state;
    }

    /// Whether the sink receives nothing until it is resumed.
    pub fn is_stopped(&self) -> bool {
        self.activity().state.is_stopped()
    }

    /// Returns a copy.
    pub fn read(&self) -> SinkActivity {
        self.activity().clone()
    }

    fn activity(&self) -> MutexGuard<'_, SinkActivity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
