//! Strings and numbers as WeChat writes them: now and then one as the other.

use std::{borrow::Cow, fmt, time::Duration};

use serde::{Deserialize, Deserializer, de::Visitor};

/// A string, borrowed where it holds no escapes.
#[derive(Default, Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// An errcode, as [`errcode`] reads it.
pub(super) struct Errcode(pub(super) i64);

impl<'de> Deserialize<'de> for Errcode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        errcode(deserializer).map(Self)
    }
}

/// A whole number, as [`integer`] reads it.
pub(super) struct Integer(pub(super) i64);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        integer(deserializer).map(Self)
    }
}

/// An errcode; null is as good as absent.
pub(super) fn errcode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(IntegerVisitor { null: Some(0) })
}

/// A whole number, as number or as string.
pub(super) fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(IntegerVisitor { null: None })
}

/// A whole number of seconds.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = integer(deserializer)?;
    u64::try_from(seconds)
        .map(Duration::from_secs)
        .map_err(|_| serde::de::Error::custom("a negative duration"))
}

/// A whole number, as number or as string.
struct IntegerVisitor {
    /// What null stands for, if it is allowed.
    null: Option<i64>,
}

impl Visitor<'_> for IntegerVisitor {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number, or a string of one")
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<i64, E> {
        i64::try_from(value).map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<i64, E> {
        value.trim().parse().map_err(|_| E::custom("a string that is no whole number"))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<i64, E> {
        self.null.ok_or_else(|| E::custom("null"))
    }
}
