//! Converts values to columns and back. A column that cannot be converted is damaged.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    domain::{
        account::{AccountState, Conclusion},
        event::EventType,
    },
    store::error::StoreError,
};

pub(super) fn time(ms: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_millisecond(ms).map_err(|error| StoreError::corrupt(format!("a time: {error}")))
}

pub(super) fn optional_time<T: From<Timestamp>>(ms: Option<i64>) -> Result<Option<T>, StoreError> {
    ms.map(|ms| time(ms).map(T::from)).transpose()
}

pub(super) fn ms(time: impl Into<Timestamp>) -> i64 {
    time.into().as_millisecond()
}

/// A time span from milliseconds. One that a clock set back made negative is none.
pub(super) fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}

pub(super) fn duration_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A limit of rows as SQL has it.
pub(super) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

pub(super) fn state(name: &str) -> Result<AccountState, StoreError> {
    AccountState::from_name(name).ok_or_else(|| StoreError::corrupt(format!("the state {name:?}")))
}

pub(super) fn conclusion(name: &str) -> Result<Conclusion, StoreError> {
    [Conclusion::Ok, Conclusion::Unbound, Conclusion::Invalid, Conclusion::ListedUnbound]
        .into_iter()
        .find(|conclusion| conclusion_name(*conclusion) == name)
        .ok_or_else(|| StoreError::corrupt(format!("the conclusion {name:?}")))
}

pub(super) fn conclusion_name(conclusion: Conclusion) -> &'static str {
    match conclusion {
        Conclusion::Ok => "ok",
        Conclusion::Unbound => "unbound",
        Conclusion::Invalid => "invalid",
        Conclusion::ListedUnbound => "listed_unbound",
    }
}

pub(super) fn event_type(code: i64) -> Result<EventType, StoreError> {
    EventType::ALL
        .into_iter()
        .find(|event_type| event_type_code(*event_type) == code)
        .ok_or_else(|| StoreError::corrupt(format!("the event type {code}")))
}

/// A number, because the index of all sessions' events contains the type.
pub(super) fn event_type_code(event_type: EventType) -> i64 {
    match event_type {
        EventType::SessionStarted => 1,
        EventType::SessionEnded => 2,
        EventType::StateChanged => 3,
    }
}
