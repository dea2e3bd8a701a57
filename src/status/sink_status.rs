//! The state of a sink, its counters and its last deliveries, as its dispatcher saw them; and the table of all sinks.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::domain::sink_state::SinkState;

/// The status of all configured sinks, in the order of the configuration. Published as a whole.
#[derive(Debug, Default)]
pub struct SinkTable(watch::Sender<Arc<Vec<Arc<SinkStatus>>>>);

/// What the dispatchers of one sink report. Readers copy it.
#[derive(Debug)]
pub struct SinkStatus {
    /// The sink's name.
    pub name: String,
    delivered_events: AtomicU64,
    failed_attempts: AtomicU64,
    activity: Mutex<SinkActivity>,
}

/// What happened to a sink since its first dispatcher was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkActivity {
    /// Its state, as far as the dispatcher knows: the store may have suspended it a moment ago.
    pub state: SinkState,
    /// When it last acknowledged an event.
    pub last_delivery_at: Option<Timestamp>,
    /// When an attempt last failed for the sink as a whole, and why. Safe to log.
    pub last_failure: Option<(Timestamp, String)>,
}

impl SinkTable {
    /// The sinks at this moment.
    pub fn sinks(&self) -> Arc<Vec<Arc<SinkStatus>>> {
        Arc::clone(&self.0.borrow())
    }

    /// Replaces all sinks.
    pub fn publish(&self, sinks: Vec<Arc<SinkStatus>>) {
        self.0.send_replace(Arc::new(sinks));
    }

    /// Receives the sinks of each publication.
    pub fn changes(&self) -> watch::Receiver<Arc<Vec<Arc<SinkStatus>>>> {
        self.0.subscribe()
    }
}

impl SinkStatus {
    /// A sink that nothing was delivered to yet.
    pub fn new(name: String) -> Self {
        Self {
            name,
            delivered_events: AtomicU64::new(0),
            failed_attempts: AtomicU64::new(0),
            activity: Mutex::default(),
        }
    }

    /// Records that the sink acknowledged this number of events.
    pub fn record_delivery(&self, events: u64, at: Timestamp) {
        self.delivered_events.fetch_add(events, Ordering::Relaxed);
        self.activity().last_delivery_at = Some(at);
    }

    /// Counts an attempt that failed, because of the sink as a whole or of its events.
    pub fn count_failed_attempt(&self) {
        self.failed_attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// How many events the sink has acknowledged.
    pub fn delivered_events(&self) -> u64 {
        self.delivered_events.load(Ordering::Relaxed)
    }

    /// How many attempts have failed.
    pub fn failed_attempts(&self) -> u64 {
        self.failed_attempts.load(Ordering::Relaxed)
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
