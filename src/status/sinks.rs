//! How deliveries to a sink go, as its dispatcher saw it last.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

/// One sink.
#[derive(Debug)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    row: Mutex<SinkRow>,
}

/// What is known of deliveries since the daemon was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkRow {
    /// When the sink last confirmed an event.
    pub last_delivery_at: Option<Timestamp>,
    /// What failed last, and when. Fit for the log.
    pub last_failure: Option<(Timestamp, String)>,
    /// Whether that was the last that was heard of the sink.
    pub is_failing: bool,
    /// Why the sink gets no more events until it is resumed, if it does not: also when the store could not be told yet.
    pub stopped: Option<String>,
}

impl SinkRow {
    /// The word for how deliveries go.
    pub fn state(&self) -> &'static str {
        match self {
            Self { stopped: Some(_), .. } => "stopped",
            Self { is_failing: true, .. } => "failing",
            _ => "delivering",
        }
    }
}

impl SinkStatus {
    /// Nothing has happened yet.
    pub fn new(name: String) -> Self {
        Self { name, row: Mutex::default() }
    }

    /// The sink confirmed events.
    pub fn delivered(&self, at: Timestamp) {
        self.row().last_delivery_at = Some(at);
    }

    /// The sink is there, whatever it makes of an event.
    pub fn answered(&self) {
        self.row().is_failing = false;
    }

    /// An attempt failed for the sink as a whole.
    pub fn failed(&self, at: Timestamp, reason: String) {
        let mut row = self.row();
        row.last_failure = Some((at, reason));
        row.is_failing = true;
    }

    /// The sink gets no more events until it is resumed, for this reason; or it gets them.
    pub fn set_stopped(&self, reason: Option<String>) {
        self.row().stopped = reason;
    }

    /// A copy of what is known.
    pub fn read(&self) -> SinkRow {
        self.row().clone()
    }

    fn row(&self) -> MutexGuard<'_, SinkRow> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
