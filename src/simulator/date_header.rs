//! The Date header: follows the simulated clock, with an optional skew.

use std::sync::Mutex;

use hyper::header::HeaderValue;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::{SignedDuration, Timestamp};

use super::lock;

/// Produces the Date header of every response.
#[derive(Debug)]
pub(super) struct DateHeader(Mutex<SignedDuration>);

impl DateHeader {
    pub(super) fn new(skew: SignedDuration) -> Self {
        DateHeader(Mutex::new(skew))
    }

    /// Sends the header this far ahead of the simulated clock from now on.
    pub(super) fn set_skew(&self, skew: SignedDuration) {
        *lock(&self.0) = skew;
    }

    /// None for a time that the header cannot express.
    pub(super) fn at(&self, now_ms: i64) -> Option<HeaderValue> {
        let date = Timestamp::from_millisecond(now_ms).ok()?.saturating_add(*lock(&self.0)).ok()?;
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&date).ok()?;
        HeaderValue::from_str(&date).ok()
    }
}
