//! Decodes the text files that people and other programs write: UTF-8, with or without a byte order mark, with lines that end
//! in LF or CR LF.

use std::borrow::Cow;
use std::path::Path;

use super::shell;

/// A file that is not text in UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotText {
    /// UTF-16, as some Windows programs write it.
    #[error("is UTF-16; save it as UTF-8")]
    Utf16 {
        /// The name that iconv knows it by, which tells whether the file has a byte order mark.
        encoding: &'static str,
    },
    /// Every character outside of ASCII can be GBK, as editors in China may save it.
    #[error("is not UTF-8 but probably GBK, in line {line}; save it as UTF-8")]
    Gbk {
        /// Of the first such character, from 1.
        line: usize,
    },
    /// A byte in this line is not UTF-8.
    #[error("is not UTF-8 in line {line}")]
    NotUtf8 {
        /// From 1.
        line: usize,
    },
}

impl NotText {
    /// The problem of the file at this path, with the commands that convert it. They keep its owner, its mode and a copy of it.
    pub fn with_conversion(&self, path: &Path) -> String {
        let (problem, encoding) = match self {
            Self::Utf16 { encoding } => ("is UTF-16".to_owned(), encoding),
            Self::Gbk { line } => (format!("is not UTF-8 but probably GBK, in line {line}"), &"GBK"),
            Self::NotUtf8 { .. } => return self.to_string(),
        };
        let [old, path] = [format!(".{}", encoding.to_lowercase()), String::new()]
            .map(|suffix| shell::quoted(&format!("{}{suffix}", path.display())).into_owned());
        format!("{problem}; convert it: cp {path} {old} && iconv -f {encoding} -t UTF-8 {old} > {path}")
    }
}

/// The content without a byte order mark.
pub fn without_mark(content: &[u8]) -> Result<&[u8], NotText> {
    match utf16(content) {
        Some(encoding) => Err(NotText::Utf16 { encoding }),
        None => Ok(content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content)),
    }
}

/// The name of the UTF-16 that this is.
fn utf16(content: &[u8]) -> Option<&'static str> {
    if content.starts_with(b"\xff\xfe") || content.starts_with(b"\xfe\xff") {
        return Some("UTF-16");
    }
    // Without a mark: in ASCII text every other byte is null, and no other text has null bytes.
    let nulls = |first: usize| content.iter().skip(first).step_by(2).filter(|byte| **byte == 0).count();
    let [even, odd] = [nulls(0), nulls(1)];
    (even.max(odd) * 4 > content.len()).then_some(if odd > even { "UTF-16LE" } else { "UTF-16BE" })
}

/// Whether each byte outside of ASCII is a part of a character of GBK.
fn is_gbk(content: &[u8]) -> bool {
    let mut bytes = content.iter();
    while let Some(byte) = bytes.next() {
        let is_character = match byte {
            0..=0x7f => true,
            0x81..=0xfe => bytes.next().is_some_and(|second| matches!(second, 0x40..=0x7e | 0x80..=0xfe)),
            _ => false,
        };
        if !is_character {
            return false;
        }
    }
    true
}

/// The text without a byte order mark, with lines that end in LF. A CR at the very end counts as the beginning of a CR LF.
pub fn decode(content: &[u8]) -> Result<Cow<'_, str>, NotText> {
    let content = without_mark(content)?;
    let text = str::from_utf8(content).map_err(|error| {
        let before = &content[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        if is_gbk(content) { NotText::Gbk { line } } else { NotText::NotUtf8 { line } }
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
        assert_eq!(decode(b"\xfe\xff\0a").unwrap_err(), NotText::Utf16 { encoding: "UTF-16" });
        assert_eq!(decode(b"a\0=\0").unwrap_err(), NotText::Utf16 { encoding: "UTF-16LE" });
        assert_eq!(decode(b"\0a\0=").unwrap_err(), NotText::Utf16 { encoding: "UTF-16BE" });
        assert_eq!(decode(b"secret\0").unwrap(), "secret\0");
        assert_eq!(decode(b"# \xb5\xea\n").unwrap_err(), NotText::Gbk { line: 1 });
        assert_eq!(decode(b"a\nb\xa0").unwrap_err().to_string(), "is not UTF-8 in line 2");
    }
}
