//! The Date header: follows the simulated clock, with an optional skew.

use std::sync::Mutex;

use hyper::header::HeaderValue;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::{SignedDuration, Timestamp};

use super::lock;

/// Produces the Date header of every response. None while the header is omitted.
#[derive(Debug)]
pub(super) struct DateHeader(Mutex<Option<SignedDuration>>);

impl DateHeader {
    pub(super) fn new(skew: SignedDuration, omitted: bool) -> Self {
        DateHeader(Mutex::new((!omitted).then_some(skew)))
    }

    /// Sends the header this far ahead of the simulated clock from now on. With None, no header is sent.
    pub(super) fn set_skew(&self, skew: Option<SignedDuration>) {
        *lock(&self.0) = skew;
    }

    /// None if the header is omitted.
    pub(super) fn at(&self, now_ms: i64) -> Option<HeaderValue> {
        let skew = (*lock(&self.0))?;
        let date = Timestamp::from_millisecond(now_ms).ok()?.saturating_add(skew).ok()?;
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&date).ok()?;
        HeaderValue::from_str(&date).ok()
    }
}
