//! Settings of the process that belong to no part of the daemon: a reload changes them through functions of the caller.

use std::{fmt, time::Duration};

use crate::config::LogConfig;

/// Changes level and format of the log.
type SetLog = Box<dyn Fn(&LogConfig) -> Result<(), String> + Send + Sync>;

/// Changes settings of the process. The default changes nothing.
pub struct ProcessSettings {
    /// Changes level and format of the log, or says why that is not possible and changes nothing.
    pub log: SetLog,
    /// Changes how long a drain may take before the process ends anyway.
    pub shutdown_timeout: Box<dyn Fn(Duration) + Send + Sync>,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        Self { log: Box::new(|_| Ok(())), shutdown_timeout: Box::new(|_| {}) }
    }
}

impl fmt::Debug for ProcessSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessSettings").finish_non_exhaustive()
    }
}
