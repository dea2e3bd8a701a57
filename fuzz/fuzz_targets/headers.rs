//! The headers that kfwatch parses itself: `Retry-After` and `Date`.

#![no_main]

use jiff::Timestamp;
use kfwatch::domain::retry_after::retry_after;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(value) = std::str::from_utf8(input) else { return };
    for now in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
        retry_after(value, now);
    }
    jiff::fmt::rfc2822::parse(value).ok();
});
