//! Customers in a scenario: how often they arrive, how long they wait and stay.

use std::time::Duration;

use serde::Deserialize;

/// How customers come and go.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CustomerFlow {
    /// Sessions that are open at the start.
    pub initial: u32,
    /// Time between two arrivals; nobody arrives if absent.
    pub gap: Option<RandomDuration>,
    /// Time in the queue.
    pub wait: RandomDuration,
    /// Time from acceptance to the end; customers never leave if absent.
    pub stay: Option<RandomDuration>,
    /// Probability that an arriving customer is one who left recently.
    pub returning: f64,
}

/// A random time: an exponentially distributed one on top of the shortest, cut at the longest.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomDuration {
    /// The mean, but for what is cut.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub mean: Duration,
    /// The shortest.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub min: Duration,
    /// The longest.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub max: Duration,
}

impl Default for CustomerFlow {
    /// Nobody.
    fn default() -> Self {
        CustomerFlow { initial: 0, gap: None, wait: RandomDuration::none(), stay: None, returning: 0.0 }
    }
}

impl RandomDuration {
    /// Always no time at all.
    pub const fn none() -> Self {
        RandomDuration { mean: Duration::ZERO, min: Duration::ZERO, max: Duration::ZERO }
    }
}
