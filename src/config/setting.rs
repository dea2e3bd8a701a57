//! Reads single settings so that a mistake in one does not hide mistakes in others.
//!
//! serde stops at the first value of a wrong type and at the first unknown key. A [`Setting`] instead stores the problem of
//! its value, and a [`Section`] the unknown keys of its table, until `check` reports them with their locations. Values are
//! read strictly, while `config` would turn `5.9` into 6 and `true` into 1. Only text is accepted for numbers and booleans,
//! because environment variables are always text.

use std::time::Duration;

use config::{Value, ValueKind};
use jiff::{Span, SpanRelativeTo};
use secrecy::SecretString;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, Visitor};
use serde::forward_to_deserialize_any;

use super::mistake::quote_with;
use crate::domain::{
    characters::{self, is_invisible},
    secret_text::CARRIAGE_RETURN,
};

/// The value of one key.
#[derive(Default)]
pub(super) enum Setting<T> {
    #[default]
    Absent,
    Given(T),
    /// The problem and its remedy.
    Wrong(String),
}

/// A table with the keys of `T`.
#[derive(Default)]
pub(super) struct Section<T> {
    pub(super) keys: T,
    /// Keys that `T` does not have.
    pub(super) unknown: Vec<String>,
    /// The problem of a value that is not a table.
    pub(super) wrong: Option<String>,
}

/// A list of texts; a single text is a list of one.
pub(super) struct TextList(pub(super) Vec<String>);

/// How often something is done; `None` means "off".
pub(super) struct Interval(pub(super) Option<Duration>);

/// A type of values. Errors never show a value of type [`SecretString`].
pub(super) trait SettingValue: Sized {
    fn from_value(value: ValueKind) -> Result<Self, String>;
}

impl<T> Setting<T> {
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl<'de, T: SettingValue> Deserialize<'de> for Setting<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(T::from_value(value.kind).map_or_else(Self::Wrong, Self::Given))
    }
}

impl<'de, T: DeserializeOwned + Default> Deserialize<'de> for Section<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = match Value::deserialize(deserializer)?.kind {
            ValueKind::Table(table) => table,
            other => return Ok(Self { wrong: Some(expected("a table", &other)), ..Self::default() }),
        };
        let names = key_names::<T>();
        let (known, unknown): (Vec<_>, Vec<_>) =
            table.into_iter().partition(|(name, _)| names.contains(&name.as_str()));
        let known = Value::new(None, ValueKind::Table(known.into_iter().collect()));
        let keys = T::deserialize(known).map_err(D::Error::custom)?;
        Ok(Self { keys, unknown: unknown.into_iter().map(|(name, _)| name).collect(), wrong: None })
    }
}

impl SettingValue for String {
    fn from_value(value: ValueKind) -> Result<Self, String> {
        match value {
            ValueKind::String(text) if text.is_empty() => {
                Err("is empty; write a value, or remove the key".to_owned())
            }
            ValueKind::String(text) => check_visible(&text).map(|()| text),
            other => Err(expected("text in quotes", &other)),
        }
    }
}

impl SettingValue for SecretString {
    fn from_value(value: ValueKind) -> Result<Self, String> {
        match value {
            ValueKind::String(text) => {
                check_visible(&text).and_then(|()| check_half_width(&text)).map(|()| text.into())
            }
            other => Err(expected("text in quotes", &other)),
        }
    }
}

impl SettingValue for bool {
    fn from_value(value: ValueKind) -> Result<Self, String> {
        match value {
            ValueKind::Boolean(value) => Ok(value),
            ValueKind::String(text) => text.parse().map_err(|_| quote_with(&text, "is not true or false")),
            other => Err(expected("true or false", &other)),
        }
    }
}

impl SettingValue for i64 {
    fn from_value(value: ValueKind) -> Result<Self, String> {
        match value {
            ValueKind::I64(number) => Ok(number),
            ValueKind::String(text) => text.parse().map_err(|_| quote_with(&text, "is not a whole number")),
            other => Err(expected("a whole number", &other)),
        }
    }
}

