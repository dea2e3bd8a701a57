//! Why an answer cannot be used.

use serde::Deserialize;

use super::scalar::{JsonText, errcode};

/// Why an answer cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum WireError {
    /// The answer has an errcode other than 0.
    Refused {
        /// The errcode.
        code: i64,
        /// The errmsg, unchanged.
        message: String,
    },
    /// The answer does not have the documented form.
    Malformed(String),
}

impl WireError {
    pub(super) fn refused(code: i64, errmsg: &str) -> Self {
        Self::Refused { code, message: errmsg.to_owned() }
    }

    /// Keeps only the position of a serde error: its text quotes the value, which may be an openid.
    pub(super) fn malformed(text: &str, error: &serde_json::Error) -> Self {
        use serde_json::error::Category;
        let what = match error.classify() {
            _ if text.trim().is_empty() => return Self::Malformed("an empty body".into()),
            _ if text.trim_start().starts_with('<') => {
                return Self::Malformed("HTML or XML, not JSON".into());
            }
            Category::Eof => "truncated JSON",
            Category::Syntax | Category::Io => "not JSON",
            Category::Data => "JSON that differs from the documentation",
        };
        Self::Malformed(format!("{what}, at line {} column {}", error.line(), error.column()))
    }
}

/// The refusal in an answer, whatever else the answer contains.
pub fn refusal(text: &str) -> Option<WireError> {
    let Verdict { errcode, errmsg } = serde_json::from_str(text).ok()?;
    (errcode != 0).then(|| WireError::refused(errcode, &errmsg.unwrap_or_default().0))
}

/// Fails if an answer is refused, or is no JSON object. The rest of the answer may still be malformed.
pub fn check_errcode(text: &str) -> Result<(), WireError> {
    let is_object = text.trim_start().starts_with('{');
    // Most answers have no errcode and need no parsing. A key may be written with escapes.
    if is_object && !text.contains("errcode") && !text.contains('\\') {
        return Ok(());
    }
    match serde_json::from_str(text) {
        Ok(Verdict { errcode: 0, .. }) => Ok(()),
        Ok(Verdict { errcode, errmsg }) => Err(WireError::refused(errcode, &errmsg.unwrap_or_default().0)),
        Err(error) => Err(WireError::malformed(text, &error)),
    }
}

#[derive(Deserialize)]
struct Verdict<'a> {
    #[serde(default, deserialize_with = "errcode")]
    errcode: i64,
    #[serde(default, borrow)]
    errmsg: Option<JsonText<'a>>,
}
