//! Parses the `Retry-After` header (RFC 9110, section 10.2.3) of WeChat and of webhook receivers.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};

/// How long to wait before the next request. The value is a number of seconds or a date; a date in the past gives zero.
/// Any other value gives `None`.
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTimeParser::new().parse_timestamp(value).ok()?;
    Some(Duration::try_from(until.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_parsed() {
        let now: Timestamp = "2026-11-22T07:22:45Z".parse().unwrap();
        let check = |value: &str, expected: Option<u64>| {
            assert_eq!(retry_after(value, now), expected.map(Duration::from_secs), "{value}");
        };
        check("7", Some(7));
        check(" 7 ", Some(7));
        check("Sun, 22 Nov 2026 07:23:00 GMT", Some(15));
        check("Sun, 22 Nov 2026 07:00:00 GMT", Some(0));
        check("soon", None);
        check("-1", None);
    }
}
