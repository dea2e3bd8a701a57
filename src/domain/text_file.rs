//! Decodes the text files that people and other programs write: UTF-8, with or without a byte order mark, with lines that end
//! in LF or CR LF.

use std::borrow::Cow;

/// A file that is not text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotText {
    /// It begins with the byte order mark of UTF-16, as some Windows programs write it.
    #[error("is UTF-16; save it as UTF-8")]
    Utf16,
    /// A byte in this line is not UTF-8.
    #[error("is not UTF-8 in line {line}")]
    NotUtf8 {
        /// From 1.
        line: usize,
    },
}

/// The content without a byte order mark.
pub fn without_mark(content: &[u8]) -> Result<&[u8], NotText> {
    if content.starts_with(b"\xff\xfe") || content.starts_with(b"\xfe\xff") {
        return Err(NotText::Utf16);
    }
    Ok(content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content))
}

/// The text without a byte order mark, with lines that end in LF. A CR at the very end counts as the beginning of a CR LF.
pub fn decode(content: &[u8]) -> Result<Cow<'_, str>, NotText> {
    let content = without_mark(content)?;
    let text = str::from_utf8(content).map_err(|error| {
        let before = &content[..error.valid_up_to()];
        NotText::NotUtf8 { line: before.iter().filter(|byte| **byte == b'\n').count() + 1 }
    })?;
    let text = text.strip_suffix('\r').unwrap_or(text);
    Ok(if text.contains("\r\n") { text.replace("\r\n", "\n").into() } else { text.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_and_carriage_returns_are_not_part_of_the_text() {
        assert_eq!(decode(b"a\nb\n").unwrap(), "a\nb\n");
        assert_eq!(decode(b"\xef\xbb\xbfa\r\nb\r\n").unwrap(), "a\nb\n");
        assert_eq!(decode(b"a\r").unwrap(), "a");
        assert_eq!(decode(b"a\rb").unwrap(), "a\rb", "only at the end of a line");
    }

    #[test]
    fn other_encodings_are_named() {
        assert_eq!(decode(b"\xff\xfea\0").unwrap_err().to_string(), "is UTF-16; save it as UTF-8");
        assert_eq!(decode(b"\xfe\xff\0a").unwrap_err(), NotText::Utf16);
        assert_eq!(decode(b"a\nb\xa0").unwrap_err().to_string(), "is not UTF-8 in line 2");
    }
}
