//! Text that came from a peer: an errmsg, a response body, an error of a server or of a library that quotes one, a name in a
//! certificate.
//!
//! A peer chooses such text, so it could clear a terminal, forge lines of the log, or fill the disk. [`PeerText`] can only
//! be built sanitized and truncated. Everything that keeps or shows a peer's text uses it.

use std::{fmt, ops::Deref};

use super::characters::is_invisible;

/// The longest text, in bytes, without the mark of a truncated text.
const MAX_BYTES: usize = 512;

/// The last character of a truncated text.
const TRUNCATED: char = '…';

/// One line of visible text, at most [`MAX_BYTES`] long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PeerText(Box<str>);

impl PeerText {
    /// Sanitizes and truncates a text.
    pub fn new(text: &str) -> Self {
        Self::with_limit(text, MAX_BYTES)
    }

    /// Truncates it to this number of bytes.
    pub fn with_limit(text: &str, max_bytes: usize) -> Self {
        let text = text.trim();
        let kept = &text[..text.floor_char_boundary(max_bytes)];
        let mut line = sanitized(kept);
        if kept.len() < text.len() {
            line.push(TRUNCATED);
        }
        Self(line.into())
    }

    /// Replaces bytes that are not UTF-8.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        // The conversion takes memory for the whole text.
        let beginning = &bytes[..bytes.len().min(MAX_BYTES + 4)];
        Self::new(&String::from_utf8_lossy(beginning))
    }
}

/// Replaces each invisible character by a space, so that the text is one line.
pub fn sanitized(text: &str) -> String {
    text.chars().map(|c| if is_invisible(c) { ' ' } else { c }).collect()
}

impl Deref for PeerText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for PeerText {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for PeerText {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl From<PeerText> for String {
    fn from(text: PeerText) -> Self {
        text.0.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn peer_cannot_forge_lines_or_control_a_terminal() {
        let forged = PeerText::new("no\r\n2026-11-22 ERROR forged\u{1b}[2J\u{9b}2J\u{202e}txt\u{2028}end\n");
        assert_eq!(&*forged, "no  2026-11-22 ERROR forged [2J 2J txt end");
    }

    #[test]
    fn long_text_is_truncated_at_a_character() {
        assert_eq!(&*PeerText::with_limit("abcdef", 6), "abcdef");
        assert_eq!(&*PeerText::with_limit("abcdefg", 6), "abcdef…");
        assert_eq!(&*PeerText::with_limit("小小小", 8), "小小…");
        assert_eq!(PeerText::new(&"x".repeat(1 << 20)).len(), MAX_BYTES + TRUNCATED.len_utf8());
        assert_eq!(&*PeerText::from_bytes(b"a\xffb"), "a\u{fffd}b");
        assert!(PeerText::from_bytes(&[b'x'; 2000]).ends_with("x…"));
    }

    proptest! {
        #[test]
        fn any_text_is_visible_and_bounded(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            let text = PeerText::from_bytes(&bytes);
            prop_assert!(!text.contains(is_invisible));
            prop_assert!(text.len() <= MAX_BYTES + TRUNCATED.len_utf8());
        }
    }
}
