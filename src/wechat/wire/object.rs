//! A JSON object whose fields are parsed one by one, so that one odd field does not affect the others.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::{
    error::WireError,
    scalar::{JsonInteger, JsonText},
};

/// An object with unparsed fields.
pub(super) struct Object<'a>(HashMap<String, &'a RawValue>);

impl<'a> Object<'a> {
    /// A successful answer; one with an errcode is refused first.
    pub(super) fn from_answer(text: &'a str) -> Result<Self, WireError> {
        let answer: Self =
            serde_json::from_str(text).map(Self).map_err(|error| WireError::malformed(text, &error))?;
        match answer.raw("errcode").map(|_| answer.integer("errcode")) {
            None | Some(Some(0)) => Ok(answer),
            Some(Some(code)) => Err(WireError::refused(code, &answer.text("errmsg").unwrap_or_default())),
            Some(None) => Err(WireError::Malformed("an errcode that is not a number".into())),
        }
    }

    /// `None` for a value that is not an object.
    pub(super) fn from_value(value: &'a RawValue) -> Option<Self> {
        serde_json::from_str(value.get()).ok().map(Self)
    }

    /// A field that is neither absent nor null.
    pub(super) fn raw(&self, key: &str) -> Option<&'a RawValue> {
        self.0.get(key).copied().filter(|value| value.get() != "null")
    }

    /// A text that is not blank, trimmed.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        let JsonText(text) = serde_json::from_str(self.raw(key)?.get()).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    pub(super) fn integer(&self, key: &str) -> Option<i64> {
        let JsonInteger(value) = serde_json::from_str(self.raw(key)?.get()).ok()?;
        Some(value)
    }

    pub(super) fn count(&self, key: &str) -> Option<u64> {
        self.integer(key).and_then(|value| value.try_into().ok())
    }

    /// A time in UNIX seconds; WeChat writes 0 for no time.
    pub(super) fn time(&self, key: &str) -> Option<Timestamp> {
        let seconds = self.integer(key).filter(|seconds| *seconds > 0)?;
        Timestamp::from_second(seconds).ok()
    }

    pub(super) fn list(&self, key: &str) -> Option<Vec<&'a RawValue>> {
        serde_json::from_str(self.raw(key)?.get()).ok()
    }
}