/// Parses a duration such as `90s`, `1h 30m` or `7d`. Rejects months and years, which have no fixed length.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let duration =
        text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    duration.ok().and_then(|duration| Duration::try_from(duration).ok())
}

impl SettingValue for Duration {
    fn from_value(value: ValueKind) -> Result<Self, String> {
        match value {
            ValueKind::String(text) => {
                let problem = "is not a duration; write it like \"90s\", \"5m\" or \"1h 30m\"";
                parse_duration(&text).ok_or_else(|| quote_with(&text, problem))
            }
            ValueKind::I64(number) => Err(format!("is a number without a unit; write it like \"{number}s\"")),
            other => Err(expected("a duration in quotes, like \"90s\"", &other)),
        }
    }
}

impl SettingValue for Interval {
    fn from_value(value: ValueKind) -> Result<Self, String> {
        match value {
            ValueKind::String(text) if text == "off" => Ok(Self(None)),
            other => Duration::from_value(other)
                .map(|interval| Self(Some(interval)))
                .map_err(|e| e + ", or \"off\""),
        }
    }
}

impl SettingValue for TextList {
    fn from_value(value: ValueKind) -> Result<Self, String> {
        match value {
            ValueKind::Array(values) => values
                .into_iter()
                .map(|v| String::from_value(v.kind))
                .collect::<Result<_, _>>()
                .map(Self)
                .map_err(|e| format!("one element {e}")),
            other => String::from_value(other).map(|text| Self(vec![text])),
        }
    }
}

impl<T: DeserializeOwned + Default> SettingValue for Vec<Section<T>> {
    fn from_value(value: ValueKind) -> Result<Self, String> {
        match value {
            ValueKind::Array(tables) => tables
                .into_iter()
                .map(|table| Section::deserialize(table).map_err(|e| e.to_string()))
                .collect(),
            other => Err(expected("a list of tables, each under a heading in double brackets", &other)),
        }
    }
}

/// Checks that a value has no character that would stay invisible in a path, a name or a URL. The problem contains no part of
/// the value.
pub(super) fn check_visible(text: &str) -> Result<(), String> {
    if text.ends_with('\r') {
        return Err(CARRIAGE_RETURN.to_owned());
    }
    if text.contains('\n') {
        return Err(
            "has more than one line; write one line, or set the path of a file that contains the text"
                .to_owned(),
        );
    }
    let is_unwanted = |c: char| is_invisible(c) || c == char::REPLACEMENT_CHARACTER;
    let found = characters::find(text, is_unwanted);
    found.map_or(Ok(()), |found| Err(format!("contains {found}; remove it")))
}

/// Checks that a secret or a URL has no character that an input method typed in place of an ASCII character. The problem contains
/// no part of the value.
pub(super) fn check_half_width(text: &str) -> Result<(), String> {
    characters::find_non_ascii(text).map_or(Ok(()), |found| Err(format!("contains {found}")))
}

fn expected(what: &str, found: &ValueKind) -> String {
    let found = match found {
        ValueKind::Nil => "nothing",
        ValueKind::Boolean(_) => "true or false",
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => "a whole number",
        ValueKind::Float(_) => "a number with a fraction",
        ValueKind::String(_) => "text",
        ValueKind::Table(_) => "a table",
        ValueKind::Array(_) => "a list",
    };
    format!("is {found}; write {what}")
}

/// The names of the keys of `T`, as serde's derive knows them, so that no second list is needed.
pub(super) fn key_names<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // Always an error: it is only asked for its names.
    let _ = T::deserialize(NamesOnly(&mut names));
    names
}

struct NamesOnly<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for NamesOnly<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(Self::Error::custom("only the names were asked for"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("not a struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_needs_unit_of_fixed_length() {
        let parse = |text| parse_duration(text).map(|duration| duration.as_millis());
        for (text, seconds) in
            [("90s", 90), ("5m", 300), ("1h 30m", 5_400), ("30d", 2_592_000), ("2w", 1_209_600)]
        {
            assert_eq!(parse(text), Some(seconds * 1000), "{text}");
        }
        assert_eq!(parse("250ms"), Some(250));
        for text in ["", "5", "1 month", "1y", "-3s", "soon"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
