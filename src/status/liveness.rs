//! Whether the daemon makes progress, as the watchdog last found it.

use std::sync::{Mutex, PoisonError};

use crate::domain::progress::Stall;

/// The parts of the daemon that make no progress. None at the start.
#[derive(Debug, Default)]
pub struct Liveness(Mutex<Vec<Stall>>);

impl Liveness {
    /// What stalls now, as one line for a person, or `None` if everything makes progress.
    pub fn problem(&self) -> Option<String> {
        let stalls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let list: Vec<String> = stalls.iter().map(Stall::to_string).collect();
        (!list.is_empty()).then(|| format!("Polling has stalled: {}", list.join("; ")))
    }

    /// Replaces what stalls, and returns what stalled before.
    pub(crate) fn replace(&self, stalls: Vec<Stall>) -> Vec<Stall> {
        std::mem::replace(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), stalls)
    }
}
