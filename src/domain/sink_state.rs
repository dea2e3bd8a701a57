//! Whether a sink receives events, and if not, why.

/// Why a sink is stopped that an operator has stopped. It stays stopped, also if its destination changes, until it is resumed.
pub const BY_OPERATOR: &str = "by an operator";

/// The state of a sink. Shown by metrics, the page, `kfwatch sinks` and the log in the same words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SinkState {
    /// It receives events.
    #[default]
    Delivering,
    /// The last attempt failed for the sink as a whole. The dispatcher backs off and retries.
    Failing {
        /// What failed.
        reason: String,
    },
    /// It receives nothing until it is resumed, or delivers to another destination. The log keeps its events.
    Stopped {
        /// Why.
        reason: String,
    },
    /// It is stopped because it lagged most when the store had reached its size limit. The log does not keep its events.
    Suspended {
        /// Why.
        reason: String,
    },
}

impl SinkState {
    /// The word that metrics, pages and commands use.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Delivering => "delivering",
            Self::Failing { .. } => "failing",
            Self::Stopped { .. } => "stopped",
            Self::Suspended { .. } => "suspended",
        }
    }

    /// Why the sink receives nothing until it is resumed; `None` if it does.
    pub fn stop_reason(&self) -> Option<&str> {
        match self {
            Self::Stopped { reason } | Self::Suspended { reason } => Some(reason),
            Self::Delivering | Self::Failing { .. } => None,
        }
    }

    /// The state and its reason, for people.
    pub fn describe(word: &str, reason: &str) -> String {
        if reason == BY_OPERATOR { format!("{word} {reason}") } else { format!("{word}: {reason}") }
    }

    /// When to resume a sink that is stopped for this reason.
    pub fn when_to_resume(reason: &str) -> &'static str {
        if reason == BY_OPERATOR { "to deliver again" } else { "when this is fixed" }
    }

    /// Whether the sink receives nothing until it is resumed.
    pub fn is_stopped(&self) -> bool {
        self.stop_reason().is_some()
    }

    /// Combines the stored state with the dispatcher's. A stored stop wins: the dispatcher may not know of it yet. The
    /// dispatcher, in turn, may have stopped the sink while the store could not record it.
    #[must_use]
    pub fn with_dispatcher(self, dispatcher: Self) -> Self {
        if self.is_stopped() { self } else { dispatcher }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_stop_wins_over_dispatcher() {
        let reason = || "gone".to_owned();
        let suspended = SinkState::Suspended { reason: reason() };
        let stopped = SinkState::Stopped { reason: reason() };
        let failing = SinkState::Failing { reason: reason() };
        for (stored, dispatcher, combined) in [
            (&suspended, &stopped, &suspended),
            (&suspended, &SinkState::Delivering, &suspended),
            (&SinkState::Delivering, &stopped, &stopped),
            (&SinkState::Delivering, &failing, &failing),
        ] {
            assert_eq!(&stored.clone().with_dispatcher(dispatcher.clone()), combined);
        }
    }
}
