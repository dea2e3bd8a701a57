//! The token of a component, as the replicas of a cluster share it.

use std::time::Duration;

/// What replicas share about the token of a component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedToken {
    /// How many tokens there were.
    pub generation: i64,
    /// The last one, and the time since it was published.
    pub newest: Option<(SealedToken, Duration)>,
    /// The time since a replica last claimed a fetch.
    pub claimed_ago: Option<Duration>,
    /// Whether that replica is still fetching.
    pub is_claimed: bool,
}

/// A token that only replicas can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedToken {
    /// The token, encrypted.
    pub sealed: String,
    /// How long it was valid when it was published.
    pub lifetime: Duration,
}
