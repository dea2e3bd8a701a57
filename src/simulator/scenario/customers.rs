//! Customers in a scenario: how often they arrive, and how long they wait and stay.

use std::time::Duration;

use serde::Deserialize;

/// How customers come and go.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CustomerFlow {
    /// Sessions that are open at the start.
    pub initial: u32,
    /// The time between two arrivals. If absent, no customers arrive.
    pub gap: Option<RandomDuration>,
    /// The time in the queue.
    pub wait: RandomDuration,
    /// The time from acceptance to the end. If absent, customers never leave.
    pub stay: Option<RandomDuration>,
    /// The probability that an arriving customer is one who left recently.
    pub returning: f64,
}

/// A random time between `min` and `max`, exponentially distributed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomDuration {
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub mean: Duration,
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub min: Duration,
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub max: Duration,
}

impl Default for CustomerFlow {
    /// No customers.
    fn default() -> Self {
        CustomerFlow { initial: 0, gap: None, wait: RandomDuration::none(), stay: None, returning: 0.0 }
    }
}

impl RandomDuration {
    /// Always zero.
    pub const fn none() -> Self {
        RandomDuration { mean: Duration::ZERO, min: Duration::ZERO, max: Duration::ZERO }
    }
}
