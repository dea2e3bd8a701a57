//! The Date header: follows the simulated clock, with an optional skew.

use std::sync::Mutex;

use hyper::header::HeaderValue;
use jiff::SignedDuration;

use super::lock;

/// Produces the Date header of every response.
#[derive(Debug)]
pub(super) struct DateHeader {
    state: Mutex<DateHeaderState>,
}

#[derive(Debug)]
struct DateHeaderState {
    skew_ms: i64,
    omitted: bool,
    /// UNIX second and value of the last header. Formatting it for every response is too slow under load.
    last: Option<(i64, HeaderValue)>,
}

impl DateHeader {
    pub(super) fn new(skew: SignedDuration, omitted: bool) -> Self {
        DateHeader { state: Mutex::new(DateHeaderState { skew_ms: skew_ms(skew), omitted, last: None }) }
    }

    /// Sends the header from now on, this far ahead of the simulated clock.
    pub(super) fn set_skew(&self, skew: SignedDuration) {
        let mut state = lock(&self.state);
        (state.skew_ms, state.omitted) = (skew_ms(skew), false);
    }

    /// Stops sending the header.
    pub(super) fn omit(&self) {
        lock(&self.state).omitted = true;
    }

    /// None if the header is omitted.
    pub(super) fn at(&self, now_ms: i64) -> Option<HeaderValue> {
        let mut state = lock(&self.state);
        if state.omitted {
            return None;
        }
        let second = now_ms.saturating_add(state.skew_ms).div_euclid(1_000);
        match &state.last {
            Some((last, header)) if *last == second => Some(header.clone()),
            _ => {
                let header = http_date(second)?;
                state.last = Some((second, header.clone()));
                Some(header)
            }
        }
    }
}

fn skew_ms(skew: SignedDuration) -> i64 {
    i64::try_from(skew.as_millis()).unwrap_or(0)
}

fn http_date(second: i64) -> Option<HeaderValue> {
    let moment = jiff::Timestamp::from_second(second).ok()?;
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&moment).ok()?;
    HeaderValue::from_str(&date).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_331_551_999;

    #[test]
    fn date_follows_clock_and_skew() {
        let date = DateHeader::new(SignedDuration::ZERO, false);
        assert_eq!(date.at(NOW).unwrap(), "Sun, 22 Nov 2026 07:12:31 GMT");
        assert_eq!(date.at(NOW + 1).unwrap(), "Sun, 22 Nov 2026 07:12:32 GMT");
        date.set_skew(SignedDuration::from_secs(-32));
        assert_eq!(date.at(NOW + 1).unwrap(), "Sun, 22 Nov 2026 07:12:00 GMT");
        date.omit();
        assert_eq!(date.at(NOW), None);
    }
}
