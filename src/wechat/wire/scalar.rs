//! Strings and numbers as WeChat writes them: sometimes a number comes as a string.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, de::Visitor};

/// A string, borrowed if it contains no escapes.
#[derive(Default, Deserialize)]
pub(super) struct JsonText<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// An errcode, as [`errcode`] reads it.
#[derive(Deserialize)]
pub(super) struct JsonErrcode(#[serde(deserialize_with = "errcode")] pub(super) i64);

/// A whole number, as [`integer`] reads it.
#[derive(Deserialize)]
pub(super) struct JsonInteger(#[serde(deserialize_with = "integer")] pub(super) i64);

/// Reads an errcode; null means the same as absent.
pub(super) fn errcode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(IntegerVisitor { null: Some(0) })
}

/// Reads a whole number, written as number or string.
pub(super) fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(IntegerVisitor { null: None })
}

struct IntegerVisitor {
    /// The value of null, if null is allowed.
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
        value.trim().parse().map_err(|_| E::custom("a string that is not a whole number"))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<i64, E> {
        self.null.ok_or_else(|| E::custom("null"))
    }
}
